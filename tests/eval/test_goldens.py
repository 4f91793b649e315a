"""`released` against what the published scripts did, recorded by running them on scripted replies.

Reads every file of a known kind in a folder: $ECHO4O_BENCH_GOLDENS, else the recorded ones.
"""

import base64
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from echo4o.client import Reply
from echo4o.eval import released
from echo4o.eval.authors_flags import authors_checklist
from echo4o.eval.cases import Case, chat_request, unasked
from echo4o.eval.pictures import load_reencoded
from echo4o.eval.protocols import JudgeProtocol
from echo4o.eval.tasks import get_task

pytestmark = pytest.mark.shared
PREFIXES = {"genevalpp": "geneval_plus_plus", "imagine": "imagine_bench"}
KINDS = {
    "genevalpp": ("messages", "explanations", "parse", "retries", "runs"),
    "imagine": ("messages", "parse", "retries", "runs"),
    "image": ("reencode",),
}
NO_CHOICES = "list index out of range"
"""What the script notes of a reply without choices; such a reply never gets past our client."""


@pytest.fixture(scope="module", autouse=True)
def benchmarks(shared):
    """The authors' items and wording, as if they had been fetched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHO4O_BENCHMARKS", str(shared / "benchmarks"))
        yield shared / "benchmarks"


@pytest.fixture(scope="module")
def folder(shared):
    chosen = os.environ.get("ECHO4O_BENCH_GOLDENS")
    return Path(chosen) if chosen else shared / "goldens" / "benchmarks" / "dev"


def files(folder, prefix, kind):
    """Every file of one kind: of that name, or of one that goes on from it."""
    return sorted(folder.rglob(f"{prefix}_{kind}*.json"))


def cases(folder, prefix, kind):
    """All cases of one kind; none where a folder of somebody's choice has no such file."""
    found = files(folder, prefix, kind)
    return [case for file in found for case in json.loads(file.read_text("utf-8"))["cases"]]


def test_no_file_goes_unread(folder):
    """Each file of the two tasks is read below, and there is one of each kind where all are due."""
    read = {kind: files(folder, *kind) for kind in ((p, k) for p in KINDS for k in KINDS[p])}
    known = {file for found in read.values() for file in found}
    assert known
    ours = {file for prefix in PREFIXES for file in folder.rglob(f"{prefix}_*.json")}
    assert ours <= known, "a file of a kind that no test here reads"
    if not os.environ.get("ECHO4O_BENCH_GOLDENS"):
        assert all(read.values())


def same(found, wanted):
    """Equality in which NaN is itself and 1, 1.0 and true are told apart."""
    assert json.dumps(found, sort_keys=True) == json.dumps(wanted, sort_keys=True)


def reply(entry):
    """A scripted reply as our client hands it on."""
    if isinstance(entry, dict):
        reason = NO_CHOICES if entry.get("empty_choices") else str(entry["raise"])
        return Reply(outcome="failed", reason=reason, model="judge")
    return Reply(outcome="done", text=entry, model="judge")


def settle(protocol, item, picture, script):
    """The verdict after as many replies of `script` as it takes; the last one repeats."""
    case = Case(item=item, path=Path(picture), protocol=protocol)
    for attempt in range(protocol.attempts):
        verdict = case.take(reply(script[min(attempt, len(script) - 1)]))
        if verdict is not None:
            return verdict
    raise AssertionError("a protocol never asks more often than it says")


def of_task(prefix):
    task = get_task(PREFIXES[prefix])
    protocol = task.protocol("released")
    assert isinstance(protocol, JudgeProtocol)
    return task, protocol, {item.number: item for item in task.items("authors").items}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_requests(folder, prefix):
    _, protocol, items = of_task(prefix)
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "JPEG")
    for case in cases(folder, prefix, "messages"):
        wanted, item = case["request"], items[case["id"]]
        asked = chat_request(protocol, item, picture.getvalue(), wanted["model"])
        body = json.loads(json.dumps(asked.body()))
        image = body["messages"][1]["content"][1]["image_url"]
        head, _, _ = image["url"].partition(",")
        image["url"] = f"{head},<IMAGE_BASE64>"
        assert body == wanted
        again = chat_request(protocol, item, picture.getvalue(), wanted["model"], 1)
        assert again.body() == asked.body()
        assert again.key != asked.key
        assert item.tag == case.get("tag", case.get("type"))
        if "explanation" in case:
            assert authors_checklist(item.to_json()) == case["explanation"]


def test_checklists(folder):
    for case in cases(folder, "genevalpp", "explanations"):
        assert authors_checklist(case["metadata"]) == case["explanation"]


def test_flag_replies(folder):
    _, protocol, items = of_task("genevalpp")
    for case in cases(folder, "genevalpp", "parse"):
        verdict = settle(protocol, items[1], "1.jpg", [case["reply"]])
        found = released.flag_result(verdict)["result"]
        assert (verdict.outcome == "judged") == case["ok"], case["reply_id"]
        if case["ok"]:
            same(found, case["parsed"])
            assert verdict.correct == case["counts_as_correct"], case["reply_id"]
        else:
            assert verdict.calls == 3
            assert verdict.reason == case["error"]
            assert found["correct"] == -1
            assert not verdict.correct


def test_mark_replies(folder):
    _, protocol, items = of_task("imagine")
    for case in cases(folder, "imagine", "parse"):
        verdict = settle(protocol, items[1], "1.jpg", [case["reply"]])
        assert released.point_result(verdict) == case["result"], case["reply_id"]
        marks = {one.expectation: one.points for one in verdict.findings}
        assert (marks or None) == case["scores"], case["reply_id"]
        assert verdict.calls == case["requests_made"]
        assert case["sleeps"] == [protocol.pause_s] * len(verdict.problems)


def test_flag_retries(folder):
    _, protocol, items = of_task("genevalpp")
    for case in cases(folder, "genevalpp", "retries"):
        item = items[case["item_id"]]
        if case.get("image_missing"):
            verdict = unasked(item, protocol, "missing", "none")
        else:
            verdict = settle(protocol, item, f"{item.number}.jpg", case["script"])
        same(released.flag_result(verdict), case["result"])
        assert verdict.calls == case["requests_made"]
        assert released.flag_retries(verdict) == case["stdout"]


def test_mark_retries(folder):
    _, protocol, items = of_task("imagine")
    for case in cases(folder, "imagine", "retries"):
        item = items[case["item_id"]]
        if case.get("image_unreadable"):
            # The script tries to read the file three times and sleeps; we know after once.
            verdict = unasked(item, protocol, "damaged", "no picture")
        else:
            verdict = settle(protocol, item, f"{item.number}.jpg", case["script"])
            assert case["sleeps"] == [protocol.pause_s] * len(verdict.problems)
        assert released.point_result(verdict) == case["result"]
        assert verdict.calls == case["requests_made"]


def run(prefix, case, name_of):
    """Verdicts on all items of the benchmark under one run's replies."""
    task, protocol, items = of_task(prefix)
    missing = set(case["missing_ids"])
    verdicts = [
        unasked(item, protocol, "missing", "none")
        if item.number in missing
        else settle(protocol, item, name_of(item.number), case["replies"][str(item.number)])
        for item in items.values()
    ]
    assert sum(verdict.calls for verdict in verdicts) == case["requests_made"]
    return task, list(items.values()), verdicts


def test_flag_runs(folder, tmp_path):
    for case in cases(folder, "genevalpp", "runs"):
        task, items, verdicts = run("genevalpp", case, "{}.jpg".format)
        scores = task.score(verdicts, "released")
        same(released.flags_results(verdicts, scores), case["output"])
        released.write_released(task.name, items, verdicts, scores, tmp_path)
        assert (tmp_path / "results.json").read_text() == json.dumps(case["output"], indent=2)
        assert (tmp_path / "report.txt").read_text("utf-8") == case["report_stdout"]


def test_mark_runs(folder, tmp_path):
    for case in cases(folder, "imagine", "runs"):
        endings = case["extension_rule"].rpartition("-> ")[2].split(",")

        def name_of(number, endings=endings):
            return f"{number}.{endings[number % len(endings)]}"

        task, items, verdicts = run("imagine", case, name_of)
        scores = task.score(verdicts, "released")
        full, marks = released.points_results(items, verdicts)
        assert full == case["full"]
        assert marks == case["scores"]
        released.write_released(task.name, items, verdicts, scores, tmp_path)
        assert (tmp_path / "report.txt").read_text("utf-8") == case["report_stdout"]
        wanted = json.dumps(case["scores"], indent=2, ensure_ascii=False)
        assert (tmp_path / "scores.json").read_text("utf-8") == wanted
        paper = task.score(verdicts, "paper").overall
        wanted = case.get("_nonupstream_overall_with_multi_object_weight_2")
        assert wanted is None or round(paper.score, 3) == wanted
        asleep = sum(len(verdict.problems) for verdict in verdicts)
        assert case["sleeps"] == asleep


def test_pictures(folder, tmp_path):
    """Bytes where this Pillow and libjpeg are the recorded ones; pixels to a grey level or two."""
    for case in cases(folder, "image", "reencode"):
        path = tmp_path / "1.jpg"
        path.write_bytes(base64.b64decode(case["input_base64"]))
        sent = load_reencoded(path).data
        wanted = base64.b64decode(case["output_jpeg_base64"])
        if sent != wanted:
            pixels = [np.asarray(Image.open(io.BytesIO(one)), np.int16) for one in (sent, wanted)]
            assert np.abs(pixels[0] - pixels[1]).max() <= 2, case["name"]
        with Image.open(io.BytesIO(sent)) as image:
            assert (image.format, list(image.size)) == ("JPEG", case["output_size"])
            assert not image.getexif()

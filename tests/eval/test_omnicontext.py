"""OmniContext as a task: asked through the real client, read, averaged, killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from eval_tools import bare_run
from PIL import Image
from tests_sandbox import image_api

from echo4o.cli import main
from echo4o.client import Reply
from echo4o.errors import Echo4oError
from echo4o.eval.buying import BuyConfig
from echo4o.eval.explain import explain
from echo4o.eval.fetch_more import TEXT_HASHES, find_texts
from echo4o.eval.generate import Wanted
from echo4o.eval.items import KIT
from echo4o.eval.judging import JudgeConfig, judge, make_cases
from echo4o.eval.omnicontext import EIGHT, SIX, read_row, score
from echo4o.eval.omnicontext_judges import ContextItem, as_jpeg
from echo4o.eval.report import write_report
from echo4o.eval.runs import load_run
from echo4o.eval.tasks import get_task
from echo4o.models.pictures import read_record
from echo4o.sandbox import world

TASK = get_task("omnicontext")
ITEMS = TASK.items("kit").items
GOOD = '{"score": 9, "reasoning": "r"}'


@pytest.fixture
def authors(shared, monkeypatch):
    monkeypatch.setenv("ECHO4O_BENCHMARKS", str(shared / "benchmarks"))


def paint(folder, items, side=64):
    folder.mkdir(parents=True, exist_ok=True)
    for item in items:
        world.paint(item.prompt, width=side, height=side, seed=1).save(
            folder / f"{item.number}.png"
        )
    return folder


def settle(protocol, item, replies, tmp_path):
    """The verdict of scripted replies, and the questions that were asked for them."""
    path = tmp_path / "1.png"
    Image.new("RGB", (32, 32)).save(path)
    case = make_cases([item], [{item.number: path}], protocol)[0]
    asked, verdict = [], None
    for said in replies:
        assert verdict is None, "asked on after the verdict"
        asked.append(case.request(b"picture", "judge"))
        given = said if isinstance(said, Reply) else Reply(outcome="done", text=said, model="m")
        verdict = case.take(given, str(len(asked)))
    assert verdict is not None, "no verdict after the last reply"
    return verdict, asked


@pytest.mark.shared
def test_the_question_is_the_authors(authors, shared):
    chosen = os.environ.get("ECHO4O_BENCH_GOLDENS")
    folder = Path(chosen) if chosen else shared / "goldens" / "benchmarks"
    files = sorted(folder.rglob("omnicontext_prompts*.json"))
    assert files or chosen
    protocol = TASK.protocol("released")
    for case in [case for file in files for case in json.loads(file.read_text("utf-8"))["cases"]]:
        tag = "scene_object" if case["with_scene"] else "single_object"
        item = ContextItem(number=1, tag=tag, prompt=case["instruction"])
        questions = {q.text for q in protocol.usual_questions(item)}
        assert case["prompt"] in questions


@pytest.mark.shared
def test_released_asks_six_times_and_the_last_of_each_counts(authors, tmp_path):
    low = '{"score": 4, "reasoning": "later"}'
    verdict, asked = settle(TASK.protocol("released"), ITEMS[0], [GOOD] * 4 + [low, GOOD], tmp_path)
    assert (verdict.outcome, verdict.points, verdict.calls) == ("judged", 6.0, 6)
    assert [one.points for one in verdict.findings] == [4, 9]
    assert len({one.key for one in asked}) == 6
    assert (asked[0].temperature, asked[0].max_tokens, asked[0].system) == (None, 1400, None)
    assert [type(part) for part in asked[0].user] == [str, bytes, bytes]  # text, reference, result


@pytest.mark.shared
def test_a_guess_is_named_and_the_same_again(authors, tmp_path):
    verdict, _ = settle(TASK.protocol("fork"), ITEMS[0], ["oops", GOOD] * 3, tmp_path)
    again, _ = settle(TASK.protocol("fork"), ITEMS[0], ["oops", GOOD] * 3, tmp_path)
    assert verdict.outcome == "unreadable"
    assert verdict.points == again.points
    assert verdict.findings[0].reason == "guess_if_cannot_parse | oops"
    stopped, _ = settle(TASK.protocol("fork"), ITEMS[0], ["{score: 7}", GOOD] * 3, tmp_path)
    assert (stopped.outcome, stopped.points) == ("unreadable", 0.0)
    assert "published script stops" in stopped.reason


@pytest.mark.shared
@pytest.mark.parametrize(
    ("replies", "outcome", "points"),
    [
        ([GOOD, '{"score": 4, "reasoning": ""}'], "judged", 6.0),
        (["no", GOOD, "no", "no", GOOD], "judged", 9.0),
        (["no", "no", '{"score": 11}'], "unreadable", 0.0),
        ([GOOD, Reply(outcome="refused", reason="no", model="m")], "refused", 0.0),
    ],
)
def test_strict_asks_again_only_what_cannot_be_read(authors, tmp_path, replies, outcome, points):
    verdict, asked = settle(TASK.protocol("strict"), ITEMS[0], replies, tmp_path)
    assert (verdict.outcome, verdict.points, verdict.is_left_out) == (outcome, points, False)
    assert all(one.temperature == 0 and one.json_schema for one in asked)


@pytest.mark.shared
def test_both_averages_always_stand_in_a_result(authors, tmp_path):
    protocol, verdicts = TASK.protocol("released"), []
    for item in ITEMS:
        mark = 4 if item.tag.startswith("single") else 9
        reply = json.dumps({"score": mark, "reasoning": ""})
        verdicts.append(settle(protocol, item, [reply] * 6, tmp_path)[0])
    released, fork = score(verdicts, "released"), score(verdicts, "fork")
    assert released.by_group == fork.by_group
    assert released.by_group[EIGHT].score == released.overall.score == pytest.approx(7.75)
    assert released.by_group[SIX].score == fork.overall.score == pytest.approx(9)
    assert released.by_group["prompt following, 8 types"].score == pytest.approx(7.75)
    foreign = replace(ITEMS[3], language="zh")
    left, _ = settle(protocol, foreign, [GOOD] * 6, tmp_path)
    assert left.is_left_out
    assert score([*verdicts, left], "released").overall.score == released.overall.score


@pytest.mark.shared
def test_explain_reads_the_replies_of_one_reading_in_the_others(authors, tmp_path):
    odd = "{score: 7, reasoning: not quoted}"
    several = next(item for item in ITEMS if item.tag == "multi_object")
    released, strict = TASK.protocol("released"), TASK.protocol("strict")
    verdicts = [
        settle(released, ITEMS[0], [GOOD] * 6, tmp_path)[0],
        settle(released, several, [GOOD, GOOD, "oops", GOOD, odd, GOOD], tmp_path)[0],
    ]
    lines = explain(bare_run(TASK.name, "released", verdicts))
    assert lines[1:4] == [
        "  released  4.5000 over 2 items",
        "  fork      0.0000 over 1 items",
        "  strict    9.0000 over 2 items",
    ]
    assert lines[4].startswith("  fork gives no weight to single_character, single_object")
    assert lines[-2] == "1 of 2 items count differently:"
    assert "released 0, fork 0, strict 9: released: prompt_following is {" in lines[-1]
    again = settle(strict, ITEMS[0], ["no", GOOD, "no", '{"score": 4}'], tmp_path)[0]
    lines = explain(bare_run(TASK.name, "strict", [again]))
    assert lines[-1] == "0 of 1 items count differently:"


def test_references_over_a_megapixel_are_made_smaller(tmp_path):
    Image.new("RGB", (1500, 1000)).save(tmp_path / "large.png")
    for shrink, size in ((True, (1248, 832)), (False, (1500, 1000))):
        data = as_jpeg(tmp_path / "large.png", shrink=shrink)
        (tmp_path / "as.jpg").write_bytes(data)
        with Image.open(tmp_path / "as.jpg") as image:
            assert (image.format, image.size) == ("JPEG", size)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "up.jpg").write_bytes(as_jpeg(tmp_path / "turned.jpg", shrink=False))
    with Image.open(tmp_path / "up.jpg") as image:
        assert image.size == (20, 40)


def test_a_run_on_the_sandbox(api, tmp_path, capsys):
    items = ITEMS[9:12]
    pictures = paint(tmp_path / "pictures", items)
    words = ["eval", "judge", "omnicontext", "--images", str(pictures), "--judge", "sandbox-judge"]
    main([*words, "--limit", "24", "--out", str(tmp_path / "run"), "--no-canary"])
    said = capsys.readouterr().out
    assert EIGHT in said
    assert SIX in said
    assert "3 judged, 21 missing" in said
    run = load_run(tmp_path / "run")
    marks = {one.number: [f.points for f in one.findings] for one in run.verdicts if one.findings}
    assert marks == {item.number: [10, 10] for item in items}
    main([*words, "--limit", "24", "--out", str(tmp_path / "run"), "--no-canary"])
    assert "0 calls now" in capsys.readouterr().out


@pytest.mark.shared
def test_pictures_in_the_benchmarks_own_folders(api, authors, tmp_path, monkeypatch):
    for item in ITEMS[:2]:
        folder = tmp_path / "made" / item.tag
        folder.mkdir(parents=True, exist_ok=True)
        picture = world.paint(item.prompt, width=64, height=64, seed=1)
        picture.resize((1024, 1024), Image.Resampling.NEAREST).save(folder / f"{item.name}.png")
    words = ["eval", "judge", "omnicontext", "--images", str(tmp_path / "made"), "--limit", "24"]
    words += ["--judge", "sandbox-judge", "--protocol", "released", "--out", str(tmp_path / "run")]
    main(words)
    run = load_run(tmp_path / "run")
    assert [one.outcome for one in run.verdicts[:3]] == ["judged", "judged", "missing"]
    assert run.calls == 12
    kept = json.loads((tmp_path / "run" / "released" / "statistics.json").read_text())
    assert kept["by_type"]["single_character"]["overall"] >= 0
    assert kept["eight_types"]["overall"] is None  # types without a picture


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_type": "portrait"}, "unknown task_type 'portrait'"),
        ({"input_images": []}, "1 to 4 references, got 0"),
        ({"input_images": [7]}, "must list the files"),
        ({"instruction": " "}, "non-empty texts"),
    ],
)
def test_rows_that_are_none(change, message):
    row = {"key": "k", "task_type": "single_object", "instruction": "i", "input_images": ["a.png"]}
    with pytest.raises(ValueError, match=message):
        read_row({**row, **change}, 1)


def test_what_does_not_fit_is_one_sentence(tmp_path):
    row = {"key": "k", "task_type": "single_object", "instruction": "i", "input_images": ["a.png"]}
    (tmp_path / "items.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(Echo4oError, match=r"item 1 \(k\) has no reference picture .*a\.png"):
        TASK.items(str(tmp_path / "items.jsonl"))
    pictures = paint(tmp_path / "pictures", ITEMS[:1])
    with pytest.raises(Echo4oError, match="64x64 pixels, but this benchmark takes 1024x1024"):
        TASK.hooks.check(ITEMS[:1], [{1: pictures / "1.png"}], "strict")
    TASK.hooks.check(ITEMS[:1], [{1: pictures / "1.png"}], KIT)
    with pytest.raises(Echo4oError, match="echo4o eval fetch omnicontext"):
        TASK.protocol("strict")


@pytest.mark.shared
def test_a_budget_ends_between_two_questions_and_nothing_is_paid_twice(api, authors, tmp_path):
    items = ITEMS[9:11]
    pictures = paint(tmp_path / "pictures", items)
    found = {item.number: pictures / f"{item.number}.png" for item in items}
    ledger, protocol = tmp_path / "ledger.sqlite", TASK.protocol("released")
    config = JudgeConfig(model="sandbox-judge", concurrency=1, budget_usd=0.03)
    with pytest.raises(Echo4oError, match="budget"):
        judge(items, found, protocol=protocol, config=config, ledger=ledger)
    whole = judge(
        items, found, protocol=protocol, config=replace(config, budget_usd=None), ledger=ledger
    )
    assert 0 < whole.calls < 12
    assert whole.spent_usd == pytest.approx(sum(one.cost_usd for one in whole.verdicts))
    again = judge(
        items, found, protocol=protocol, config=replace(config, budget_usd=None), ledger=ledger
    )
    assert (again.calls, again.verdicts) == (0, whole.verdicts)


@pytest.mark.slow
@pytest.mark.shared
def test_killed_three_times_400_items_are_asked_six_times_each(shared, tmp_path):
    """A fork run over as many items as the benchmark has: no question is paid twice."""
    rows = [item.to_json() | {"key": f"{item.name}/{n}"} for n in range(17) for item in ITEMS]
    items = tmp_path / "items.jsonl"
    items.write_text("\n".join(map(json.dumps, rows[:400])) + "\n")
    asked = TASK.items(str(items)).items
    for item in asked:
        picture = world.paint(item.prompt, width=64, height=64, seed=item.number)
        picture = picture.resize((1024, 1024), Image.Resampling.NEAREST)
        (tmp_path / "pictures").mkdir(exist_ok=True)
        picture.save(tmp_path / "pictures" / f"{item.number}.png")
    with image_api(tmp_path / "sandbox") as server:
        environment = {
            **os.environ,
            "ECHO4O_BENCHMARKS": str(shared / "benchmarks"),
            "OPENAI_BASE_URL": server.openai,
            "OPENAI_API_KEY": server.api_key,
        }
        command = [sys.executable, "-m", "echo4o.cli", "eval", "judge", "omnicontext"]
        command += ["--items", str(items), "--images", str(tmp_path / "pictures"), "--no-canary"]
        command += ["--judge", "sandbox-judge", "--concurrency", "16", "--out", str(tmp_path / "r")]
        for wait in (8, 10, 12):
            process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(command, env=environment, check=True)
    run = load_run(tmp_path / "r")
    assert len(run.verdicts) == 400
    assert all(one.outcome == "judged" for one in run.verdicts)
    assert sum(one.calls for one in run.verdicts) == 2400
    assert run.calls < 2400


def test_pictures_are_made_from_the_references(api, model_folder, tmp_path, capsys):
    words = ["eval", "run", "omnicontext", "--model", str(model_folder), "--steps", "1"]
    words += ["--size", "64x64", "--limit", "8", "--judge", "sandbox-judge", "--no-canary"]
    main([*words, "--out", str(tmp_path / "run")])
    run = load_run(tmp_path / "run")
    assert [one.outcome for one in run.verdicts] == ["judged"] * 8
    last = read_record(tmp_path / "run" / "pictures" / f"{run.verdicts[-1].number}.png")
    assert [one.name for one in last.references] == [
        "character-yellow-face.png",
        "object-yellow-square.png",
        "scene-beach.png",
    ]
    report = (tmp_path / "run" / "report.html").read_text()
    assert report.count('alt="reference') == sum(len(item.references) for item in ITEMS[::3])
    rows = (tmp_path / "run" / "items.jsonl").read_text()
    other = tmp_path / "private.png"
    Image.new("RGB", (9, 9), "red").save(other)
    (tmp_path / "run" / "items.jsonl").write_text(rows.replace(ITEMS[0].references[0], str(other)))
    write_report([tmp_path / "run"], tmp_path / "again.html")
    again = (tmp_path / "again.html").read_text()
    shown_of_it = sum(ITEMS[0].references[0] in item.references for item in ITEMS[::3])
    assert again.count('alt="reference') == report.count('alt="reference') - shown_of_it
    asked = BuyConfig(model="m").request(Wanted(ITEMS[-1], 1))
    assert len(asked.references) == 3
    assert asked.endpoint == "/v1/images/edits"


PUSH = """
import io, sys
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow
from echo4o.eval.fetch_more import fetch_context_items
from echo4o.eval.tasks import get_task
from echo4o.models.pictures import read_record

def png(colour):
    buffer = io.BytesIO()
    Pillow.new("RGB", (8, 8), colour).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}

names = ("key", "task_type", "instruction", "instruction_language")
rows = [("a/1", "single_object", "Show it.", "en"), ("b", "multi_object", "Show both.", "zh")]
data = {name: [row[n] for row in rows] for n, name in enumerate(names)}
data["input_images"] = [[png("red")], [png("red"), png("blue")]]
features = Features({name: Value("string") for name in names} | {"input_images": List(Image())})
Dataset.from_dict(data, features=features).push_to_hub("rehearsal/context", split="train")
path, count = fetch_context_items("rehearsal/context")
assert count == 2
items = get_task("omnicontext").items("authors").items
assert [(one.name, one.language, len(one.references)) for one in items] == [
    ("a/1", "en", 1), ("b", "zh", 2)
]
assert items[0].references[0] == items[1].references[0]
assert len(list((path.parent / "references").iterdir())) == 2
"""


@pytest.mark.slow
def test_items_and_references_come_from_the_hub(sandbox, tmp_path):
    environment = {**sandbox.environment(tmp_path / "home"), "ECHO4O_BENCHMARKS": str(tmp_path)}
    subprocess.run([sys.executable, "-c", PUSH], env=environment, check=True)


@pytest.mark.shared
def test_the_wording_is_put_together_from_a_script(shared):
    """Four texts of one header and four rules, in a script that would fail if it were run."""
    texts = json.loads((shared / "benchmarks/protocols/omnicontext.json").read_text())["user"]
    start = os.path.commonprefix(list(texts.values()))
    tail = "Editing instruction: <instruction>\n"
    rules = [
        text.removeprefix(start).removesuffix("Editing instruction: {instruction}\n")
        for text in texts.values()
    ]
    lines = [f"header = {start!r}", f"tail = {tail!r}", "raise SystemExit('this was run')"]
    lines += [f"rule_{number} = {rule!r}" for number, rule in enumerate(rules)]
    assert find_texts("\n".join(lines), TEXT_HASHES) == texts
    with pytest.raises(Echo4oError, match="does not hold the text"):
        find_texts("\n".join(lines[:-1]), TEXT_HASHES)

"""`data check` against the sandbox: wrong pictures get other texts, nothing is paid twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from datasets import load_dataset
from PIL import Image
from tests_sandbox import connect, image_api

from echo4o.cli import main
from echo4o.dataset_builder.checking import check
from echo4o.dataset_builder.deciding import Rules, parse_policy
from echo4o.dataset_builder.generate import LEDGER_NAME, Settings
from echo4o.dataset_builder.plan import read_plan
from echo4o.dataset_builder.verdicts import Verdicts, read_verdicts
from echo4o.errors import Echo4oError
from echo4o.ledger import BudgetExceeded, Ledger
from echo4o.records import RunRecord, sha256_bytes

FAULTS = "misalign=0.35,flag=0.06,garbage=0.04,429=0.05"
MIX = "instruction_following=0.6,surreal_fantasy=0.2,multi_reference=0.2"
JUDGE = ["--model", "sandbox-judge", "--concurrency", "16"]
MODERATION = "sandbox-moderation"


def make(folder, rows=60, seed=6, mix=MIX):
    words = ["--rows", str(rows), "--seed", str(seed), "--mix", mix]
    main(["data", "plan", "shapes", "--out", str(folder), *words])
    main(["data", "generate", str(folder), "--model", "sandbox-image", "--size", "64x64"])


def judged(api, name="chat"):
    whole, _, _ = (api.root / "openai/calls.jsonl").read_text().rpartition("\n")
    lines = whole.splitlines()  # the last one may be half written
    return Counter(
        json.loads(line)["client_key"] for line in lines if name in json.loads(line)["endpoint"]
    )


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A plan whose pictures are wrong in a third of the rows: generated, checked, built."""
    root = tmp_path_factory.mktemp("check")
    with image_api(root / "api", FAULTS) as api, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", api.openai)
        patch.setenv("OPENAI_API_KEY", api.api_key)
        make(root / "work")
        policy = "surreal_fantasy=drop,multi_reference=keep"
        more = ["--policy", policy, "--moderation", MODERATION]
        main(["data", "check", str(root / "work"), *JUDGE, *more])
        words = ["--out", str(root / "echo-4o-image"), "--validation", "0"]
        main(["data", "build", str(root / "work"), *words])
        yield root, api, policy


def test_texts_are_rewritten_until_the_judge_agrees(checked):
    root, api, _ = checked
    record = RunRecord.load(root / "work/check.json").metrics
    before, after = (record[f"aligned_{when}"] for when in ("before", "after"))
    assert before["instruction_following"]["share"] < 0.85
    assert after["instruction_following"]["share"] == 1.0
    assert record["decisions"]["rewrite"] >= 6
    plan = {row.id: row for row in read_plan(root / "work")[0].rows}
    folder, config = str(root / "echo-4o-image"), "instruction_following"
    rows = load_dataset(folder, config, split="train", streaming=True)
    rewritten = 0
    client = connect(api)
    client.max_retries = 8
    for row in rows.decode(False):
        provenance = json.loads(row["provenance"])
        if provenance["check"]["decision"] != "rewrite":
            assert row["instruction"] == plan[row["id"]].instruction
            continue
        rewritten += 1
        assert row["requested_instruction"] == plan[row["id"]].prompt != row["instruction"]
        assert agrees(client, row), row["instruction"]
    assert rewritten == record["decisions"]["rewrite"]


def agrees(client, row):
    """Whether the judge, asked in words of our own, finds the row's constraints in its picture."""
    import base64

    lines = [
        f"- exactly {one['count']} {one.get('size', '')} {one.get('color', '')} {one['class']}"
        for one in json.loads(row["constraints"])["include"]
    ]
    text = "Checklist:\n" + "\n".join(" ".join(line.split()) for line in lines)
    url = f"data:image/png;base64,{base64.b64encode(row['output_image']['bytes']).decode()}"
    content = [
        {"type": "text", "text": f"{text}\n- no objects besides these"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    reply = client.chat.completions.create(
        model="sandbox-judge",
        messages=[{"role": "user", "content": content}],
        response_format={"type": "json_object"},
    )
    try:
        return json.loads(reply.choices[0].message.content)["correct"] == 1
    except (ValueError, KeyError):
        return True  # one of the faults that this server was told to make


def test_what_is_dropped_and_what_the_card_says(checked):
    root, _, _ = checked
    record = RunRecord.load(root / "echo-4o-image")
    counts = record.metrics["check"]
    assert sum(counts["safety"].values()) >= 2
    assert counts["safety"]["flagged by moderation"] >= 1
    assert counts["decisions"]["drop"] == sum(record.metrics["left_out"].values())
    assert counts["dropped"].get("misaligned", 0) >= 1
    assert counts["unchecked"] == 0
    assert set(counts["aligned_after"]["multi_reference"]) == {"aligned", "judged", "share"}
    assert counts["aligned_after"]["multi_reference"]["share"] < 1  # kept by policy
    card = (root / "echo-4o-image/README.md").read_text()
    assert f"known trademark {counts['safety']['known trademark']}" in card
    assert "such rows are dropped" in card
    assert f"Moderation service: {MODERATION}" in card
    with Ledger(root / "work" / LEDGER_NAME, read_only=True) as ledger:
        assert ledger.spent_usd > 0
        assert f"The pictures cost {ledger.spent_usd:.2f} USD." in card


def test_again_costs_nothing_and_changes_nothing(checked):
    root, api, policy = checked
    before = (root / "work/check.jsonl").read_bytes()
    calls = judged(api)
    rules = Rules(model="sandbox-judge", moderation=MODERATION, policy=parse_policy(policy))
    done = check(root / "work", rules, base_url=api.openai, concurrency=16)
    assert done.calls == 0
    assert judged(api) == calls
    assert (root / "work/check.jsonl").read_bytes() == before
    # Other rules: the answers are there already, only what follows from them is new.
    done = check(root / "work", replace(rules, drop_flagged=False), concurrency=16)
    assert done.calls <= 12  # second looks at flagged rows
    assert not set(done.counted.dropped) & {"unsafe content", "possible minor", "known trademark"}
    assert sum(done.counted.safety.values()) >= 2
    check(root / "work", rules, base_url=api.openai, concurrency=16)
    assert (root / "work/check.jsonl").read_bytes() == before


def test_killed_and_budgeted_it_goes_on(checked, tmp_path):
    root, _, policy = checked
    work = tmp_path / "work"
    work.mkdir()
    for name in ("plan.jsonl", "generate.json", LEDGER_NAME):
        (work / name).write_bytes((root / "work" / name).read_bytes())
    os.symlink(root / "work/pictures", work / "pictures")
    words = ["data", "check", str(work), *JUDGE, "--policy", policy, "--moderation", MODERATION]
    with image_api(tmp_path / "api", f"{FAULTS},latency=30ms") as api:
        environment = {**os.environ, "OPENAI_BASE_URL": api.openai, "OPENAI_API_KEY": api.api_key}
        child = subprocess.Popen(
            [sys.executable, "-m", "echo4o.cli", *words], env=environment, stderr=subprocess.DEVNULL
        )
        while not (api.root / "openai/calls.jsonl").exists() or judged(api).total() < 20:
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        rules = Rules(model="sandbox-judge", moderation=MODERATION, policy=parse_policy(policy))
        settings = {"base_url": api.openai, "concurrency": 16}
        with pytest.raises(BudgetExceeded, match="raise --budget"):
            check(work, rules, budget_usd=0.06, **settings)
        with Ledger(work / "check.ledger.sqlite", read_only=True) as ledger:
            assert ledger.spent_usd <= 0.06
        check(work, rules, **settings)
        twice = [key for key, count in judged(api).items() if count > 1]
        assert len(twice) <= 16  # in flight at the kill
    assert (work / "check.jsonl").read_bytes() == (root / "work/check.jsonl").read_bytes()
    assert not list(work.glob(".check*"))


def test_a_row_bought_anew_counts_as_unchecked(checked):
    root, _, _ = checked
    verdicts = Verdicts.load(root / "work")
    row = next(iter(read_plan(root / "work")[0].rows))
    known = verdicts.by_id[row.id].sha256
    assert verdicts.find(row, known) is not None
    assert verdicts.find(row, "0" * 64) is None


def put(folder, pictures):
    """Settle the first rows of a plan as if these bytes had been bought."""
    settings = Settings(model="sandbox-image", size="64x64")
    settings.save(folder, is_begun=False)
    with Ledger(folder / LEDGER_NAME) as ledger:
        for row, data in zip(read_plan(folder)[0].rows, pictures, strict=False):
            request = settings.request(row)
            told = {"kind": "image", "model": "sandbox-image", "request": request.record}
            ledger.reserve(request.key, **told, price_usd=0)
            digest = ledger.store_picture(data, "png")
            ledger.settle(
                *(request.key, "done"),
                **{"cost_usd": 0, "attempts": 1, "created": "", "picture": digest},
                extension="png",
            )


def test_pictures_that_need_no_judge(tmp_path, monkeypatch):
    import io

    def png(image):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    whole = png(Image.effect_noise((64, 64), 60).convert("RGB"))
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF  # its header and end are fine
    bomb = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR"
    bomb += (40_000).to_bytes(4, "big") * 2 + bytes(9) + bytes(4) + b"IEND" + bytes(4)
    pictures = [png(Image.new("RGB", (64, 64), "beige")), bytes(damaged), bomb, whole[:200]]
    main(["data", "plan", "shapes", "--out", str(tmp_path), "--rows", "4",
          "--mix", "instruction_following=1"])  # fmt: skip
    put(tmp_path, pictures)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    done = check(tmp_path, Rules(model="sandbox-judge"), base_url="http://127.0.0.1:9/v1")
    assert done.calls == 0
    assert dict(done.counted.dropped) == {"blank picture": 1, "does not decode": 3}


def test_a_judge_that_refuses_leaves_rows_as_they_are(tmp_path, capsys):
    with image_api(tmp_path / "api") as api, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", api.openai)
        patch.setenv("OPENAI_API_KEY", api.api_key)
        make(tmp_path / "work", rows=6, mix="instruction_following=1")
    with image_api(tmp_path / "refusing", "refuse=1") as api, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", api.openai)
        patch.setenv("OPENAI_API_KEY", api.api_key)
        main(["data", "check", str(tmp_path / "work"), *JUDGE])
        main(["data", "check", str(tmp_path / "work"), *JUDGE, "--dry-run"])
    told = capsys.readouterr().out
    assert "6 undecided" in told
    assert "nothing was called" in told
    verdicts = Verdicts.load(tmp_path / "work").by_id.values()
    assert {(one.decision, one.aligned) for one in verdicts} == {("undecided", None)}
    assert all("the model refused" in one.reason for one in verdicts)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("surreal=drop", "is no subset"),
        ("surreal_fantasy=burn", "not one of keep, rewrite, drop"),
        ("instruction_following=drop", "never dropped for their text"),
        ("surreal_fantasy", "not one of keep"),
    ],
)
def test_a_policy_that_makes_no_sense(policy, said, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["data", "check", str(tmp_path), *JUDGE, "--policy", policy])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("not json", "is no verdict"),
        ("[]", "is no verdict"),
        ('{"id":"a"}', "is no verdict"),
        ('{"id":"a","sha256":"b","decision":"burn"}', "decision is 'burn'"),
        ('{"id":"a","sha256":"b","decision":"rewrite","instruction":"x\\u0000"}', "control"),
        ('{"id":"a","sha256":"b","decision":"keep","views":"AAAA"}', "another length"),
        ('{"id":"a","sha256":"b","decision":"keep","more":1}', "is no verdict"),
    ],
)
def test_a_damaged_check_file(line, said, tmp_path):
    path = tmp_path / "check.jsonl"
    (tmp_path / "plan.jsonl").write_text("a plan")
    header = {"kind": "check", "format": 1, "plan_sha256": sha256_bytes(b"a plan")}
    path.write_text(f"{json.dumps(header)}\n{line}\n")
    with pytest.raises(Echo4oError, match=said):
        Verdicts.load(tmp_path)
    (tmp_path / "plan.jsonl").write_text("another plan")
    with pytest.raises(Echo4oError, match="is of another plan"):
        Verdicts.load(tmp_path)
    path.write_text('{"kind":"check","format":2}\n')
    with pytest.raises(Echo4oError, match="has check format 2"):
        read_verdicts(path)


def test_what_was_never_generated_is_told(tmp_path, capsys):
    for make_it, said in ((False, "run `echo4o data plan`"), (True, "run `echo4o data generate`")):
        if make_it:
            main(["data", "plan", "shapes", "--out", str(tmp_path), "--rows", "2"])
        with pytest.raises(SystemExit):
            main(["data", "check", str(tmp_path), *JUDGE])
        assert said in capsys.readouterr().err

"""Plan, generate and build against the sandbox over HTTP: resumable, cheap, the same every time."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import authors_layout as layout
import pytest
from datasets import load_dataset
from tests_sandbox import image_api

from echo4o.cli import main
from echo4o.client import PriceTable
from echo4o.dataset_builder import Echo4oImage
from echo4o.dataset_builder.estimate import Estimator
from echo4o.dataset_builder.generate import Settings
from echo4o.dataset_builder.plan import iterate_plan, read_plan
from echo4o.dataset_builder.purchases import Purchases
from echo4o.dataset_builder.splits import usual_validation
from echo4o.errors import Echo4oError
from echo4o.ledger import Ledger
from echo4o.records import RunRecord, sha256_bytes

MIX = "instruction_following=0.6,surreal_fantasy=0.2,multi_reference=0.2"
SETTINGS = ["--model", "sandbox-image", "--size", "64x64"]


def plan(folder, rows=60, seed=0, mix=MIX):
    words = ["--rows", str(rows), "--seed", str(seed), "--mix", mix]
    main(["data", "plan", "shapes", "--out", str(folder), *words])
    return read_plan(folder)[0]


def generate(folder, *extra):
    main(["data", "generate", str(folder), *SETTINGS, *extra])


def build(folder, out, *extra):
    main(["data", "build", str(folder), "--out", str(out), *extra])
    return RunRecord.load(out)


def calls(api):
    path = api.root / "openai" / "calls.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(json.loads(line)["client_key"] for line in lines)


@pytest.fixture
def use(monkeypatch):
    def point_to(api):
        monkeypatch.setenv("OPENAI_BASE_URL", api.openai)
        monkeypatch.setenv("OPENAI_API_KEY", api.api_key)
        return api

    return point_to


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A plan generated and built without any trouble, and what the API was asked for it."""
    root = tmp_path_factory.mktemp("whole")
    with image_api(root / "api") as api, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", api.openai)
        patch.setenv("OPENAI_API_KEY", api.api_key)
        plan(root / "work")
        generate(root / "work")
        record = build(root / "work", root / "echo-4o-image", "--validation", "8")
        yield root, record, api


def test_dry_run_estimate_is_close_to_the_bill(whole):
    root, _, _ = whole
    settings = Settings(model="sandbox-image", size="64x64")
    estimator = Estimator(settings, PriceTable.load())
    for entry in iterate_plan(root / "work"):
        estimator.add(entry)
    with Ledger(root / "work" / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.counts()["done"] == estimator.total.calls
        assert estimator.total.usd == pytest.approx(ledger.spent_usd, rel=0.03)


def test_again_calls_nothing_and_builds_the_same_bytes(whole, use, tmp_path):
    root, record, api = whole
    before = calls(use(api))
    assert set(before.values()) == {1}
    generate(root / "work")
    assert calls(api) == before
    again = build(root / "work", tmp_path / "again", "--validation", "8")
    assert again.files == record.files
    assert {name.split("/")[1] for name in record.files if name.startswith("data")} == {
        *("instruction_following", "surreal_fantasy", "multi_reference", "preview")
    }


def test_rows_carry_plan_order_pictures_and_provenance(whole):
    root, _, _ = whole
    planned = {row.id: row for row in read_plan(root / "work")[0].rows}
    order = list(planned)
    stored = {path.stem for path in (root / "work" / "pictures").iterdir()}
    loaded = load_dataset(str(root / "echo-4o-image"), streaming=True)
    splits = {split: list(rows.decode(False)) for split, rows in loaded.items()}
    assert len(splits["validation"]) <= 8
    assert sum(map(len, splits.values())) == 60
    for split, rows in splits.items():
        for row in rows:
            entry, facts = planned[row["id"]], json.loads(row["provenance"])
            assert row["split"] == split
            assert row["instruction"] == entry.instruction
            assert json.loads(row["constraints"]) == entry.constraints
            hashes = [sha256_bytes(one["bytes"]) for one in row["input_images"]]
            assert hashes == facts["sha256"]["input_images"]
            assert len(hashes) == len(entry.references)
            assert facts["sha256"]["output_image"] in stored
            assert facts["request_id"].startswith("req_")
            assert facts["created"].startswith("2026-")
            if entry.references:
                assert row["requested_instruction"] == entry.prompt
                assert row["task_type"] == "ic"
        for subset in {row["subset"] for row in rows}:
            ids = [row["id"] for row in rows if row["subset"] == subset]
            assert ids == sorted(ids, key=order.index)


def test_the_builder_reads_the_plan_folder(whole, tmp_path):
    root, _, _ = whole
    builder = Echo4oImage(
        config_name="multi_reference", data_dir=str(root / "work"), cache_dir=str(tmp_path)
    )
    streamed = list(builder.as_streaming_dataset("train").decode(False))
    built = load_dataset(str(root / "echo-4o-image"), "multi_reference", streaming=True)
    rows = [row for split in built.values() for row in split.decode(False)]
    ids = sorted((row["id"], row["output_image"]["bytes"]) for row in rows)
    assert sorted((row["id"], row["output_image"]["bytes"]) for row in streamed) == ids


def test_validation_is_a_tenth_at_most_unless_told(whole, tmp_path):
    root, _, _ = whole
    splits = build(root / "work", tmp_path / "out").metrics["by_split"]
    assert 1 <= splits["validation"] <= 6
    assert [usual_validation(rows) for rows in (9, 60, 20_000, 178_228)] == [0, 6, 2_000, 2_000]


def test_contact_sheet_and_statistics(whole):
    from PIL import Image

    root, record, _ = whole
    with Image.open(root / "echo-4o-image" / "contact_sheet.png") as sheet:
        assert sheet.width == 12 * 100 + 4
    statistics = json.loads((root / "echo-4o-image" / "statistics.json").read_text())
    assert statistics["rows"] == 60
    assert record.metrics["planned"] == 60


def child(folder, api):
    command = [sys.executable, "-m", "echo4o.cli", "data", "generate", str(folder), *SETTINGS]
    environment = os.environ | {"OPENAI_BASE_URL": api.openai, "OPENAI_API_KEY": api.api_key}
    return subprocess.Popen(
        [*command, "--concurrency", "4"], env=environment, stderr=subprocess.DEVNULL
    )


def done_calls(folder):
    if not (folder / "ledger.sqlite").exists():
        return 0
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        return ledger.counts()["done"]


def kill_at(process, folder, count):
    """SIGKILL once the ledger holds `count` finished calls."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if done_calls(folder) >= count:
                process.send_signal(signal.SIGKILL)
                break
        except Echo4oError:
            pass  # the ledger is being created
        time.sleep(0.01)
    return process.wait(timeout=60)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_runs_end_in_the_same_dataset(whole, use, tmp_path, seed):
    root, record, _ = whole
    draw = random.Random(seed)
    faults = f"429=0.05,500=0.05,latency=20ms,seed={seed}"
    with image_api(tmp_path / "api", faults) as api:
        use(api)
        planned = plan(tmp_path / "work")
        total = len(planned.rows) + len(planned.references)
        for count in sorted(draw.sample(range(total - 10), 2)):
            assert kill_at(child(tmp_path / "work", api), tmp_path / "work", count) == -9
        generate(tmp_path / "work")
        asked = calls(api)
    built = build(tmp_path / "work", tmp_path / "echo-4o-image", "--validation", "8")
    assert built.files == record.files
    assert len(asked) == total
    # In flight is what is not in the ledger yet: asked, or received and being written (4 + 4).
    assert sum(asked.values()) - total <= 2 * 8, "at most the calls in flight at each kill"
    assert max(asked.values()) <= 1 + 2, "no call is lost more than once a kill"


def test_refused_rows_are_left_out_and_counted(use, tmp_path):
    with image_api(tmp_path / "api", "refuse=0.2,seed=5") as api:
        use(api)
        plan(tmp_path / "work", rows=40)
        generate(tmp_path / "work")
        asked = calls(api)
        generate(tmp_path / "work")
        assert calls(api) == asked, "a refusal is an outcome; it is not asked again"
    record = build(tmp_path / "work", tmp_path / "out")
    left_out = record.metrics["left_out"]
    assert left_out["refused"] > 0
    assert left_out["no reference"] > 0
    assert record.metrics["rows"] + sum(left_out.values()) == 40


def test_budget_stops_and_a_larger_one_goes_on(use, tmp_path, capsys):
    with image_api(tmp_path / "api") as api:
        use(api)
        plan(tmp_path / "work", rows=30, mix="surreal_fantasy=1")
        with pytest.raises(SystemExit):
            generate(tmp_path / "work", "--budget", "0.02")
        assert "raise --budget" in capsys.readouterr().err
        with Ledger(tmp_path / "work" / "ledger.sqlite", read_only=True) as ledger:
            assert 0 < ledger.counts()["done"] < 30
            assert ledger.committed_usd <= 0.02
        assert build(tmp_path / "work", tmp_path / "out").metrics["left_out"]["not generated"] > 0
        generate(tmp_path / "work", "--budget", "5")
        assert set(calls(api).values()) == {1}
    assert build(tmp_path / "work", tmp_path / "out").metrics["rows"] == 30


def test_bad_pictures_are_left_out(tmp_path):
    planned = plan(tmp_path / "work", rows=4, mix="surreal_fantasy=1")
    settings = Settings(model="m", size="64x64")
    good = layout.picture(1, size=(64, 64), kind="PNG")
    pictures = [good, layout.bomb(5000), good[:60] + b"\0" * 20 + good[80:], layout.bomb()]
    with Ledger(tmp_path / "work" / "ledger.sqlite") as ledger:
        settings.save(tmp_path / "work", is_begun=False)
        for row, data in zip(planned.rows, pictures, strict=True):
            request = settings.request(row)
            ledger.reserve(request.key, kind="image", model="m", request="{}", price_usd=0.0)
            ledger.settle(
                request.key,
                "done",
                cost_usd=0.0,
                attempts=1,
                created="2026-01-01T00:00:00+00:00",
                picture=ledger.store_picture(data, "png"),
                extension="png",
            )
    record = build(tmp_path / "work", tmp_path / "out")
    assert record.metrics["rows"] == 1
    assert record.metrics["left_out"] == {"bad picture": 3}


def test_lost_pictures_leave_rows_out_until_they_are_bought_again(whole, use, tmp_path, caplog):
    root, record, api = whole
    work, out = tmp_path / "work", tmp_path / "echo-4o-image"
    shutil.copytree(root / "work", work)
    use(api)
    planned, settings = read_plan(work)[0], Settings.load(work)
    row = next(one for one in planned.rows if not one.references)
    used = next(one for one in planned.rows if one.references).references[0]
    needing = [one.id for one in planned.rows if used in one.references]
    with Ledger(work / "ledger.sqlite", read_only=True) as ledger:
        purchases = Purchases(planned, settings, ledger)
        row_name = f"{purchases.story(row).bought.picture}.png"
        reference_name = f"{purchases.reference(used).picture}.png"
    damaged = work / "pictures" / row_name
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (work / "pictures" / reference_name).unlink()
    assert build(work, out).metrics["rows"] == 60 - 1 - len(needing)
    lines = [json.loads(line) for line in (out / "left_out.jsonl").read_text().splitlines()]
    assert {line["where"]: (line["reason"], line["detail"]) for line in lines} == {
        row.id: ("lost picture", f"pictures/{row_name} does not match its hash"),
        **dict.fromkeys(needing, ("lost reference", f"pictures/{reference_name} is missing")),
    }
    assert f"pictures/{reference_name} is missing" in caplog.text
    assert "--rebuy-lost" in caplog.text
    main(["data", "check", str(work), "--model", "sandbox-judge", "--concurrency", "16"])
    judged = RunRecord.load(work / "check.json").metrics
    assert judged["rows"] == 60 - len(needing)
    assert judged["decisions"]["undecided"] == 1
    before = calls(api)
    generate(work)
    assert calls(api) == before, "nothing is bought again unless it is asked for"
    generate(work, "--rebuy-lost")
    (work / "check.jsonl").unlink()
    assert build(work, out, "--validation", "8").files == record.files
    assert sum((calls(api) - before).values()) == 2


def test_other_settings_and_other_plans_are_refused(whole, use, tmp_path, capsys):
    root, _, api = whole
    use(api)
    with pytest.raises(SystemExit):
        main(["data", "generate", str(root / "work"), "--model", "other", "--size", "64x64"])
    assert "was begun with sandbox-image at 64x64" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        plan(root / "work", seed=9)
    assert "plan in a new folder" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["generate", *SETTINGS], ["build", "--out", "out"]])
def test_without_a_plan_there_is_one_sentence(tmp_path, words, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["data", words[0], "empty", *words[1:]])
    assert "run `echo4o data plan` first" in capsys.readouterr().err
    assert not any(tmp_path.rglob("*.sqlite"))


def test_build_before_generate_names_the_command(tmp_path, capsys):
    plan(tmp_path / "work", rows=4)
    with pytest.raises(SystemExit):
        build(tmp_path / "work", tmp_path / "out")
    assert "run `echo4o data generate` first" in capsys.readouterr().err

"""Buying a plan: pilots and pauses, refused prompts in other words, batches, and bad input."""

import errno
import json
import os
import shutil
import socket
from collections import Counter

import pytest
from tests_sandbox import image_api

from echo4o.cli import main
from echo4o.dataset_builder import band, pilot
from echo4o.dataset_builder.plan import Entry, read_plan
from echo4o.dataset_builder.purchases import Purchases, Settings, SettingsError
from echo4o.errors import Echo4oError
from echo4o.ledger import Ledger, LedgerError
from echo4o.ledger_file import LEDGER_VERSION

SETTINGS = ["--model", "sandbox-image", "--size", "64x64", "--concurrency", "16"]
MIX = "instruction_following=0.6,surreal_fantasy=0.2,multi_reference=0.2"


def plan(folder, rows=60, seed=0, mix=MIX):
    words = ["--rows", str(rows), "--seed", str(seed), "--mix", mix]
    main(["data", "plan", "shapes", "--out", str(folder), *words])


def generate(folder, *extra):
    main(["data", "generate", str(folder), *SETTINGS, *extra])


def bills(api):
    path = api.root / "openai" / "calls.jsonl"
    whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")
    return [json.loads(line) for line in whole.splitlines()]  # the last one may be half written


def stories(folder):
    """What happened to each row and reference, by id."""
    made, _ = read_plan(folder)
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        purchases = Purchases(made, Settings.load(folder), ledger)
        return {entry.id: purchases.story(entry) for entry in (*made.references, *made.rows)}


@pytest.fixture
def use(monkeypatch):
    def point_to(api):
        monkeypatch.setenv("OPENAI_BASE_URL", api.openai)
        monkeypatch.setenv("OPENAI_API_KEY", api.api_key)
        return api

    return point_to


def failure(capsys, *words):
    """The sentence with which a command ends."""
    with pytest.raises(SystemExit):
        main([str(word) for word in words])
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    return line


def test_refused_prompts_are_reworded_and_tried_again(tmp_path, use, capsys):
    work = tmp_path / "work"
    with image_api(tmp_path / "api", "refuse=0.3,seed=2") as api:
        use(api)
        plan(work, rows=40, mix="surreal_fantasy=1")
        generate(work)
        first = stories(work)
        refused = {name for name, one in first.items() if one.bought.state == "refused"}
        assert 4 < len(refused) < 20
        assert "refused: " in (told := capsys.readouterr().out)
        assert "content_policy_violation" in told
        generate(work, "--rewrite", "sandbox-text", "--rewrites", "2")
        told = capsys.readouterr().out
        after = stories(work)
        paid = len(bills(api))
        generate(work)  # the folder remembers who reworded; nothing is bought again
        assert len(bills(api)) == paid
        assert "0 calls now" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            generate(work, "--rewrite", "sandbox-judge")
        assert "--rewrite sandbox-text; use the same again" in capsys.readouterr().err
        main(
            [
                "data",
                "build",
                str(work),
                "--out",
                str(tmp_path / "echo-4o-image"),
                "--validation",
                "0",
            ]
        )
    mended = {name for name in refused if after[name].bought.state == "done"}
    assert mended
    assert f"{len(mended)} were made with other words" in told
    for name in mended:
        one = after[name]
        assert one.before[0].state == "refused"
        assert one.before[0].reason.startswith("content_policy_violation")
        assert one.entry.prompt != first[name].entry.prompt
        assert one.cost_usd > 0
    from datasets import load_dataset

    rows = load_dataset(str(tmp_path / "echo-4o-image"), "surreal_fantasy", streaming=True)
    texts = {row["id"]: row["instruction"] for row in rows["train"]}
    assert {texts[name] == after[name].entry.prompt for name in mended} == {True}
    assert len(texts) == 40 - len(refused) + len(mended)


def test_pilot_reports_and_the_full_run_pauses(tmp_path, use, capsys):
    work = tmp_path / "work"
    with image_api(tmp_path / "api", "misalign=0.3,seed=1") as api:
        use(api)
        plan(work, rows=320, mix="instruction_following=0.8,multi_reference=0.2")
        generate(work, "--pilot", "40", "--check-model", "sandbox-judge")
        told = capsys.readouterr().out
        report = json.loads((work / "pilot.json").read_text())
        assert len({bill["client_key"] for bill in bills(api)}) < 140
    assert report["rows"] == 40
    assert {name.split("/")[0] for name in report["strata"]} == {
        *("instruction_following", "multi_reference")
    }
    assert 0.1 < report["shares"]["misaligned"]["rows"] / 40 < 0.6
    assert report["shares"]["rewritten"]["rows"] > 0
    assert "projected bill of 320 rows" in told
    with image_api(tmp_path / "worse", "refuse=0.6,seed=1") as api:
        use(api)
        sentence = failure(capsys, "data", "generate", work, *SETTINGS)
        assert "paused: " in sentence
        assert "were refused, the pilot allows 0.0 to" in sentence
        assert "--continue" in sentence
        asked = len(bills(api))
        assert failure(capsys, "data", "generate", work, *SETTINGS) == sentence
        assert len(bills(api)) == asked, "a paused run buys nothing"
        counts = Counter(one.bought is None for one in stories(work).values() if one)
        assert counts[True] > 10
        for _ in range(20):
            try:
                generate(work, "--continue")
                break
            except SystemExit:
                pass
        assert all(one.bought for one in stories(work).values() if one)
    pauses = json.loads((work / "pilot.json").read_text())["pauses"]
    assert pauses
    assert all(pause["accepted"] for pause in pauses)


@pytest.mark.slow
def test_projected_bill_holds_the_real_one(tmp_path, use):
    work = tmp_path / "work"
    with image_api(tmp_path / "api", "refuse=0.1,seed=4") as api:
        use(api)
        plan(work, rows=150)
        generate(work, "--pilot", "50")
        bill = json.loads((work / "pilot.json").read_text())["bill_usd"]
        generate(work)
        paid = sum(one["cost_usd"] for one in bills(api))
    assert bill["low"] <= paid <= bill["high"]
    assert bill["total"] == pytest.approx(paid, rel=0.1)


def test_pilot_takes_every_category_by_its_share():
    def row(number, category):
        text = f"{category} {number}"
        return Entry(
            kind="row",
            id=text,
            prompt=text,
            instruction=text,
            subset="surreal_fantasy",
            category=category,
            constraints={},
        )

    rows = [row(n, "color") for n in range(90)] + [row(n, "shape") for n in range(10)]
    chosen = pilot.choose([*rows, row(0, "time")], 20)
    assert Counter(entry.category for entry in chosen) == {"color": 17, "shape": 2, "time": 1}
    assert pilot.choose([row(0, "time"), *rows[::-1]], 20).ids == chosen.ids
    with pytest.raises(Echo4oError, match="--pilot 2 does not fit.* give 3 to 101"):
        pilot.choose([*rows, row(0, "time")], 2)
    ranges = {"refused": band.wilson(1, 20), "failed": band.wilson(0, 20), "usd": (1.0, 1.0)}
    for share, alarm in ((20, False), (2, True)):
        watch = band.Watch({"surreal_fantasy/color": ranges | {"usd": band.Range(1.0, 1.0)}})
        for number in range(500):
            watch.observe(rows[0], "done" if number % share else "refused", 1.0)
        assert (watch.alarm is not None) is alarm, watch.alarm
    watch = band.Watch({"surreal_fantasy/color": ranges | {"usd": band.Range(1.0, 1.0)}})
    for _ in range(100):
        watch.observe(rows[0], "done", 1.5)
    assert "cost 1.50000 USD each" in watch.alarm


def test_batches_buy_the_whole_plan_at_half_the_price(tmp_path, use, capsys):
    work, plain = tmp_path / "work", tmp_path / "plain"
    quick = ["--batch-api", "--batch-poll", "0.05", "--batch-lines", "30"]
    with image_api(tmp_path / "api", "refuse=0.1,expire=0.1,seed=3") as api:
        use(api)
        for folder in (work, plain):
            plan(folder, rows=50)
        generate(work, *quick, "--rewrite", "sandbox-text")
        half = bills(api)
        assert "0 calls now" not in capsys.readouterr().out
        generate(plain, "--rewrite", "sandbox-text")
        full = bills(api)[len(half) :]
        assert {bill["batch"] for bill in half} == {True}
        assert set(Counter(bill["client_key"] for bill in half).values()) == {1}
        paid = sum(bill["cost_usd"] for bill in half)
        assert paid == pytest.approx(sum(bill["cost_usd"] for bill in full) / 2, rel=0.05)
        pictures = [
            [one.bought.picture for one in stories(folder).values() if not one.entry.references]
            for folder in (work, plain)
        ]
        assert pictures[0] == pictures[1]
        with Ledger(work / "ledger.sqlite") as ledger:
            ledger.execute(
                "INSERT INTO batches VALUES ('t', '/v1/images/generations', 'm', 'open', 'batch_0')"
            )
        sentence = failure(capsys, "data", "generate", work, *SETTINGS)
        assert "1 batches are under way; add --batch-api" in sentence
        generate(work, "--cancel-batches")
        assert "1 batches ended" in capsys.readouterr().out
        generate(work)


def test_batches_wait_for_each_other_and_pause_outside_of_the_band(
    tmp_path, use, capsys, monkeypatch
):
    work = tmp_path / "work"
    monkeypatch.setattr(band, "_WINDOW", 10)
    batch = ["--batch-api", "--batch-poll", "0.05", "--batch-lines", "30"]
    with image_api(tmp_path / "api") as api:
        use(api)
        plan(work, rows=90, mix="instruction_following=1")
        generate(work, "--pilot", "12")
        capsys.readouterr()
    with image_api(tmp_path / "worse", "refuse=0.8,seed=1") as api:
        use(api)
        assert "paused: " in failure(capsys, "data", "generate", work, *SETTINGS, *batch)
        assert 0 < len(bills(api)) <= 30, "the next batch was not sent"
    with image_api(tmp_path / "cheap") as api:
        use(api)
        sentence = failure(capsys, "data", "generate", work, *SETTINGS, *batch)
        assert "--continue" in sentence
        assert not bills(api)
        generate(work, *batch, "--continue")
        assert len(bills(api)) > 40, "half the price is no alarm"


def test_what_is_wrong_is_one_sentence(tmp_path, use, capsys):
    work = tmp_path / "work"
    plan(work, rows=6, mix="multi_reference=1")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        words = ["data", "generate", work, *SETTINGS, "--base-url", url]
        with image_api(tmp_path / "api") as api:
            use(api)
            assert "cannot be reached" in failure(capsys, *words)
            with Ledger(work / "ledger.sqlite", read_only=True) as ledger:
                assert max(entry.attempts for entry in ledger.entries()) == 2, "told soon"
            prices = tmp_path / "prices.json"
            prices.write_text('{"models": {"sandbox-image": {"input_text": "five"}}}')
            with_prices = [*words[:-2], "--prices", str(prices)]
            assert "prices.json: model 'sandbox-image'" in failure(capsys, *with_prices)
            assert "without --pilot" in failure(capsys, *words, "--check-model", "sandbox-judge")
            assert "--rewrites must be" in failure(capsys, *words, "--rewrites", "0")
            generate(work)
            with pytest.raises(SettingsError, match="was begun with sandbox-image at 64x64"):
                Settings(model="other", size="64x64").save(work, is_begun=True)
            (work / "pilot.json").write_text('{"plan_sha256": "0"}')
            assert "is of another plan" in failure(capsys, *words[:-2])
            (work / "pilot.json").write_text("{")
            assert "pilot.json is damaged" in failure(capsys, *words[:-2])
            (work / "pilot.json").unlink()
        with image_api(tmp_path / "api") as api:
            text = (work / "plan.jsonl").read_text()
            (work / "plan.jsonl").write_text(text.replace("shapes", "others", 1))
            assert "was begun with another plan" in failure(capsys, *words[:-2])
        with Ledger(work / "ledger.sqlite") as ledger:
            ledger.execute(f"PRAGMA user_version = {LEDGER_VERSION + 1}")
        with pytest.raises(LedgerError, match=f"has format {LEDGER_VERSION + 1}"):
            Ledger(work / "ledger.sqlite")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a" * 100_000, "has 100000 characters"),
        ("a \x1b[2J ring", "control character"),
        (" ", "empty"),
    ],
)
@pytest.mark.parametrize("field", ["prompt", "instruction"])
def test_hostile_instructions_are_never_sent(tmp_path, capsys, text, words, field):
    work = tmp_path / "work"
    plan(work, rows=2, mix="surreal_fantasy=1")
    head, line, *rest = (work / "plan.jsonl").read_text().splitlines()
    changed = json.dumps(json.loads(line) | {field: text})
    (work / "plan.jsonl").write_text("\n".join([head, changed, *rest, ""]))
    assert words in failure(capsys, "data", "generate", work, *SETTINGS)
    assert not (work / "ledger.sqlite").exists()


def test_rows_that_ask_for_the_same_are_one_purchase(tmp_path, use, capsys):
    """As after a refusal, when two rows are reworded alike."""
    work = tmp_path / "work"
    plan(work, rows=6, mix="surreal_fantasy=1")
    head, first, *rest = (work / "plan.jsonl").read_text().splitlines()
    words = {name: json.loads(first)[name] for name in ("prompt", "instruction", "repeat")}
    same = [json.dumps(json.loads(line) | words) for line in rest[:3]]
    (work / "plan.jsonl").write_text("\n".join([head, first, *same, *rest[3:], ""]))
    with image_api(tmp_path / "api") as api:
        use(api)
        generate(work)
        assert len(bills(api)) == 3
    assert "6 done" in capsys.readouterr().out


def test_full_disk_loses_nothing_and_the_key_is_in_no_file(tmp_path, use, capsys, monkeypatch):
    work = tmp_path / "work"
    markup = "a ring <script>alert(1)</script> {{ 7*7 }} \u202e"
    with image_api(tmp_path / "api") as api:
        use(api)
        plan(work, rows=12, mix="surreal_fantasy=1")
        head, line, *rest = (work / "plan.jsonl").read_text().splitlines()
        changed = json.dumps(json.loads(line) | {"prompt": markup, "instruction": markup})
        (work / "plan.jsonl").write_text("\n".join([head, changed, *rest, ""]))
        real = shutil.disk_usage(tmp_path)
        with monkeypatch.context() as nearly:
            nearly.setattr(shutil, "disk_usage", lambda _: real._replace(free=50 * 2**20))
            assert "has 50 MB left" in failure(capsys, "data", "generate", work, *SETTINGS)
        assert not bills(api)
        sync, left = os.fsync, iter(range(20))

        def full(descriptor):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(descriptor)

        with monkeypatch.context() as disk:
            disk.setattr(os, "fsync", full)
            words = [*SETTINGS[:-1], "1"]
            assert "the disk is full" in failure(capsys, "data", "generate", work, *words)
        paid = sum(bill["cost_usd"] for bill in bills(api))
        with Ledger(work / "ledger.sqlite", read_only=True) as ledger:
            done = ledger.counts()["done"]
            assert 0 < done < 12
            assert paid <= ledger.committed_usd + 1e-9
        generate(work)
        twice = Counter(bill["client_key"] for bill in bills(api))
        assert twice.total() - len(twice) <= 2, "what was in flight when the disk was full"
        told = capsys.readouterr()
        assert api.api_key not in told.out + told.err
        for path in work.rglob("*"):
            if path.is_file():
                assert api.api_key.encode() not in path.read_bytes(), path
    assert all(one.bought.state == "done" for one in stories(work).values())

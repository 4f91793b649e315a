"""Judging over HTTP: pixels decide, nothing is asked twice, every failure has its name."""

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from eval_tools import KIT, TASK, paint_into, verdict
from PIL import Image
from tests_sandbox import image_api

from echo4o.cli import main
from echo4o.client import ApiClient, ImageRequest
from echo4o.errors import Echo4oError
from echo4o.eval.items import select
from echo4o.eval.judging import JudgeConfig, _refuse_silence, judge
from echo4o.eval.pictures import find_pictures
from echo4o.eval.runs import judge_run, load_run
from echo4o.ledger import BudgetExceeded, Ledger
from echo4o.records import RunRecord

ITEMS = select(KIT.items, 14)


def calls(server):
    """Paid calls to the judge, by content."""
    lines = (server.root / "openai" / "calls.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return Counter(row["key"] for row in rows if row["endpoint"].endswith("completions"))


def judged(folder, out, items=ITEMS, **config):
    return judge(
        items,
        find_pictures(folder),
        protocol=TASK.protocol("kit"),
        config=JudgeConfig(model="sandbox-judge", **config),
        ledger=out / "ledger.sqlite",
    )


def buy_pictures(folder, items):
    """Have the image API paint the items, as a stranger's model would."""
    folder.mkdir()

    async def buy():
        with Ledger(folder.parent / "bought" / "ledger.sqlite") as ledger:
            async with ApiClient(ledger=ledger) as client:
                for item in items:
                    request = ImageRequest(model="sandbox-image", prompt=item.prompt, size="64x64")
                    reply = await client.image(request)
                    (folder / f"{item.number}.png").write_bytes(reply.image)

    asyncio.run(buy())
    return folder


def test_right_pictures_are_right_and_others_wrong(api, tmp_path):
    pictures = buy_pictures(tmp_path / "right", ITEMS)
    right = judged(pictures, tmp_path / "a")
    assert [one.outcome for one in right.verdicts] == ["judged"] * 14
    assert all(one.correct for one in right.verdicts)
    assert right.calls == 14 == sum(calls(api).values())
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for item, other in zip(ITEMS, ITEMS[1:] + ITEMS[:1], strict=True):
        data = (pictures / f"{other.number}.png").read_bytes()
        (wrong / f"{item.number}.png").write_bytes(data)
    found = judged(wrong, tmp_path / "b")
    assert [one.outcome for one in found.verdicts] == ["judged"] * 14
    assert not any(one.correct for one in found.verdicts)
    one = found.verdicts[0]
    assert one.judge_model.startswith("sandbox-judge")
    assert one.request_id.startswith("req_")
    assert "found" in one.findings[0].reason
    assert json.loads(one.raw_reply)["correct"] is False
    assert one.cost_usd > 0
    assert found.spent_usd == pytest.approx(sum(v.cost_usd for v in found.verdicts))


def test_a_run_is_kept_and_the_second_one_asks_nothing(api, tmp_path):
    pictures = paint_into(tmp_path / "pictures", ITEMS)
    runs = [
        judge_run(
            TASK,
            KIT,
            ITEMS,
            pictures=pictures,
            out=tmp_path / "run",
            protocol="kit",
            config=JudgeConfig(model="sandbox-judge"),
        )
        for _ in range(2)
    ]
    assert [run.calls for run in runs] == [14, 0]
    assert runs[0].verdicts == runs[1].verdicts == load_run(tmp_path / "run").verdicts
    assert runs[0].spent_usd == runs[1].spent_usd > 0
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stored["scores"]["overall"] == {
        **runs[0].scores().overall.to_json(),
        "score": 1.0,
        "items": 14,
    }
    assert set(stored["scores"]["by_tag"]) == {item.tag for item in KIT.items}
    assert stored["pictures"] == "../pictures"
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["metrics"]["scores"] == stored["scores"]
    assert str(tmp_path) not in json.dumps([stored, record])
    others = paint_into(tmp_path / "others", ITEMS)
    trained = RunRecord(name="tiny", command="echo4o train run tiny").save(tmp_path / "trained")
    other = "holds a run with other {}.*another --out"
    for changes, complaint in (
        ({"out": trained.parent}, "holds what `echo4o train run tiny` made"),
        ({"config": JudgeConfig(model="sandbox-text")}, other.format("judge")),
        ({"pictures": others}, other.format("pictures")),
        ({"source": replace(KIT, sha256="0")}, other.format("items")),
    ):
        asked = {"pictures": pictures, "config": JudgeConfig(model="sandbox-judge"), "source": KIT}
        asked |= {"out": tmp_path / "run", **changes}
        with pytest.raises(Echo4oError, match=complaint):
            judge_run(TASK, items=ITEMS, protocol="kit", **asked)


def test_several_pictures_and_repeats_are_judged_each_and_refused_where_the_script_has_none(
    api, tmp_path
):
    pictures = paint_into(tmp_path / "pictures", ITEMS)
    for item in ITEMS[1:]:  # the first item has one picture only
        Image.new("RGB", (64, 64), "white").save(pictures / f"{item.number}-2.png")
    config = JudgeConfig(model="sandbox-judge", repeats=2)
    asked = {"pictures": pictures, "out": tmp_path / "run", "config": config}
    run = judge_run(TASK, KIT, ITEMS, protocol="kit", **asked)
    assert [(one.sample, one.repeat) for one in run.verdicts] == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ] * 14
    assert [one.outcome for one in run.verdicts[2:4]] == ["missing"] * 2
    assert run.calls == (14 + 13) * 2
    assert run.scores().overall.score == pytest.approx(0.5)
    assert run.scores().overall.items == 14
    assert load_run(tmp_path / "run").verdicts == run.verdicts
    assert judge_run(TASK, KIT, ITEMS, protocol="kit", **asked).calls == 0
    with pytest.raises(Echo4oError, match="there are no items to judge"):
        judge_run(TASK, KIT, [], protocol="kit", **asked)
    with pytest.raises(Echo4oError, match="asks once about one picture of a prompt, not 2 times"):
        judge_run(TASK, KIT, ITEMS, protocol="released", **asked)


def test_missing_and_damaged_pictures_count_as_wrong_without_a_call(api, tmp_path):
    pictures = paint_into(tmp_path / "pictures", ITEMS)
    (pictures / f"{ITEMS[0].number}.png").unlink()
    (pictures / f"{ITEMS[1].number}.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    found = judged(pictures, tmp_path)
    assert [one.outcome for one in found.verdicts[:3]] == ["missing", "damaged", "judged"]
    assert found.calls == 12
    scores = TASK.score(found.verdicts)
    assert scores.overall.items == 14
    assert scores.coverage == pytest.approx(12 / 14)
    assert scores.overall.score < 1
    with pytest.raises(Echo4oError, match="none of 14 items has a usable picture"):
        judged(tmp_path, tmp_path / "none")


def test_equal_pictures_of_equal_items_are_one_call_and_all_answered(api, tmp_path):
    twins = [replace(ITEMS[0], number=number) for number in (1, 2, 3)]
    (tmp_path / "pictures").mkdir()
    for item in twins:
        blank = Image.new("RGB", (64, 64), "white")
        blank.save(tmp_path / "pictures" / f"{item.number}.png")
    for concurrency in (1, 8):
        out = tmp_path / str(concurrency)
        found = judged(tmp_path / "pictures", out, twins, concurrency=concurrency)
        assert [one.number for one in found.verdicts] == [1, 2, 3]
        assert [one.outcome for one in found.verdicts] == ["judged"] * 3
        assert not any(one.correct for one in found.verdicts)
        assert found.calls == 1
        assert found.spent_usd == pytest.approx(sum(one.cost_usd for one in found.verdicts))
        again = judged(tmp_path / "pictures", out, twins)
        assert (again.calls, again.verdicts) == (0, found.verdicts)
    assert sorted(calls(api).values()) == [2]


def test_garbage_and_refusals_are_counted_by_name(tmp_path, monkeypatch):
    pictures = paint_into(tmp_path / "pictures", select(KIT.items, 35))
    with image_api(tmp_path / "sandbox", "garbage=0.45,refuse=0.1,seed=5") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        found = judged(pictures, tmp_path, select(KIT.items, 35))
        again = judged(pictures, tmp_path, select(KIT.items, 35))
    outcomes = Counter(one.outcome for one in found.verdicts)
    assert outcomes["refused"] >= 1
    assert outcomes["unreadable"] >= 1
    assert outcomes["judged"] >= 15
    assert any(one.calls > 1 and one.outcome == "judged" for one in found.verdicts)
    for one in found.verdicts:
        assert one.correct == (one.outcome == "judged")
        assert (one.reason is None) == (one.outcome == "judged")
        assert one.calls == 3 if one.outcome == "unreadable" else one.calls <= 3
    assert again.calls == 0
    assert again.verdicts == found.verdicts


def test_judge_that_never_answers_gives_no_score():
    silent = [verdict(item, None, outcome="failed", reason="HTTP 500") for item in ITEMS]
    with pytest.raises(Echo4oError, match="answered none of 14 questions.*HTTP 500"):
        _refuse_silence(silent, "m", ("png",))
    _refuse_silence([*silent, verdict(ITEMS[0], False)], "m", ("png",))


def test_budget_stops_and_what_was_judged_is_kept(api, tmp_path):
    pictures = paint_into(tmp_path / "pictures", ITEMS)
    with pytest.raises(BudgetExceeded, match="raise --budget"):
        judged(pictures, tmp_path, budget_usd=0.01, concurrency=1)
    before = sum(calls(api).values())
    assert 0 < before < 14
    with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.committed_usd <= 0.01
    assert judged(pictures, tmp_path, budget_usd=1.0).calls == 14 - before


def test_a_budget_for_all_is_enough_for_all_at_once_and_what_is_left_is_said(api, tmp_path):
    """What a call sets aside is some five times its price: so many may not stop each other."""
    pictures = paint_into(tmp_path / "pictures", ITEMS)
    real = judged(pictures, tmp_path / "free").spent_usd
    enough = judged(pictures, tmp_path / "a", budget_usd=1.6 * real, concurrency=8)
    assert (enough.calls, enough.spent_usd) == (14, pytest.approx(real))
    with pytest.raises(BudgetExceeded, match=r"\d+ of 14 questions were not asked, the replies to"):
        judged(pictures, tmp_path / "b", budget_usd=0.9 * real, concurrency=8)
    with Ledger(tmp_path / "b" / "ledger.sqlite", read_only=True) as ledger:
        assert 0.4 * real < ledger.committed_usd <= 0.9 * real


def test_judging_works_inside_a_running_loop(api, tmp_path):
    pictures = paint_into(tmp_path / "pictures", ITEMS[:1])

    async def notebook_cell():
        return judged(pictures, tmp_path, ITEMS[:1])

    assert asyncio.run(notebook_cell()).verdicts[0].correct


def wait_for_verdicts(ledger, number):
    """Wait until a killed run's ledger holds that many replies."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if ledger.exists():
            with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as database:
                query = "SELECT count(*) FROM sqlite_master WHERE name = 'calls'"
                if database.execute(query).fetchone()[0]:
                    query = "SELECT count(*) FROM calls WHERE state = 'done'"
                    if database.execute(query).fetchone()[0] >= number:
                        return
        time.sleep(0.005)
    raise AssertionError("the run did not get that far")


def test_killed_runs_go_on_and_pay_nothing_twice(tmp_path, monkeypatch, capsys):
    """kill -9 in the middle; only calls in flight may be made again."""
    pictures = paint_into(tmp_path / "pictures", KIT.items[:60])
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(item.to_json()) + "\n" for item in KIT.items[:60]))
    words = ["eval", "judge", "geneval_plus_plus", "--images", str(pictures)]
    words += ["--items", str(items), "--judge", "sandbox-judge", "--concurrency", "4"]
    words += ["--protocol", "kit", "--out", str(tmp_path / "run")]
    with image_api(tmp_path / "sandbox", "latency=60ms") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        child = subprocess.Popen([sys.executable, "-m", "echo4o.cli", *words], stderr=-3)
        wait_for_verdicts(tmp_path / "run" / "judge" / "ledger.sqlite", 17)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not (tmp_path / "run" / "run.json").exists()
        main(words)
    run = load_run(tmp_path / "run")
    assert [one.outcome for one in run.verdicts] == ["judged"] * 60
    assert all(one.correct for one in run.verdicts)
    assert run.calls <= 60 - 17
    made = calls(server)
    assert len(made) == 60
    # In flight is what is not in the ledger yet: asked (4), or received and being written (4).
    assert sum(made.values()) - 60 <= 2 * 4
    assert "60 judged" in capsys.readouterr().out


@pytest.mark.slow
def test_fifty_kills_lose_no_verdict_and_repeat_only_what_was_in_flight(tmp_path):
    """kill -9 at random moments, from the first import on."""
    draw, kills, concurrency = random.Random(11), 50, 4
    pictures = paint_into(tmp_path / "pictures", KIT.items)
    ledger = tmp_path / "run" / "judge" / "ledger.sqlite"
    in_flight, now = Counter(), {}
    with image_api(tmp_path / "sandbox", "latency=400ms") as server:
        variables = {"OPENAI_BASE_URL": server.openai, "OPENAI_API_KEY": server.api_key}
        command = [sys.executable, "-m", "echo4o.cli", "eval", "judge", "geneval_plus_plus"]
        command += ["--images", str(pictures), "--out", str(tmp_path / "run"), "--no-canary"]
        command += ["--judge", "sandbox-judge", "--concurrency", str(concurrency)]
        for _ in range(kills):
            child = subprocess.Popen(command, env={**os.environ, **variables}, stderr=-3, stdout=-3)
            time.sleep(draw.uniform(0.1, 5))
            child.send_signal(signal.SIGKILL)
            child.wait()
            before, now = now, rows(ledger)
            assert all(now[key] == row for key, row in before.items() if row[0] == "done")
            # Reserved by this very process: what an earlier one left has no new loss.
            waiting = [
                key for key, row in now.items() if row[0] == "reserved" and before.get(key) != row
            ]
            assert len(waiting) <= concurrency
            in_flight.update(waiting)
        subprocess.run(
            command, env={**os.environ, **variables}, check=True, capture_output=True, timeout=120
        )
    run = load_run(tmp_path / "run")
    assert [one.outcome for one in run.verdicts] == ["judged"] * len(KIT.items)
    lines = (server.root / "openai" / "calls.jsonl").read_text().splitlines()
    made = Counter(json.loads(line)["client_key"] for line in lines)
    repeated = {key: times - 1 for key, times in made.items() if times > 1}
    print(f"{kills} kills: {sum(repeated.values())} of {sum(made.values())} calls repeated, "
          f"{sum(in_flight.values())} were in flight")  # fmt: skip
    assert all(times <= in_flight[key] for key, times in repeated.items())
    assert len(made) == len(KIT.items)


def rows(ledger):
    """State, reply and loss by content key."""
    if not ledger.exists():
        return {}
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'calls'").fetchone():
            return {}
        query = "SELECT key, state, text, lost_usd FROM calls"
        return {key: tuple(row) for key, *row in database.execute(query)}

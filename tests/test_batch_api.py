"""The Batch API through the client: half price, paid once whatever is killed, cut or expires."""

import asyncio
import json
import multiprocessing
import random
import signal
import time
from collections import Counter

import pytest
import tests_buyer
from tests_sandbox import image_api

from echo4o.client import ApiClient, BatchOptions, ChatRequest, ImageRequest, PriceTable
from echo4o.errors import Echo4oError
from echo4o.ledger import BudgetExceeded, Ledger, LedgerError

QUICK = BatchOptions(poll_s=0.05, grace_s=0.05)


def scene(number, **options):
    prompt = f"A photo of three red circles, scene {number}"
    return ImageRequest(model="sandbox-image", prompt=prompt, size="64x64", **options)


def run(sandbox, folder, work, *, budget=None):
    async def inside():
        with Ledger(folder / "ledger.sqlite", budget_usd=budget) as ledger:
            settings = {"base_url": sandbox.openai, "api_key": sandbox.api_key, "backoff_s": 0.02}
            async with ApiClient(ledger=ledger, **settings) as client:
                return await work(client)

    return asyncio.run(inside())


def buy(sandbox, folder, requests, *, budget=None, options=QUICK):
    async def work(client):
        found = client.run_batches(requests, options=options)
        return {request.key: reply async for request, reply in found}

    return run(sandbox, folder, work, budget=budget)


def bills(sandbox):
    log = sandbox.root / "openai" / "calls.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_everything_at_half_the_price(tmp_path):
    """Pictures, edits and answers; refused lines are outcomes, and nothing is bought again."""
    with image_api(tmp_path, "refuse=0.2,seed=3") as sandbox:
        pictures = [scene(number) for number in range(15)]
        first = buy(sandbox, tmp_path, pictures, options=BatchOptions(poll_s=0.05, max_lines=4))
        made = next(reply.image for reply in first.values() if reply.image)
        question = ChatRequest(model="sandbox-judge", user=("Is there a red circle?", made))
        edit = scene("edited", references=(made,))
        later = [*pictures, question, edit, scene(99)]
        second = buy(sandbox, tmp_path, later)
        log = bills(sandbox)
        with pytest.raises(ValueError, match="several times"):
            buy(sandbox, tmp_path, iter(pictures))
    assert Counter(reply.outcome for reply in first.values()).keys() == {"done", "refused"}
    assert all(second[one.key].cached for one in pictures)
    assert {second[one.key].cached for one in later[15:]} == {False}
    assert second[edit.key].usage.get("images", 4) == 4
    assert all(bill["batch"] for bill in log)
    with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.committed_usd == pytest.approx(sum(bill["cost_usd"] for bill in log))
        assert ledger.counts()["reserved"] == 0
    list_price = scene(1).estimate(PriceTable.load()).cost_usd
    done = next(reply for reply in first.values() if reply.outcome == "done")
    assert done.cost_usd == pytest.approx(list_price / 2, rel=0.03)


def test_failed_and_expired_lines_are_sent_again(tmp_path):
    faults = "500=0.15,429=0.1,expire=0.2,seed=5"
    with image_api(tmp_path, faults) as sandbox:
        requests = [scene(number) for number in range(30)]
        options = BatchOptions(poll_s=0.05, grace_s=0.05, rounds=8)
        replies = buy(sandbox, tmp_path, requests, options=options)
        wrong = ImageRequest(model="sandbox-image", prompt="a ring", size="64x65")
        failed = buy(sandbox, tmp_path, [wrong], options=options)[wrong.key]
        log = bills(sandbox)
    assert {reply.outcome for reply in replies.values()} == {"done"}
    assert Counter(bill["client_key"] for bill in log) == {one.key: 1 for one in requests}
    assert failed.outcome == "failed"
    assert "multiples of 16" in failed.reason


def test_a_cut_reply_does_not_make_a_second_batch(tmp_path):
    """Of uploads, creations, polls and results every third reply is lost."""
    with image_api(tmp_path, "cut=0.15,truncate=0.15,seed=2") as sandbox:
        options = BatchOptions(poll_s=0.05, grace_s=0.02, max_lines=1)
        replies = buy(sandbox, tmp_path, [scene(n) for n in range(12)], options=options)
        made = list((sandbox.root / "openai" / "batches").glob("*.json"))
        log = bills(sandbox)
    assert {reply.outcome for reply in replies.values()} == {"done"}
    assert len(made) == 12
    assert set(Counter(bill["client_key"] for bill in log).values()) == {1}


BUYERS = multiprocessing.get_context("forkserver")
BUYERS.set_forkserver_preload(tests_buyer.PRELOAD)


def test_killed_at_random_moments(tmp_path):
    draw = random.Random(7)
    kills = 0
    with image_api(tmp_path, "latency=5ms,500=0.05,seed=1") as sandbox:
        while True:
            arguments = (sandbox.openai, sandbox.api_key, tmp_path / "ledger.sqlite", 30)
            buyer = BUYERS.Process(target=tests_buyer.buy_batches, args=arguments)
            buyer.start()
            buyer.join(draw.uniform(0.05, 0.5) if kills < 5 else 60)
            if buyer.exitcode == 0:
                break
            buyer.kill()
            buyer.join()
            assert buyer.exitcode == -signal.SIGKILL
            kills += 1
        log = bills(sandbox)
    assert kills > 2
    assert Counter(Counter(bill["client_key"] for bill in log).values()) == {1: 30}
    with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.counts()["done"] == 30
        assert ledger.committed_usd == pytest.approx(sum(bill["cost_usd"] for bill in log))


def test_cancel_pays_only_what_was_finished(tmp_path):
    requests = [scene(number) for number in range(150)]

    async def begin_and_leave(client):
        waiting = asyncio.ensure_future(anext(client.run_batches(requests, options=QUICK)))
        while not client.ledger.execute("SELECT 1 FROM batches WHERE state = 'open'"):
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(LedgerError, match="under way in batch"):
            await client.image(requests[0])

    with image_api(tmp_path) as sandbox:
        run(sandbox, tmp_path, begin_and_leave)
        assert run(sandbox, tmp_path, lambda client: client.cancel_batches(QUICK)) == 1
        log = bills(sandbox)
        with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
            assert 0 < ledger.counts()["done"] == len(log) < 150
            assert ledger.committed_usd == pytest.approx(sum(bill["cost_usd"] for bill in log))
        assert len(buy(sandbox, tmp_path, requests)) == 150
        assert set(Counter(bill["client_key"] for bill in bills(sandbox)).values()) == {1}


def test_budget_holds_and_what_fits_is_bought(tmp_path):
    requests = [scene(number) for number in range(40)]
    price = requests[0].bound_usd(PriceTable.load()) / 2
    with image_api(tmp_path) as sandbox:
        with pytest.raises(BudgetExceeded, match="raise --budget"):
            buy(sandbox, tmp_path, requests, budget=10.5 * price)
        paid = sum(bill["cost_usd"] for bill in bills(sandbox))
        assert 9.5 * price < paid <= 10.5 * price
        replies = buy(sandbox, tmp_path, requests, budget=1.0)
    assert {reply.outcome for reply in replies.values()} == {"done"}


def test_wrong_key_is_a_sentence_and_reserves_nothing(tmp_path):
    with image_api(tmp_path) as sandbox:
        begin = time.monotonic()
        with pytest.raises(Echo4oError, match="refused the API key"):
            buy(sandbox._replace(api_key="sk-secret-word"), tmp_path, [scene(1)])
    assert time.monotonic() - begin < 5
    with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.committed_usd == 0
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"sk-secret-word" not in path.read_bytes(), path

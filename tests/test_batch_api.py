"""The Batch API through the client: half price, paid once whatever is killed, cut or expires."""

import asyncio
import http.server
import json
import multiprocessing
import random
import signal
import threading
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


async def under_way(client, waiting):
    """Until the first batch is there; nothing the client does then has been answered yet."""
    while not client.ledger.execute("SELECT 1 FROM batches WHERE state = 'open'"):
        assert not waiting.done(), waiting
        await asyncio.sleep(0)


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
            buyer.join(draw.uniform(0.02, 0.25) if kills < 5 else 60)
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
        await under_way(client, waiting)
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
    assert time.monotonic() - begin < 30
    with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.committed_usd == 0
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"sk-secret-word" not in path.read_bytes(), path


class LosesItsReply(http.server.BaseHTTPRequestHandler):
    """Takes a file, cuts the reply to a batch, and is gone."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if self.path.endswith("/files"):
            body = json.dumps({"id": "file-1", "object": "file"}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.server.socket.close()
        self.close_connection = True

    def log_message(self, *_):
        pass


def test_a_batch_of_which_nobody_knows_stays_reserved(tmp_path):
    """A cut reply and then no network: the lines may be under way, so their price is kept."""

    async def work():
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            settings = {"base_url": url, "api_key": "k", "backoff_s": 0.0001}
            async with ApiClient(ledger=ledger, **settings) as client:
                found = client.run_batches([scene(1)], options=QUICK)
                return [reply async for _, reply in found]

    with http.server.HTTPServer(("127.0.0.1", 0), LosesItsReply) as server:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=lambda: [server.handle_request() for _ in range(2)]).start()
        with pytest.raises(Echo4oError, match="batches go on there: run the same command again"):
            asyncio.run(work())
    with image_api(tmp_path / "api") as sandbox:
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            assert ledger.counts()["reserved"] == 1
            assert ledger.execute("SELECT state FROM batches") == [("sending",)]
        # This service never heard of it, so it is sent now, and only once.
        reply = buy(sandbox, tmp_path, [scene(1)])[scene(1).key]
        assert (reply.outcome, len(bills(sandbox))) == ("done", 1)


NONSENSE = (
    b'{"custom_id": "KEY", "response": []}',
    b'{"custom_id": "KEY", "response": {"status_code": "x", "body": []}}',
    b'{"custom_id": "KEY", "response": {"status_code": 200, "body": {"data": [{}]}}}',
    b'{"custom_id": "KEY", "response": {"status_code": 200, "body": null}}',
    b'{"custom_id": "KEY", "error": "no"}',
    b"[]",
    b"null",
    b'{"custom_id": "stranger", "response": {"status_code": 200}}',
    b'{"custom_id": "KEY", "response": {"status_code": 200, "body": {"data": [{"b64_json": "'
    b'\xc3\xa9"}]}}}',
    b"\xff\n\n{",
)


def test_results_that_are_nonsense_fail_their_lines(tmp_path):
    """The result file is foreign text: it is replaced on the sandbox's disk."""
    # Large pictures, which are not finished when the client looks for the first time.
    drawn = {"model": "sandbox-image", "size": "1024x1024"}
    requests = [ImageRequest(prompt=f"a ring, {n}", **drawn) for n in range(len(NONSENSE))]
    keys = [request.key.encode() for request in requests]
    lines = [line.replace(b"KEY", key) for line, key in zip(NONSENSE, keys, strict=True)]

    async def work(client):
        options = BatchOptions(poll_s=0.05, grace_s=0.05, rounds=1)
        found = client.run_batches(requests, options=options)
        waiting = asyncio.ensure_future(anext(found))
        await under_way(client, waiting)
        folder, deadline = sandbox.root / "openai" / "files", time.monotonic() + 90
        while not (made := [p for p in folder.glob("*.bin") if b'"response"' in p.read_bytes()]):
            assert time.monotonic() < deadline
            time.sleep(0.01)  # blocks the client's loop, too: meanwhile it must not look
        made[0].write_bytes(b"\n".join(lines))
        return [await waiting] + [result async for result in found]

    with image_api(tmp_path) as sandbox:
        replies = run(sandbox, tmp_path, work)
    assert [reply.outcome for _, reply in replies] == ["failed"] * len(NONSENSE)

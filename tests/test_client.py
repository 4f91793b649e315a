"""The client against the sandbox: nothing is bought twice, whatever the network does."""

import asyncio
import base64
import io
import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import tests_buyer
from PIL import Image
from tests_sandbox import image_api

from echo4o.client import ApiClient, ChatRequest, ImageRequest, PriceTable
from echo4o.errors import Echo4oError
from echo4o.ledger import BudgetExceeded, Ledger
from echo4o.pictures import PictureError, picture_facts
from echo4o.prices import PriceError
from echo4o.transport import Transient, read_answer


def scene(number, **options):
    words = ("two", "three", "four", "five")
    prompt = f"A photo of {words[number % 4]} red circles, scene {number}"
    return ImageRequest(model="sandbox-image", prompt=prompt, size="64x64", **options)


def buy(sandbox, folder, requests, *, budget=None, **options):
    """Everything bought in one client; returns replies by key, the client and the totals."""

    async def work():
        with Ledger(folder / "ledger.sqlite", budget_usd=budget) as ledger:
            settings = {"base_url": sandbox.openai, "api_key": sandbox.api_key, "backoff_s": 0.02}
            async with ApiClient(ledger=ledger, **settings | options) as client:
                replies = {}
                try:
                    async for request, reply in client.run(requests):
                        replies[request.key] = reply
                finally:
                    replies["calls"] = client.calls_made
                    replies["committed"] = ledger.committed_usd
                    replies["counts"] = ledger.counts()
                return replies

    return asyncio.run(work())


def bills(sandbox):
    log = sandbox.root / "openai" / "calls.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_second_run_makes_no_call(tmp_path):
    with image_api(tmp_path) as sandbox:
        requests = [scene(number) for number in range(12)]
        first = buy(sandbox, tmp_path, requests)
        second = buy(sandbox, tmp_path, requests)
        log = bills(sandbox)
    assert (first["calls"], second["calls"], len(log)) == (12, 0, 12)
    for request in requests:
        one, two = first[request.key], second[request.key]
        assert (one.cached, two.cached) == (False, True)
        assert (one.image, one.created, one.request_id) == (two.image, two.created, two.request_id)
        assert picture_facts(one.image).width == 64
    # The ledger and the service agree on the bill, and the estimate foretold it.
    spent = sum(bill["cost_usd"] for bill in log)
    assert first["committed"] == pytest.approx(spent)
    estimates = [request.estimate(PriceTable.load()).cost_usd for request in requests]
    assert sum(estimates) == pytest.approx(spent, rel=0.03)


def test_equal_requests_are_one_purchase_and_repeats_are_not(tmp_path):
    with image_api(tmp_path) as sandbox:
        replies = buy(sandbox, tmp_path, [scene(1), scene(1), scene(1, repeat=1)], concurrency=3)
        assert len(bills(sandbox)) == 2
    assert replies[scene(1).key].image != replies[scene(1, repeat=1).key].image


def test_references_and_answers(tmp_path):
    async def work(sandbox):
        settings = {"base_url": sandbox.openai, "api_key": sandbox.api_key}
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            async with ApiClient(ledger=ledger, **settings) as client:
                red = await client.image(scene(0))
                edit = ImageRequest(
                    model="sandbox-image",
                    prompt="Put the object from image 1 on the left",
                    size="64x64",
                    references=(red.image,),
                )
                made = await client.image(edit)
                asked = ChatRequest(
                    model="sandbox-judge",
                    system="You are a judge.",
                    system_as_parts=True,
                    user=("Is there a red circle on the left?", made.image),
                    image_mime="image/png",
                )
                return made, await client.chat(asked), asked.bound_usd(client.prices)

    with image_api(tmp_path) as sandbox:
        made, said, bound = asyncio.run(work(sandbox))
    assert made.usage["images"] == 4
    assert said.text == "Yes"
    assert said.model == "sandbox-judge-2026-01-01"
    assert 0 < said.cost_usd <= bound


def test_faults_are_overcome(tmp_path):
    spec = "429=0.1,500=0.05,503=0.05,cut=0.05,truncate=0.05,garbage=0.05,retry_after=20ms,seed=2"
    with image_api(tmp_path, spec) as sandbox:
        requests = [scene(number) for number in range(60)]
        replies = buy(sandbox, tmp_path, requests, concurrency=16, max_attempts=10)
        delivered = Counter(bill["client_key"] for bill in bills(sandbox) if bill["delivered"])
        paid = sum(bill["cost_usd"] for bill in bills(sandbox))
    assert replies["counts"]["done"] == 60
    assert replies["calls"] > 70
    assert delivered == Counter({request.key: 1 for request in requests})
    assert replies["committed"] >= paid - 1e-9


def test_refusals_are_outcomes(tmp_path):
    with image_api(tmp_path, "refuse=0.3,seed=1") as sandbox:
        requests = [scene(number) for number in range(20)]
        requests.append(ImageRequest(model="sandbox-image", prompt="gore", size="64x64"))
        question = ChatRequest(model="sandbox-text", user=("Hello?",))
        chats = [question] + [
            ChatRequest(model="sandbox-text", user=(f"Hello {n}?",)) for n in range(9)
        ]
        first = buy(sandbox, tmp_path, [*requests, *chats])
        again = buy(sandbox, tmp_path, [*requests, *chats])
    reasons = Counter((first[r.key].reason or "").split(":")[0] for r in requests)
    assert reasons["content_policy_violation"] > 2
    assert first[requests[-1].key].outcome == "refused" or reasons["moderation_blocked"]
    refused = [first[chat.key] for chat in chats if first[chat.key].outcome == "refused"]
    assert refused
    assert all(reply.cost_usd > 0 and reply.text is None for reply in refused)
    assert again["calls"] == 0


def test_budget_is_never_exceeded(tmp_path):
    requests = [scene(number) for number in range(40)]
    with image_api(tmp_path, "cut=0.1,seed=4") as sandbox:
        with pytest.raises(BudgetExceeded, match="raise --budget"):
            buy(sandbox, tmp_path, requests, budget=0.02, concurrency=8)
        paid = sum(bill["cost_usd"] for bill in bills(sandbox))
        assert 0.012 < paid <= 0.02
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            done = ledger.counts()["done"]
            assert paid - 1e-9 <= ledger.committed_usd <= 0.02
        replies = buy(sandbox, tmp_path, requests, budget=1.0)
        assert sum(replies[request.key].cached for request in requests) == done
        assert replies["counts"]["done"] == 40


BUYERS = multiprocessing.get_context("forkserver")
BUYERS.set_forkserver_preload(tests_buyer.PRELOAD)


def run_buyer(sandbox, folder, calls=None):
    """True when the buyer finished before it was killed: so many calls after it began."""
    begun, log = BUYERS.Event(), sandbox.root / "openai" / "calls.jsonl"
    arguments = (sandbox.openai, sandbox.api_key, folder / "ledger.sqlite", 60, begun)
    buyer = BUYERS.Process(target=tests_buyer.buy_all, args=arguments)
    buyer.start()
    if calls is not None:
        assert begun.wait(60)
        before = size_of(log)
        while buyer.is_alive() and size_of(log) < before + calls:
            time.sleep(0.001)
        buyer.kill()
    buyer.join(60)
    assert buyer.exitcode in (0, -signal.SIGKILL)
    return buyer.exitcode == 0


def size_of(log):
    return log.read_bytes().count(b"\n") if log.exists() else 0


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments(tmp_path, seed):
    """Same pictures as a run without kills, and nothing paid twice beyond the calls in flight."""
    draw = random.Random(seed)
    spec = f"429=0.05,500=0.05,cut=0.03,refuse=0.1,retry_after=10ms,latency=10ms,seed={seed}"
    kills = 0
    for folder in ("killed", "whole"):
        (tmp_path / folder).mkdir()
    with image_api(tmp_path / "killed", spec) as sandbox:
        while not run_buyer(sandbox, tmp_path / "killed", draw.randrange(5, 30)):
            kills += 1
            assert kills < 40
        log = bills(sandbox)
    with image_api(tmp_path / "whole", spec) as sandbox:
        assert run_buyer(sandbox, tmp_path / "whole")
        expected = bills(sandbox)
    results = []
    for folder in ("killed", "whole"):
        with Ledger(tmp_path / folder / "ledger.sqlite", read_only=True) as ledger:
            entries = [(e.key, e.state, e.picture, e.created, e.reason) for e in ledger.entries()]
            results.append(entries)
            committed = ledger.committed_usd
            if folder == "killed":
                assert sum(bill["cost_usd"] for bill in log) <= committed + 1e-9 <= 1.0
    assert results[0] == results[1]
    assert kills > 1
    again = Counter(bill["key"] for bill in log if bill["delivered"]).values()
    # In flight is what is not settled: asked (8), or received and being written (8).
    assert sum(again) - len(again) <= 2 * 8 * kills
    assert {bill["key"] for bill in expected} == {bill["key"] for bill in log}


def test_wrong_key_model_and_address(tmp_path):
    with image_api(tmp_path) as sandbox:
        with pytest.raises(Echo4oError, match="refused the API key; set OPENAI_API_KEY") as caught:
            buy(sandbox, tmp_path, [scene(1)], api_key="sk-secret-word")
        assert "sk-secret-word" not in str(caught.value)
        prices = {"models": {"other": {"input_text": 0, "input_image": 0, "output": 0}}}
        (tmp_path / "prices.json").write_text(json.dumps(prices))
        table = PriceTable.load(tmp_path / "prices.json")
        request = ImageRequest(model="other", prompt="a", size="64x64")
        with pytest.raises(Echo4oError, match="has no model 'other'"):
            buy(sandbox, tmp_path, [request], prices=table)
    gone = sandbox._replace(openai=sandbox.openai.replace("//", "//me:secret-word@"))
    with pytest.raises(Echo4oError, match="cannot be reached") as caught:
        buy(gone, tmp_path, [scene(2)], max_attempts=2)
    assert "secret-word" not in str(caught.value)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.committed_usd == 0
        assert ledger.counts()["failed"] >= 3
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"sk-secret-word" not in path.read_bytes(), path


def test_bad_request_fails_alone(tmp_path):
    odd = ImageRequest(model="sandbox-image", prompt="a", size="64x65")
    with image_api(tmp_path) as sandbox:
        replies = buy(sandbox, tmp_path, [odd, scene(1)])
        assert replies[odd.key].outcome == "failed"
        assert "multiples of 16" in replies[odd.key].reason
        assert replies[scene(1).key].outcome == "done"
        assert replies["calls"] == 2


def test_rate_limit_of_the_server_is_learned(tmp_path):
    """Nobody runs into a 429, although 16 calls could be sent before the first answer."""
    with image_api(tmp_path, "rpm=1500,burst=3") as sandbox:
        replies = buy(sandbox, tmp_path, [scene(number) for number in range(40)], concurrency=16)
    assert replies["calls"] == 40


def test_pace_is_kept(tmp_path):
    with image_api(tmp_path) as sandbox:
        begin = time.monotonic()
        buy(sandbox, tmp_path, [scene(n) for n in range(11)], requests_per_minute=1200)
        assert time.monotonic() - begin >= 10 * 60 / 1200


def test_model_without_price_names_the_file(tmp_path, monkeypatch):
    request = ImageRequest(model="some-model", prompt="a")
    with pytest.raises(PriceError, match="no price for model 'some-model'.*ECHO4O_PRICES"):
        request.bound_usd(PriceTable.load())
    path = tmp_path / "mine.json"
    path.write_text('{"models": {"some-model": {"input_text": 1, "input_image": 1, "output": 1}}}')
    monkeypatch.setenv("ECHO4O_PRICES", str(path))
    assert request.bound_usd(PriceTable.load()) == pytest.approx((1 + 4 + 64 * 64) / 1e6)
    with pytest.raises(PriceError, match=r"add it to .*mine\.json"):
        PriceTable.load().price("third")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is no JSON"),
        ("[]", 'needs an object "models"'),
        ('{"models": {"m": {"outptu": 1}}}', "unknown"),
        ('{"models": {"m": {"output": 1}}}', "needs `input_text` and `input_image`"),
        (
            '{"models": {"m": {"input_text": 1, "input_image": 1, "output": 1, "image_tokens": '
            '{"64x64/low": "many"}}}}',
            "`image_tokens` of '64x64/low' must be 0 or more",
        ),
        ('{"models": {"m": {"input_text": -1, "input_image": 0, "output": 1}}}', "0 or more"),
    ],
)
def test_bad_price_table_is_a_sentence(tmp_path, content, words):
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(PriceError, match=words):
        PriceTable.load(tmp_path / "p.json")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_cut_pictures_are_noticed(kind):
    buffer = io.BytesIO()
    Image.effect_noise((48, 32), 50).convert("RGB").save(buffer, kind)
    data = buffer.getvalue()
    facts = picture_facts(data)
    assert (facts.width, facts.height) == (48, 32)
    for part in (data[: len(data) // 2], data[:-5], data[:20], b""):
        with pytest.raises(PictureError):
            picture_facts(part)


def test_replies_are_foreign_text():
    """A picture that is no ASCII can be asked for again; half of a character is not kept."""
    with pytest.raises(Transient) as failure:
        read_answer("image", "m", {"data": [{"b64_json": "\u00e9\u00e9\u00e9\u00e9"}]}, {})
    assert failure.value.may_be_billed
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    picture = {"data": [{"b64_json": base64.b64encode(buffer.getvalue()).decode()}]}
    moderation = {"results": [{"flagged": False, "categories": {}}]}
    for kind, body in (("image", picture), ("moderation", moderation)):
        answer = read_answer(kind, "m", {**body, "model": "half \ud800"}, {})
        assert answer.model == "half \ufffd"


def test_import_is_light():
    code = "import sys, echo4o.client, echo4o.ledger; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "openai", "datasets", "tqdm"} & set(done.stdout.split())


def test_retry_after_is_honoured(tmp_path):
    requests = [scene(number) for number in range(6)]
    with image_api(tmp_path, "429=0.5,retry_after=700ms,seed=1") as sandbox:
        begin = time.monotonic()
        replies = buy(sandbox, tmp_path, requests, max_attempts=12)
    assert replies["counts"]["done"] == 6
    assert replies["calls"] > 6
    assert time.monotonic() - begin >= 0.7


def test_breaking_off_keeps_what_was_bought(tmp_path):
    async def first_two(sandbox):
        settings = {"base_url": sandbox.openai, "api_key": sandbox.api_key, "concurrency": 2}
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            async with ApiClient(ledger=ledger, **settings) as client:
                bought = []
                async for request, _ in client.run(scene(number) for number in range(100)):
                    bought.append(request.key)
                    if len(bought) == 2:
                        await asyncio.sleep(0.3)  # by now every worker waits to hand over
                        break
                return bought

    with image_api(tmp_path) as sandbox:
        bought = asyncio.run(first_two(sandbox))
        replies = buy(sandbox, tmp_path, [scene(number) for number in range(100)])
    assert all(replies[key].cached for key in bought)
    assert replies["counts"]["done"] == 100

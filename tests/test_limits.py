"""How many calls are in flight and who goes first: the limit alone, without a server."""

import asyncio
import selectors
import time

import pytest

from echo4o.limits import AdaptiveLimit, duration, retry_after


@pytest.fixture
def run(monkeypatch):
    """`asyncio.run` on a clock that stands while anybody works, and then jumps to the next timer.

    By the machine's own clock, tests of hundredths of a second fail on a busy machine.
    """
    now = [time.monotonic()]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    class Jumping(selectors.DefaultSelector):
        def select(self, timeout=None):
            assert timeout is not None, "everybody waits, and for no timer"
            now[0] += timeout
            return super().select(0)

    def run(work):
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Jumping())) as runner:
            return runner.run(work)

    return run


async def enters_within(seconds, limit):
    try:
        async with asyncio.timeout(seconds), limit.turn():
            return True
    except TimeoutError:
        return False


def test_a_long_wait_is_for_everybody(run):
    async def enters(seconds):
        limit = AdaptiveLimit(4)
        limit.observe(limited=False)
        limit.ask_to_wait(seconds)
        return await enters_within(0.1, limit)

    assert run(enters(0.5)), "a short wait concerns one call"
    assert not run(enters(600))


def test_limits_of_tokens_and_of_others_are_kept(run):
    head = {"x-ratelimit-limit-requests": "600", "x-ratelimit-limit-tokens": "90000"}
    limit = AdaptiveLimit(4, per_minute=500)
    limit.learn(head)
    assert limit.pace == 500, "no header raises the user's own limit"
    limit.learn(head, tokens=1000)
    assert limit.pace == 90

    async def waits(headers):
        limit = AdaptiveLimit(4)
        async with limit.turn():
            limit.learn(head | headers, tokens=1000)
        return not await enters_within(0.05, limit)

    spare = {"x-ratelimit-remaining-requests": "9", "x-ratelimit-remaining-tokens": "5000"}
    assert not run(waits(spare))
    assert run(waits(spare | {"x-ratelimit-remaining-requests": "0"}))
    short = {"x-ratelimit-remaining-tokens": "10", "x-ratelimit-reset-tokens": "60s"}
    assert run(waits(spare | short))


def test_the_pace_is_not_kept_while_the_service_promises_plenty(run):
    async def seconds(remaining, **limits):
        limit = AdaptiveLimit(8, **limits)
        headers = {"x-ratelimit-limit-requests": "600"}
        async with limit.turn():
            limit.learn(headers | {"x-ratelimit-remaining-requests": str(remaining)})
            limit.observe(limited=False)
        begun = time.monotonic()
        for _ in range(4):
            async with limit.turn():
                pass
        return time.monotonic() - begun

    assert run(seconds(500)) < 0.1
    assert run(seconds(9)) > 0.25, "as many as there are places: at the pace"
    assert run(seconds(500, per_minute=600)) > 0.25, "the user's own limit is kept"


def test_header_times():
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after({"retry-after": "7200"}) == 7200
    assert retry_after({"retry-after": "Thu, 01 Jan 2026 00:00:10 GMT"}, 1767225600.0) == 10
    assert retry_after({"retry-after": "soon"}) is None
    week = 7 * 86400
    assert retry_after({"retry-after": "9" * 400}) == week
    assert retry_after({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}) == week
    assert retry_after({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}) == 0
    assert [duration(text) for text in ("250ms", "1s", "6m0s", "1h2m", "x", "5")] == [
        *(0.25, 1.0, 360.0, 3720.0),
        *(None, None),
    ]


def test_concurrency_adapts():
    limit = AdaptiveLimit(32)
    for _ in range(200):
        limit.observe(limited=False)
    assert limit.current == 32
    for number in range(300):
        limit.observe(limited=number % 20 == 0)
    assert limit.current > 25, "stray 429 answers slow nobody down"
    for _ in range(300):
        limit.observe(limited=True)
    assert limit.current == 1
    assert limit.pace is not None, "no header told the limit: it is what was let through"
    for _ in range(2000):
        limit.observe(limited=False)
    assert limit.current == 32


def test_one_call_goes_first_and_ever_more_follow_while_it_is_out(run):
    """A refusal would come at once; only an answer is worth 0.25 s of waiting."""

    async def begun_after(seconds, refused):
        limit, begun = AdaptiveLimit(32), 0

        async def call():
            nonlocal begun
            async with limit.turn():
                begun += 1
                if refused:
                    limit.observe(limited=True)
                await asyncio.sleep(9)

        calls = [asyncio.create_task(call()) for _ in range(40)]
        await asyncio.sleep(seconds)
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        return begun

    assert run(begun_after(0.15, False)) == 1
    assert 2 <= run(begun_after(0.32, False)) <= 8
    assert run(begun_after(1.2, False)) == 32
    assert run(begun_after(0.7, True)) == 1, "who was refused says that more would be"


def test_what_is_asked_again_goes_before_what_was_never_asked(run):
    async def order():
        limit, entered = AdaptiveLimit(1), []

        async def call(name, ahead):
            async with limit.turn(ahead=ahead):
                entered.append(name)
                await asyncio.sleep(0.02)
                limit.observe(limited=False)

        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(call(number, False))
            await asyncio.sleep(0.01)
            lost = group.create_task(call("gave up", True))
            group.create_task(call("again", True))
            await asyncio.sleep(0.005)
            lost.cancel()  # nobody waits for it any longer
        return entered

    assert run(order()) == [0, "again", 1, 2, 3]

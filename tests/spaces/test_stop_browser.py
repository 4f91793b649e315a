"""Who waits, stops and starts again, in a real Chromium: what comes late confuses nothing."""

import re

import pytest
from calls import LONG, joined
from demo_page import PROMPT, is_stopped, long_work, make, pictures, start, stop, turn_to
from gradio_client import Client

pytestmark = pytest.mark.browser


def test_previews_show_the_way_and_stop_ends_it(visit, screenshots):
    page = visit()
    page.evaluate(WATCH_PREVIEWS)
    long_work(page)
    page.wait_for_function("window.previews.length >= 3")
    page.screenshot(path=screenshots / "working.png")
    assert re.search(r"to go", page.locator("#create-stage").inner_text())
    stop(page)
    is_stopped(page)
    done = page.evaluate("window.previews")
    assert done == sorted(done)
    assert done[-1] < 100
    # The model is free again: the next picture comes, and none of the stopped ones.
    make(page, number=1, steps=4)
    assert pictures(page).count() >= 1
    assert page.locator("#create-rest").get_by_text("Stopped").is_hidden()
    assert page.get_by_role("alert").locator("visible=true").count() == 0


WATCH_PREVIEWS = """() => {
  window.previews = [];  // the percentage that was done when each came
  let last = null;
  new MutationObserver(() => {
    const now = document.querySelector('#create-stage .working img')?.src;
    if (!now || now === last) return;
    last = now;
    const bar = document.querySelector('#create-stage [role=progressbar]');
    window.previews.push(Number(bar.ariaValueNow));
  }).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


def test_a_start_right_after_a_stop_is_not_undone_by_late_answers(visit):
    page = visit()
    long_work(page)
    held = []
    first = re.compile(r"/(cancel|reset|run/predict)\b")
    page.route(first, lambda route: held.append((route, route.fetch())), times=1)
    stop(page)
    is_stopped(page)
    assert held
    start(page)
    page.locator("#create-stage .working img").wait_for()
    for route, answer in held:
        route.fulfill(response=answer)
    page.wait_for_timeout(500)
    page.locator("#create-stage .working img").wait_for()
    assert page.locator("#create-rest").is_hidden()
    stop(page)
    is_stopped(page)


def test_what_waits_leaves_the_line_and_each_tab_knows_its_own_place(visit, long_line):
    page = visit()
    page.locator("#create-prompt textarea").fill(PROMPT)
    start(page)
    page.locator("#create-stage").get_by_text("before you").wait_for()
    turn_to(page, "Compare")
    page.locator("#compare-prompt textarea").fill(PROMPT)
    start(page, "Compare")
    page.wait_for_function(
        """() => { const [one, other] = ["create", "compare"].map((tab) =>
            document.querySelector(`#${tab}-stage`)?.textContent.match(/(\\d+) before you/)?.[1]);
        return one && Number(other) === Number(one) + 1; }"""
    )
    stop(page)
    is_stopped(page, "compare")
    turn_to(page, "Create")
    page.locator("#create-stage").get_by_text("before you").wait_for()
    stop(page)
    is_stopped(page)
    assert not long_line[-1].done()


@pytest.fixture
def long_line(app):
    """Six long works of another visitor, the first of them begun."""
    calls = Client(app, verbose=False, max_workers=6, download_files=False)
    jobs = [calls.submit(api_name="/generate", **LONG) for _ in range(6)]
    for job in jobs:
        joined(job)
    yield jobs
    for job in jobs:
        job.cancel()


def test_a_request_that_is_lost_brings_the_page_back(visit):
    page = visit()
    refused = {"status": 503, "json": {"detail": "the queue is full"}}
    page.route("**/queue/join*", lambda route: route.fulfill(**refused))
    asked = []
    page.on("request", lambda one: asked.append(one.url) if "/run/" in one.url else None)
    page.get_by_role("button", name="A photo of a purple apple").click()
    page.wait_for_function(
        "document.querySelector('#create-prompt textarea').value === 'A photo of a purple apple'"
    )
    assert not asked  # who starts at once starts with these words
    start(page)
    page.get_by_role("alert").get_by_text("This request was lost").wait_for()
    page.locator("button.start:enabled").locator("visible=true").wait_for()
    page.locator("#create-stage").wait_for(state="hidden")
    page.unroute("**/queue/join*")
    start(page)
    pictures(page).first.wait_for()


def test_who_waits_sees_how_many_are_before(visit, screenshots, long_line):
    page = visit()
    page.locator("#create-prompt textarea").fill(PROMPT)
    start(page)
    page.locator("#create-stage").get_by_text(re.compile(r"[1-6] before you")).wait_for()
    page.screenshot(path=screenshots / "waiting.png")
    for job in long_line:
        job.cancel()
    pictures(page).first.wait_for()


def test_a_full_queue_is_told_and_leaves_the_page_as_it_was(visit, app, long_line):
    page = visit()
    page.locator("#create-prompt textarea").fill(PROMPT)
    calls = Client(app, verbose=False, max_workers=80, download_files=False)
    name = {"prompt": "a ring", "api_name": "/generate"}
    jobs = [calls.submit(steps=1, **name) for _ in range(59)]  # and five of the six
    for job in jobs:
        joined(job)
    while True:  # in the places of those that were served meanwhile, until one is refused
        job = calls.submit(steps=1, **name)
        joined(job)
        if job.done() and job.exception():
            break
        jobs.append(job)
    start(page)
    page.get_by_text("Too many people wait here").wait_for()
    assert page.locator("button.start:enabled").first.is_visible()
    visit()  # who comes now finds a page that is alive
    for job in long_line:
        job.cancel()
    for job in jobs:
        job.result(timeout=90)
    start(page)
    pictures(page).first.wait_for()

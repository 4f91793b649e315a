"""The annotation page in a real browser: by keyboard, in shares and in points, and its disputes."""

import json
import threading

import pytest
from browsing import find_browser
from eval_tools import KIT, paint_into, verdict, write_run

from echo4o.eval.annotate import make_server
from echo4o.eval.items import select
from echo4o.eval.protocols import Finding
from echo4o.eval.tasks import get_task
from echo4o.eval.votes import Votes, read_people

pytestmark = pytest.mark.browser


@pytest.fixture
def visit(tmp_path):
    """Open the page of a run folder; fails on any script error, refusal or foreign request."""
    from playwright.sync_api import sync_playwright

    servers, complaints = [], []

    def foreign(url, address):
        if not url.startswith((address, "data:")):
            complaints.append(url)

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])

        def opened(folder, size):
            server, address = make_server(folder, 0)
            threading.Thread(target=server.serve_forever, args=(0.01,)).start()
            servers.append(server)
            page = browser.new_page(viewport={"width": size[0], "height": size[1]})
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda one: foreign(one.url, address))
            page.set_default_timeout(90_000)
            page.goto(address)
            return page

        yield opened
        browser.close()
    for server in servers:
        server.shutdown()
        server.server_close()
    assert complaints == []


def test_right_and_wrong_by_keyboard_then_a_dispute(visit, tmp_path):
    items = select(KIT.items, 3)
    pictures = paint_into(tmp_path / "pictures", items)
    run = write_run(tmp_path / "run", [verdict(item, True) for item in items], pictures)
    (run / "items.jsonl").write_text("".join(json.dumps(i.to_json()) + "\n" for i in items))
    page = visit(run, (1280, 800))
    for rater, keys in (("ada", "yyn"), ("bo", "yyy")):
        page.fill("#name", rater)
        page.press("#name", "Enter")
        page.wait_for_selector("#desk:visible")
        assert page.inner_text("#count").startswith("0 of 3 judged")
        assert page.locator("#checklist li").count() >= 2
        for place, key in enumerate(keys, start=1):
            page.wait_for_selector("#picture:not(.coming)")
            page.keyboard.press(key)
            page.wait_for_function(
                "n => document.getElementById('count').textContent.startsWith(n + ' of 3')",
                arg=place,
            )
        page.keyboard.press("ArrowLeft")
        assert page.inner_text("#count") == "3 of 3 judged, picture 2; all done, thank you"
        page.wait_for_function("() => document.getElementById('picture').naturalWidth > 0")
        page.click("#leave")
    assert [len(Votes.open(run, name).votes) for name in ("ada", "bo")] == [3, 3]
    people = read_people(run)
    page.click("#settle")
    if people.disputes == 0:  # both orders ended on the same picture by chance
        raise AssertionError("the two raters were to disagree")
    page.wait_for_selector("#said:has-text('They said: wrong and right')")
    while "judged" in page.inner_text("#count") and read_people(run).disputes:
        before = page.inner_text("#count")
        page.wait_for_selector("#picture:not(.coming)")
        page.keyboard.press("n")
        page.wait_for_function(
            "before => document.getElementById('count').textContent !== before", arg=before
        )
    assert read_people(run).disputes == 0


def test_points_by_keyboard_on_a_phone(visit, tmp_path):
    task = get_task("imagine_bench")
    items = select(task.items("kit").items, 2)
    pictures = paint_into(tmp_path / "pictures", items)
    finding = Finding(expectation="fantasy", satisfied=False, reason="r", points=4)
    verdicts = [verdict(item, False, points=4.0, findings=(finding,)) for item in items]
    run = write_run(tmp_path / "run", verdicts, pictures)
    value = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(value | {"task": task.name}))
    page = visit(run, (390, 800))
    page.fill("#name", "ada")
    page.press("#name", "Enter")
    page.wait_for_selector("#desk:visible")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.wait_for_selector("#picture:not(.coming)")
    for key in "8x5":
        page.keyboard.press(key)
    page.wait_for_function(
        "() => document.getElementById('count').textContent.startsWith('1 of 2')"
    )
    (vote,) = Votes.open(run, "ada").votes.values()
    assert vote.marks == (8, 10, 5)


def test_questions_are_answered_by_y_and_n(visit, tmp_path):
    task = get_task("dpg_bench")
    items = task.items("kit").items[:2]
    pictures = paint_into(tmp_path / "pictures", items)
    verdicts = [verdict(item, False, points=50.0) for item in items]
    run = write_run(tmp_path / "run", verdicts, pictures)
    value = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(value | {"task": task.name}))
    (run / "items.jsonl").write_text("".join(json.dumps(i.to_json()) + "\n" for i in items))
    page = visit(run, (1280, 800))
    page.fill("#name", "ada")
    page.press("#name", "Enter")
    page.wait_for_selector("#picture:not(.coming)")
    lines = page.locator(".scale").count()
    assert lines > 3
    for place in range(lines):
        page.keyboard.press("n" if place == 1 else "y")
    page.wait_for_function(
        "() => document.getElementById('count').textContent.startsWith('1 of 2')"
    )
    (vote,) = Votes.open(run, "ada").votes.values()
    assert vote.marks == (1, 0) + (1,) * (lines - 2)


def test_a_late_answer_is_noted_at_the_picture_that_was_voted_on(visit, tmp_path):
    items = select(KIT.items, 3)
    pictures = paint_into(tmp_path / "pictures", items)
    run = write_run(tmp_path / "run", [verdict(item, True) for item in items], pictures)
    page = visit(run, (1280, 800))
    page.fill("#name", "ada")
    page.press("#name", "Enter")
    page.wait_for_selector("#picture:not(.coming)")
    held = []
    page.route("**/vote", lambda route: held.append((route, route.fetch())))
    page.keyboard.press("y")
    page.keyboard.press("ArrowRight")
    while not held:
        page.wait_for_timeout(20)
    for route, answer in held:
        route.fulfill(response=answer)
    page.wait_for_function(
        "() => document.getElementById('count').textContent === '1 of 3 judged, picture 2'"
    )
    page.wait_for_selector("#picture:not(.coming)")
    assert page.locator("#answers .chosen").count() == 0
    page.keyboard.press("ArrowLeft")
    assert page.locator("#answers .chosen").inner_text() == "Right (y)"


def test_a_held_key_is_one_vote_and_nobody_votes_on_the_picture_before(visit, tmp_path):
    items = select(KIT.items, 4)
    pictures = paint_into(tmp_path / "pictures", items)
    run = write_run(tmp_path / "run", [verdict(item, True) for item in items], pictures)
    page = visit(run, (1280, 800))
    page.fill("#name", "ada")
    page.press("#name", "Enter")
    page.wait_for_selector("#picture:not(.coming)")
    for _ in range(3):  # without letting go: the browser marks the second one as a repeat
        page.keyboard.down("y")
    page.wait_for_function(
        "() => document.getElementById('count').textContent.startsWith('1 of 4')"
    )
    page.route("**/picture?*", lambda route: None)  # the next picture never comes
    page.keyboard.press("ArrowRight")
    page.keyboard.up("y")
    page.keyboard.press("n")
    page.wait_for_timeout(200)
    assert len(Votes.open(run, "ada").votes) == 1

"""The demo in a real Chromium; screenshots go to $ECHO4O_SCREENSHOTS for people to look at."""

import re
from importlib import resources

import pytest
from browsing import SIZES, fits, look, settle
from demo import TINY, running
from demo_page import PICTURES, PROMPT, READY, make, pictures, start, turn_to, unfold
from PIL import Image

from echo4o.models.pictures import read_record
from echo4o.records import sha256_file

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("device", SIZES)
def test_every_tab_fits_and_is_looked_at(visit, screenshots, device):
    page = visit(SIZES[device])
    look(page, screenshots, f"{device}-empty")
    top = place(page, "#create-rest")
    make(page, number=2)
    assert fits(page)
    jumps = [abs(after - before) for after, before in zip(place(page, PICTURES), top, strict=True)]
    assert max(jumps) <= 2, jumps
    look(page, screenshots, f"{device}-create")
    for tab in ("Compose", "Ask", "Compare"):
        turn_to(page, tab)
        assert fits(page)
        look(page, screenshots, f"{device}-{tab.lower()}")


def place(page, selector):
    """Left, top, width and height on the page, however far it is scrolled."""
    return page.evaluate(
        """(one) => { const b = document.querySelector(one).getBoundingClientRect();
        return [b.left + scrollX, b.top + scrollY, b.width, b.height]; }""",
        selector,
    )


def test_a_downloaded_picture_is_repeated_and_a_link_restores(visit, tmp_path):
    page = visit()
    make(page, "A photo of a purple apple", number=1, seed=77)
    first = download(page, tmp_path / "first.png")
    address = page.get_by_role("link", name="Link to these settings").get_attribute("href")
    again = visit()
    unfold(again, "Repeat a picture")
    again.locator("#repeat-file input[type=file]").set_input_files(first)
    again.get_by_text("Its prompt and settings are in place").wait_for()
    start(again)
    pictures(again).first.wait_for()
    second = download(again, tmp_path / "second.png")
    assert Image.open(first).tobytes() == Image.open(second).tobytes()
    assert read_record(first).seed == 77
    linked = visit(address=address)
    linked.wait_for_function(
        "document.querySelector('#create-prompt textarea').value === 'A photo of a purple apple'"
    )
    unfold(linked, "Advanced")
    assert linked.get_by_label("Seed", exact=True).first.input_value() == "77"


def download(page, path):
    with page.expect_download() as caught:
        page.locator("#create-pictures").get_by_label("Download").first.click()
    caught.value.save_as(path)
    return path


def test_references_keep_their_order(visit, screenshots, tmp_path):
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{colour}.png")
    page = visit()
    turn_to(page, "Compose")
    for place, colour in ((1, "red"), (2, "blue")):
        put(page, place, tmp_path / f"{colour}.png")
    before = page.locator("#image-1 img").get_attribute("src")
    page.locator("#earlier-2").click()  # now blue comes first
    page.wait_for_function(
        "(was) => document.querySelector('#image-1 img')?.src.endsWith(was) === false", arg=before
    )
    page.locator("#caption-1").get_by_role("textbox").fill("the sea")
    page.locator("#compose-prompt textarea").fill("Join")
    for place in (1, 2):
        page.get_by_role("button", name=f"Use image {place}").click()
    page.wait_for_function(
        "document.querySelector('#compose-prompt textarea').value === 'Join image 1 image 2'"
    )
    start(page, "Compose")
    pictures(page, "compose").first.wait_for()
    page.screenshot(path=screenshots / "composed.png", full_page=True)
    with page.expect_download() as caught:
        page.locator("#compose-pictures").get_by_label("Download").first.click()
    caught.value.save_as(tmp_path / "made.png")
    record = read_record(tmp_path / "made.png")
    assert record.prompt == "Image 1 is the sea. Join image 1 image 2"
    wanted = [sha256_file(tmp_path / f"{colour}.png") for colour in ("blue", "red")]
    assert [one.sha256 for one in record.references] == wanted


def put(page, place, path):
    """Upload into one slot and wait until it is there."""
    page.locator(f"#image-{place} input[type=file]").set_input_files(path)
    page.locator(f"#image-{place} img").wait_for()


def test_answer_and_plan_are_streamed(visit, tmp_path, screenshots):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    page = visit()
    turn_to(page, "Ask")
    page.locator("#ask-picture input[type=file]").set_input_files(tmp_path / "red.png")
    page.locator("#ask-picture img").wait_for()
    page.get_by_role("button", name="What is in this picture?").click()
    page.wait_for_function("document.querySelector('#ask-question textarea').value.length > 5")
    answer = page.get_by_label("Answer")
    for _ in range(4):  # a piece of the text that comes late wiped out "Stopped." once in five
        start(page, "Ask")
        page.wait_for_function(STOP_MIDWAY, arg=answer.element_handle())
        page.get_by_role("alert").get_by_text("Stopped.").wait_for()
        page.get_by_role("button", name="Ask").locator("visible=true").wait_for()
        settle(page)
        assert page.get_by_role("alert").get_by_text("Stopped.").is_visible()
    page.screenshot(path=screenshots / "answered.png", full_page=True)
    turn_to(page, "Create")
    unfold(page, "Advanced")
    page.get_by_label("Think first").first.check()
    page.locator(".thought.empty").locator("visible=true").wait_for()
    page.locator("#create-prompt textarea").fill(PROMPT)
    start(page)
    page.locator(".thought.writing:not(.empty)").locator("visible=true").wait_for()
    page.screenshot(path=screenshots / "thinking.png", full_page=True)
    pictures(page).first.wait_for()
    page.locator(".thought.written:not(.empty)").locator("visible=true").wait_for()


# Clicked in the page itself: an answer takes a second or two, and a way round would be too long.
STOP_MIDWAY = """(answer) => {
  const seen = (answer.seen ??= new Set()).add(answer.value.length);
  const stop = [...document.querySelectorAll("button")].find(
    (one) => one.offsetParent && one.textContent.trim() === "Stop");
  if (seen.size < 3 || !stop) return false;
  answer.seen = undefined;
  stop.click();
  return true;
}"""


def test_two_visitors_stay_apart(visit):
    one, other = visit(), visit()
    make(one, "A photo of a red ring", seed=1, number=1)
    make(other, "A photo of a blue cross", seed=2, number=1)
    for page, seed, foreign in ((one, 1, 2), (other, 2, 1)):
        unfold(page, "This visit")
        page.locator(f"#visit img[alt^='machine-made, seed {seed}:']").wait_for()
        assert page.locator(f"#visit img[alt^='machine-made, seed {foreign}:']").count() == 0
    # A picture of the visit brings its settings back.
    one.locator("#create-prompt textarea").fill("something else")
    one.locator("#visit button").filter(has=one.locator("img")).first.click()
    one.wait_for_function(
        "document.querySelector('#create-prompt textarea').value === 'A photo of a red ring'"
    )


def test_compare_shows_two_pictures_of_one_seed(visit, screenshots):
    page = visit()
    turn_to(page, "Compare")
    start(page, "Compare")
    page.locator("#compare-rest").get_by_text("The prompt is empty").wait_for()
    page.locator("#compare-prompt textarea").fill(PROMPT)
    start(page, "Compare")
    page.locator("#compare-pictures img").nth(1).wait_for()
    page.get_by_text(re.compile("Left: Fast, 25 steps.*Right: Quality, 49 steps")).wait_for()
    page.wait_for_timeout(300)
    page.screenshot(path=screenshots / "compare.png", full_page=True)


def test_refusal_is_a_sentence_and_the_keyboard_is_enough(visit, screenshots):
    page = visit()
    start(page)
    page.get_by_role("alert").get_by_text("The prompt is empty").wait_for()
    page.screenshot(path=screenshots / "refusal.png")
    page.locator("#create-prompt textarea").focus()
    page.keyboard.type("A photo of a ring")
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").strip().startswith("Create ·"):
            break
    page.keyboard.press("Enter")
    pictures(page).first.wait_for()
    assert page.get_by_role("alert").locator("visible=true").count() == 0
    # The button that had the keyboard made place for Stop; the new picture has it now.
    page.wait_for_function(
        "document.querySelector('#create-pictures').contains(document.activeElement)"
    )


def test_a_hosted_page_checks_counts_and_judges(
    visitors, screenshots, sandbox, classifier, tmp_path
):
    hosted = {
        **TINY,
        "ECHO4O_HOSTED": "1",
        "ECHO4O_REQUESTS_PER_HOUR": "4",
        "ECHO4O_COMPARE": str(resources.files("echo4o.models") / "tiny_model"),
        "ECHO4O_SAFETY_MODEL": str(classifier),
        "ECHO4O_JUDGE": "sandbox-judge",
        "ECHO4O_JUDGE_FOLDER": str(tmp_path / "ledgers"),
        "OPENAI_BASE_URL": sandbox.openai,
        "OPENAI_API_KEY": sandbox.api_key,
    }
    with running(tmp_path, environment=hosted) as (url, _):
        page = visitors(url)
        page.get_by_text(READY).wait_for()
        page.locator("button.start:enabled").first.wait_for()
        page.locator("#create-prompt textarea").fill("a naked ring")
        start(page)
        page.get_by_role("alert").get_by_text("is about nudity or sex").wait_for()
        for prompt in ("A photo of a purple apple", "A photo of a blue sun"):
            make(page, prompt, seed=3)
            page.locator("button.start:enabled").first.wait_for()
        page.get_by_role("button", name="Judge it").click()
        page.locator(".verdict li").first.wait_for()
        page.screenshot(path=screenshots / "judged.png", full_page=True)
        turn_to(page, "Compare")
        page.locator("#compare-prompt textarea").fill(PROMPT)
        unfold(page, "Right: Quality")
        page.get_by_label("Model").last.click()
        page.get_by_role("option", name="tiny_model").click()
        start(page, "Compare")
        page.get_by_text(re.compile("Right: tiny_model, Quality")).wait_for()
        start(page, "Compare")
        page.get_by_role("alert").get_by_text("4 requests within an hour").wait_for()

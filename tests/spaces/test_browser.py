"""The demo in a real Chromium; screenshots go to $ECHO4O_SCREENSHOTS for people to look at."""

import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.browser
DESKTOP, PHONE = (1280, 860), (390, 844)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def chromium():
    """A headless browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("there is no Chromium here; run: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where screenshots go."""
    named = os.environ.get("ECHO4O_SCREENSHOTS")
    path = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def visit(chromium, app):
    """Open the page in a window of some size; fails on any script error or foreign request."""
    opened, faults = [], []

    def open_page(size=DESKTOP, scheme="light"):
        viewport = {"width": size[0], "height": size[1]}
        context = chromium.new_context(viewport=viewport, color_scheme=scheme)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url) if foreign(request) else None)
        page.goto(app)
        page.get_by_text(re.compile(r"tiny . up to 64 px")).wait_for(timeout=90_000)
        opened.append(context)
        return page

    def foreign(request):
        return not request.url.startswith((app, "data:", "blob:"))

    yield open_page
    for context in opened:
        context.close()
    assert faults == []


def make(page, prompt="A photo of three red circles"):
    page.get_by_label("Prompt").first.fill(prompt)
    page.get_by_role("button", name="Create", exact=True).click()
    page.get_by_text("seed").first.wait_for(timeout=60_000)
    picture = page.locator(".pictures img").first
    picture.wait_for(timeout=60_000)
    return picture


def fits(page):
    """Nothing sticks out sideways."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize(
    ("size", "scheme"),
    [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light"), (PHONE, "dark")],
    ids=["desktop-light", "desktop-dark", "phone-light", "phone-dark"],
)
def test_create_makes_a_picture(visit, folder, size, scheme, request):
    page = visit(size, scheme)
    name = request.node.callspec.id
    page.screenshot(path=folder / f"{name}-empty.png", full_page=True)
    picture = make(page)
    assert "machine-made" in picture.get_attribute("alt")
    assert fits(page)
    page.wait_for_timeout(400)
    page.screenshot(path=folder / f"{name}-create.png", full_page=True)
    for tab in ("Compose", "Ask"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(200)
        assert fits(page)
        page.screenshot(path=folder / f"{name}-{tab.lower()}.png", full_page=True)


def test_starter_fills_the_prompt_and_more_pictures_are_made(visit):
    page = visit()
    page.get_by_role("button", name="A photo of a blue sun").click()
    page.wait_for_function("document.querySelector('textarea').value.includes('blue sun')")
    page.get_by_label("number input for Pictures").first.fill("3")
    page.get_by_role("button", name="Create", exact=True).click()
    page.locator(".pictures img[alt*='machine-made']").nth(2).wait_for(
        state="attached", timeout=60_000
    )


def test_compose_and_ask_take_uploads(visit, folder, tmp_path):
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{colour}.png")
    page = visit()
    page.get_by_role("tab", name="Compose").click()
    slots = page.locator("input[type=file]")
    slots.nth(0).set_input_files(tmp_path / "red.png")
    slots.nth(0).set_input_files(tmp_path / "blue.png")  # the first slot is taken now
    page.get_by_label("Prompt").nth(1).fill("Put both side by side")
    page.get_by_role("button", name="Compose", exact=True).click()
    page.locator(".pictures img[alt*='machine-made']").first.wait_for(timeout=60_000)
    page.wait_for_timeout(400)
    page.screenshot(path=folder / "composed.png", full_page=True)
    page.get_by_role("tab", name="Ask").click()
    page.locator("input[type=file]").last.set_input_files(tmp_path / "red.png")
    page.get_by_label("Question").fill("What is it?")
    page.get_by_role("button", name="Ask", exact=True).click()
    answer = page.get_by_label("Answer")
    page.wait_for_function(
        "box => box.value.length > 0", arg=answer.element_handle(), timeout=60_000
    )


def test_refusal_is_a_sentence_and_the_page_lives_on(visit, folder):
    page = visit()
    page.get_by_role("button", name="Create", exact=True).click()
    page.get_by_text("The prompt is empty: write a sentence first.").wait_for(timeout=30_000)
    page.screenshot(path=folder / "refusal.png")
    make(page)


def test_keyboard_alone_makes_a_picture(visit):
    page = visit()
    page.get_by_label("Prompt").first.focus()
    page.keyboard.type("A photo of a ring")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == "Create":
            break
    page.keyboard.press("Enter")
    page.locator(".pictures img[alt*='machine-made']").first.wait_for(timeout=60_000)

"""The demo's page in a browser, as a visitor uses it."""

import re

from browsing import settle

READY = re.compile(r"tiny . up to 64 px")
PICTURES = "#create-pictures"
PROMPT = "A photo of three red circles on the left"


def start(page, tab="Create"):
    page.get_by_role("button", name=re.compile(f"^{tab}")).locator("visible=true").click()


def turn_to(page, tab):
    page.get_by_role("tab", name=tab).click()
    page.get_by_role("tabpanel").locator("visible=true").wait_for()
    settle(page)


def unfold(page, name):
    page.get_by_role("button", name=name).locator("visible=true").click()
    settle(page)


def pictures(page, tab="create"):
    return page.locator(f"#{tab}-pictures img[alt*='machine-made']")


def make(page, prompt=PROMPT, **settings):
    page.locator("#create-prompt textarea").fill(prompt)
    choose(page, **settings)
    before = page.evaluate("document.querySelector('#create-pictures img')?.src")
    start(page)
    page.wait_for_function(
        "(was) => { const now = document.querySelector('#create-pictures img');"
        " return now?.offsetParent && now.src !== was; }",
        arg=before,
    )
    page.get_by_role("button", name="Create").locator("visible=true").wait_for()


def choose(page, **settings):
    """Set fields of Create: number, steps, seed, quality."""
    tab = page.get_by_role("tabpanel").locator("visible=true")
    if "quality" in settings:
        tab.get_by_label(settings.pop("quality"), exact=True).check()
    if {"steps", "seed"} & settings.keys() and not tab.get_by_label("Seed").is_visible():
        unfold(page, "Advanced")
    labels = {"number": "number input for Pictures", "steps": "number input for Steps"}
    for name, value in settings.items():
        field = tab.get_by_label(labels.get(name, name.capitalize()), exact=name == "seed")
        field.fill(str(value))
        field.blur()


def long_work(page):
    """Begin what takes far longer than a test, and wait until it shows something."""
    page.locator("#create-prompt textarea").fill(PROMPT)
    choose(page, quality="Quality", number=4, steps=100)
    start(page)
    page.locator("#create-stage .working img").wait_for()


def stop(page):
    page.get_by_role("button", name="Stop").locator("visible=true").click()


def is_stopped(page, tab="create"):
    """Wait until the tab says that it was stopped, and can be started again."""
    page.locator(f"#{tab}-rest").get_by_text("Stopped").wait_for()
    page.get_by_role("alert").get_by_text("Stopped.").locator("visible=true").wait_for()
    page.get_by_role("button", name=tab.capitalize()).locator("visible=true").wait_for()
    page.locator(f"#{tab}-stage").wait_for(state="hidden")

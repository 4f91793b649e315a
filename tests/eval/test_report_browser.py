"""The report in a real browser: the filters work, nothing is refused by its own policy."""

import pytest
from browsing import find_browser
from eval_tools import KIT, paint_into, verdict, write_run

from echo4o.eval.items import select
from echo4o.eval.report import write_report

pytestmark = pytest.mark.browser


def test_filters_and_phone_width(tmp_path):
    from playwright.sync_api import sync_playwright

    items = select(KIT.items, 21)
    pictures = paint_into(tmp_path / "pictures", items)
    runs = [
        write_run(tmp_path / "before", [verdict(item, False) for item in items], pictures),
        write_run(tmp_path / "after", [verdict(i, i.number % 2 == 0) for i in items], pictures),
    ]
    report = write_report(runs, tmp_path / "report.html")
    even = sum(item.number % 2 == 0 for item in items)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.set_default_timeout(90_000)
        complaints = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(report.as_uri())
        assert page.inner_text("#count") == "21 of 21"
        page.select_option("#outcome", "gained")
        assert page.locator("article:visible").count() == even
        page.select_option("#tag", "counting")
        assert page.locator("article:visible").count() <= 3
        page.select_option("#outcome", "")
        page.fill("#words", "no such words")
        assert page.is_visible("#empty")
        page.fill("#words", "")
        page.check("#reasons")
        assert page.locator("details[open]").count() == 21
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        decoded = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
        page.wait_for_function(decoded)
        browser.close()
    assert complaints == []

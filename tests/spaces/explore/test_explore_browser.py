"""The explorer in a real Chromium; screenshots go to $ECHO4O_SCREENSHOTS for people to look at."""

import re

import pytest
from browsing import DESKTOP, SIZES, fits, look

pytestmark = pytest.mark.browser


@pytest.fixture
def visit(visitors, explorer):
    """Open a link in a window."""

    def open_page(link="", size=DESKTOP, wait=".tile img"):
        page = visitors(explorer + link, size)
        page.locator(wait).first.wait_for()
        return page

    return open_page


@pytest.mark.parametrize("device", SIZES)
def test_rows_row_leaderboard_and_report(visit, screenshots, device):
    page = visit("?subset=multi_reference", SIZES[device])
    name = f"explore-{device}"
    assert page.locator(".tile").count() == 6
    assert fits(page)
    look(page, screenshots, f"{name}-rows")
    page.locator(".tile").nth(3).click()
    page.locator(".references img").nth(3).wait_for()
    assert page.locator(".target img").get_attribute("alt") == "Put 4 things together, number 3."
    alts = [one.get_attribute("alt") for one in page.locator(".references img").all()]
    assert alts == [f"Reference {n} of 4" for n in (1, 2, 3, 4)]
    assert fits(page)
    look(page, screenshots, f"{name}-row")
    page.get_by_role("tab", name="Leaderboard").click()
    page.locator(".runs").wait_for()
    assert fits(page)
    look(page, screenshots, f"{name}-leaderboard")
    page.get_by_role("link", name="good-model").click()
    page.locator(".card img").first.wait_for()
    assert page.locator(".tags tbody tr").count() >= 1
    assert fits(page)
    look(page, screenshots, f"{name}-report")


def test_a_shared_link_restores_filters_page_and_row(visit):
    page = visit()
    page.get_by_role("textbox", name="Search").fill("cubes")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Rows 1 to 24 of 30").wait_for()
    page.get_by_role("link", name="Next").first.click()
    page.get_by_role("heading", name="Rows 25 to 30 of 30").wait_for()
    page.locator(".tile").first.click()
    page.locator(".row-page").wait_for()
    assert re.search(r"\?words=cubes&at=2&row=plain-00024$", page.url)
    other = visit("/?" + page.url.partition("?")[2], wait=".target")
    assert other.get_by_role("textbox", name="Search").input_value() == "cubes"
    assert other.locator(".about h2").inner_text().startswith("A photo of 24 red cubes")
    other.get_by_role("link", name="All rows").click()
    other.get_by_role("heading", name="Rows 25 to 30 of 30").wait_for()


def test_keyboard_walks_through_rows_and_the_way_back_is_the_browsers(visit):
    page = visit()
    page.locator(".tile").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("row=plain-00000$"))
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("row=plain-00001$"))
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(re.compile("row=plain-00000$"))
    page.keyboard.press("Escape")
    page.locator(".grid").wait_for()
    page.go_back()
    page.locator(".row-page").wait_for()
    assert page.url.endswith("?row=plain-00000")


def test_two_steps_back_at_once_leave_the_way_forward(visit):
    page = visit()
    page.locator(".tile").first.click()
    page.wait_for_url(re.compile("row=plain-00000$"))
    page.locator(".row-page").wait_for()
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("row=plain-00001$"))
    held = []
    page.route(
        "**/queue/join*",
        lambda route: held.append(route) if held else (held.append(None), route.continue_()),
    )
    length = page.evaluate("history.length")
    page.evaluate("""() => {
        addEventListener("popstate", () => history.back(), {once: true});
        history.back();
    }""")
    page.locator(".row-page h2", has_text="A photo of 0 red cubes").wait_for()
    while len(held) < 2:
        page.wait_for_timeout(20)
    held[1].continue_()
    page.locator(".grid").wait_for()
    page.unroute("**/queue/join*")
    assert "row=" not in page.url
    assert page.evaluate("history.length") == length
    # Two steps forward, and the first one's question comes to the server last.
    late = []
    page.route("**/queue/join*", lambda route: route.continue_() if late else late.append(route))
    page.go_forward()
    page.wait_for_url(re.compile("row=plain-00000$"))
    while not late:
        page.wait_for_timeout(20)
    page.go_forward()
    page.wait_for_url(re.compile("row=plain-00001$"))
    second = page.locator(".row-page h2", has_text="A photo of 1 green cubes")
    second.wait_for()
    with page.expect_request("**/queue/join*"):
        late[0].continue_()
    second.wait_for()


def test_the_address_follows_the_tab_in_front(visit):
    page = visit("/?subset=multi_reference")
    page.get_by_role("tab", name="Leaderboard").click()
    page.wait_for_url(re.compile("tab=leaderboard$"))
    page.get_by_role("tab", name="Dataset").click()
    page.wait_for_url(re.compile("subset=multi_reference$"))


def test_filters_follow_each_other_and_shuffle_has_a_link(visit):
    page = visit()
    page.get_by_role("combobox", name="Subset").click()
    page.get_by_role("option", name=re.compile("multi reference")).click()
    page.get_by_role("heading", name="Rows 1 to 6 of 6").wait_for()
    page.get_by_role("button", name="Shuffle").click()
    page.wait_for_url(re.compile(r"subset=multi_reference&seed=\d+"))
    page.get_by_role("link", name="back in order").click()
    page.wait_for_url(re.compile(r"\?subset=multi_reference$"))


def test_hostile_rows_are_text_and_broken_pictures_have_a_place(visit, screenshots):
    page = visit("/?words=hostile", wait=".tile .broken")
    assert page.locator(".tile .broken").count() == 2
    page.screenshot(path=screenshots / "explore-hostile.png")
    page.locator(".tile", has_text="<script>").click()
    page.locator(".row-page").wait_for()
    assert "<script>document.title='owned'" in page.locator(".about h2").inner_text()
    assert page.title() == "Echo-4o explorer"
    page.goto(page.url.partition("?")[0] + "?row=%3Cscript%3E")
    page.get_by_text("There is no row '?script?'").wait_for()
    page.get_by_role("link", name="Show all rows").click()
    page.locator(".tile img").first.wait_for()


def test_a_report_is_filtered_by_verdict_and_tag(visit):
    page = visit("/?tab=leaderboard", wait=".runs")
    row = page.locator(".runs tbody tr").first
    assert "sandbox-judge" in row.inner_text()
    assert re.search(r"[\d.]+ % to [\d.]+ %", row.inner_text())
    page.get_by_role("link", name="bad-model").click()
    page.get_by_role("link", name="Wrong").click()
    page.get_by_text("19 pictures").wait_for()
    assert page.locator(".card.wrong").count() == 12
    page.get_by_role("link", name="Not judged").click()
    page.get_by_text("1 picture", exact=True).wait_for()
    assert "declined" not in page.locator(".card").inner_text()
    page.get_by_role("link", name="All runs").click()
    page.locator(".runs").wait_for()

"""What the explorer's pages are made of: nothing foreign becomes markup, whatever it says."""

from html.parser import HTMLParser
from pathlib import Path

from explore_data import MARKUP, picture

SPACES = Path(__file__).parents[3] / "spaces"
OURS = {"section", "header", "footer", "nav", "a", "button", "div", "span", "figure", "figcaption"}
OURS |= {"h2", "h3", "p", "b", "i", "em", "bdi", "ul", "li", "dl", "dt", "dd", "details", "summary"}
OURS |= {
    "pre",
    "img",
    "svg",
    "path",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "small",
    "strong",
}
OURS |= {"article"}
HOSTILE = MARKUP + "\"'><iframe src=//x></bdi></pre>{{x}}${y}\u202e"


class Seen(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = set(), [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def checked(page):
    seen = Seen(page)
    assert seen.tags <= OURS
    assert seen.open == []
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    addresses = [value for name, value in seen.attributes if name in ("href", "src")]
    assert all(one.startswith(("?", "data:image/jpeg;base64,")) for one in addresses)
    return seen


def test_a_row_and_its_tile(module):
    markup, links = module("markup"), module("links")
    listed = module("catalogue").Listed(3, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    link = links.RowsLink(module("catalogue").View(HOSTILE, HOSTILE, HOSTILE[:200], 3), 2, HOSTILE)
    shown = module("pictures").show(picture("red"), 100)
    facts = {
        "instruction": HOSTILE,
        "requested_instruction": HOSTILE + "2",
        "constraints": {"include": [{"class": HOSTILE, HOSTILE: HOSTILE}, 3], HOSTILE: [HOSTILE]},
        "references": [{"source": HOSTILE, "depicts_person": True, "consent": HOSTILE}, 7],
        "provenance": {HOSTILE: {HOSTILE: [HOSTILE], "deep": {"deeper": {HOSTILE: 1}}}},
        "license": HOSTILE,
        "generator": HOSTILE,
        "split": HOSTILE,
    }
    seen = checked(markup.row_page(link, listed, facts, shown, [shown, shown], (HOSTILE, HOSTILE)))
    assert HOSTILE in seen.words
    assert seen.words.count("Image ") == 2
    seen = checked(markup.grid(link, [listed], [shown], 100, 24))
    assert MARKUP[:40] in seen.words
    checked(markup.notice(HOSTILE, HOSTILE, link, HOSTILE, str(link)))
    for value in (HOSTILE, [HOSTILE], 3, {"include": HOSTILE}):
        checked(
            markup.row_page(
                link, listed, {"constraints": value, "provenance": value}, shown, [], ("", "")
            )
        )


def test_a_leaderboard_and_a_report(module):
    board, results, links = module("board"), module("results"), module("links")
    raw = dict.fromkeys(
        ("task", "model", "model_revision", "judge", "protocol", "started"), HOSTILE
    )
    raw |= {"overall": 0.5, "low": -3, "high": 7e9, "answered_as": [HOSTILE], "cost_usd": 1.0}
    raw |= {"scores": {"by_tag": {HOSTILE: {"score": 0.1, "low": 0, "high": 1, "items": 3}}}}
    run = results._run(raw, HOSTILE)
    seen = checked(board.leaderboard([run, run], 1))
    assert seen.words.count("0 of 0") == 2
    words = ("tag", "outcome", "prompt", "reason", "raw_reply", "judge_model")
    line = {"expectation": HOSTILE, "reason": HOSTILE, "satisfied": True, "points": 3}
    verdict = results._verdict(
        dict.fromkeys(words, HOSTILE) | {"findings": [line, 3], "number": HOSTILE}, 0
    )
    shown = module("pictures").show(b"nothing", 100)
    link = links.BoardLink(HOSTILE, HOSTILE, HOSTILE, 2)
    seen = checked(board.report(link, run, [verdict], [shown], 40, 12))
    assert "This picture is damaged, or far too large" in seen.words
    assert HOSTILE in seen.words


def test_all_spaces_have_one_theme():
    """Each folder is uploaded alone, so each carries the file."""
    themes = list(SPACES.glob("*/theme.py"))
    assert len(themes) == 2
    assert len({path.read_bytes() for path in themes}) == 1

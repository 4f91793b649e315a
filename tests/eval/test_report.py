"""The report: one safe, self-contained page that shows what the runs hold."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest
from eval_tools import KIT, paint_into, verdict, write_run

from echo4o.errors import Echo4oError
from echo4o.eval.charts import loss_curve, read_loss
from echo4o.eval.items import select
from echo4o.eval.protocols import Finding
from echo4o.eval.published import PUBLISHED
from echo4o.eval.report import write_report
from echo4o.eval.runs import load_run, save_run
from echo4o.eval.tasks import get_task
from echo4o.eval.wording import SOURCES

ITEMS = select(KIT.items, 14)
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self._inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag == "script"

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.scripts.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture
def runs(tmp_path):
    pictures = paint_into(tmp_path / "pictures", ITEMS)
    before = [verdict(item, False) for item in ITEMS]
    before[0] = verdict(ITEMS[0], True)
    after = [verdict(item, True) for item in ITEMS]
    after[0] = verdict(ITEMS[0], False)
    after[1] = verdict(ITEMS[1], None, picture=None)
    return [
        write_run(tmp_path / "untrained", before, pictures),
        write_run(tmp_path / "trained", after, pictures),
    ]


def test_report_shows_both_runs_with_pictures_scores_and_loss(runs, tmp_path):
    loss = tmp_path / "loss.jsonl"
    loss.write_text("".join(json.dumps({"step": n, "loss": 1 / n}) + "\n" for n in range(1, 90)))
    out = write_report(runs, tmp_path / "r" / "report.html", loss=loss, title="Before and after")
    text = out.read_text()
    page = Page(text)
    cards = page.all("article")
    assert [card["data-tag"] for card in cards] == [item.tag for item in ITEMS]
    assert cards[0]["data-outcome"] == "wrong lost"
    assert cards[1]["data-outcome"] == "unjudged"
    assert cards[2]["data-outcome"] == "right gained"
    pictures = [image["src"] for image in page.all("img")]
    assert len(pictures) == 2 * 14 - 1 + 2 * 7  # all of both runs, and the first of each tag
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert base64.b64decode(pictures[0].split(",")[1]).startswith(b"\x89PNG")
    assert "<title>Before and after</title>" in text
    assert "85.7 %" in text  # 12 of 14, two per tag
    assert "+78.6" in text
    assert "1 of 14 items have no readable verdict" in text
    assert 'class="curve"' in text
    assert {option.get("value") for option in page.all("option")} >= {"gained", "lost", "right"}


def test_several_pictures_and_judgements_of_an_item_are_one_card(tmp_path):
    pictures = paint_into(tmp_path / "pictures", ITEMS[:2])
    for item in ITEMS[:2]:
        for sample in (2, 3):
            (pictures / f"{item.number}-{sample}.png").write_bytes(
                (pictures / f"{item.number}.png").read_bytes()
            )
    verdicts = [
        verdict(item, right, sample=sample, repeat=repeat, picture=f"{item.number}{end}.png")
        for item in ITEMS[:2]
        for sample, end, right in ((1, "", True), (2, "-2", False), (3, "-3", True))
        for repeat in (1, 2)
    ]
    once = [verdict(item, False) for item in ITEMS[:2]]
    runs = [write_run(tmp_path / "once", once, pictures)]
    runs.append(write_run(tmp_path / "thrice", verdicts, pictures))
    text = write_report(runs, tmp_path / "report.html").read_text()
    page = Page(text)
    assert [card["data-outcome"] for card in page.all("article")] == ["right wrong gained"] * 2
    assert text.count("picture 2, first of 2 judgements") == 2
    assert sum(attrs.get("class") == "samples" for attrs in page.all("div")) == 4
    assert len(page.all("img")) == 2 * 4 + 2  # and the first item of the tag at the top
    assert "12 judged" in text


def test_points_are_shown_as_points(tmp_path):
    import dataclasses

    task = get_task("imagine_bench")
    items = select(task.items("kit").items, 16)
    pictures = paint_into(tmp_path / "pictures", items)

    def folder(name, step):
        verdicts = []
        for item in items:
            points = round(item.number % 7 + step, 3)
            finding = Finding(expectation="fantasy", satisfied=False, reason="r", points=points)
            verdicts.append(verdict(item, False, points=points, findings=(finding,)))
        verdicts[0] = verdict(items[0], None, points=0.0, picture=None)
        run = load_run(write_run(tmp_path / name, verdicts, pictures))
        save_run(dataclasses.replace(run, task=task.name), tmp_path / name)
        return tmp_path / name

    runs = [folder("before", 1.0), folder("after", 2.25)]
    text = write_report(runs, tmp_path / "report.html").read_text()
    page = Page(text)
    scores = load_run(runs[-1]).scores()
    assert f'<b class="num">{scores.overall.score:.3f}</b>' in text
    assert "Attribute shift" in text
    assert "Student" in text
    assert "0 to 10<" in text
    cards = page.all("article")
    assert [card["data-outcome"] for card in cards[:2]] == ["unjudged", "marked gained"]
    assert {option.get("value") for option in page.all("option")} >= {"marked", "gained", "lost"}
    assert " %<" not in re.search(r"<tbody>.*?</tbody>", text, re.DOTALL)[0]


def test_published_scores_stand_apart_and_only_where_items_and_words_are_theirs(runs, tmp_path):
    stored = json.loads((runs[1] / "run.json").read_text())
    sha256 = SOURCES["geneval_plus_plus"].items_sha256
    for protocol, items, is_there in (
        ("paper", sha256, True),
        ("kit", sha256, False),
        ("paper", "0" * 64, False),
    ):
        stored["protocol"]["name"], stored["items"]["sha256"] = protocol, items
        (runs[1] / "run.json").write_text(json.dumps(stored))
        text = write_report(runs[1:], tmp_path / "report.html").read_text()
        assert ("Published by others" in text) == is_there
    assert "Janus-Pro-7B" not in text


def test_published_rows_are_consistent_in_themselves():
    for row in PUBLISHED["geneval_plus_plus"]:
        if len(row.parts) == 7:
            assert sum(row.parts.values()) / 7 == pytest.approx(row.overall, abs=0.0006), row.model
    weights = get_task("imagine_bench").grading.weights
    for row in PUBLISHED["imagine_bench"]:
        if row.parts:
            mean = sum(weights[name] * part for name, part in row.parts.items()) / 9
            assert mean == pytest.approx(row.overall, abs=0.006), row.model


def test_one_run_needs_no_comparison(runs, tmp_path):
    text = write_report(runs[1:], tmp_path / "one.html").read_text()
    assert "Difference, points" not in text
    assert 'value="gained"' not in text
    assert "GenEval++ report" in text


def test_everything_from_prompts_judges_and_names_is_escaped(tmp_path):
    pictures = paint_into(tmp_path / "pictures", ITEMS[:2])
    finding = Finding(expectation=HOSTILE, satisfied=False, reason=HOSTILE)
    verdicts = [
        verdict(ITEMS[0], False, prompt=HOSTILE, tag=HOSTILE, findings=(finding,)),
        verdict(ITEMS[1], None, reason=HOSTILE, prompt="{{ 7 * 7 }}", picture=f"../{HOSTILE}"),
    ]
    folder = write_run(tmp_path / "a'b&lt", verdicts, pictures)
    text = write_report([folder], tmp_path / "report.html", title=HOSTILE).read_text()
    page = Page(text)
    assert len(page.all("script")) == 1
    assert "alert" not in page.scripts[0]
    assert not [attrs for _, attrs in page.elements if any(key.startswith("on") for key in attrs)]
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    assert "{{ 7 * 7 }}" in text
    assert text.count("&lt;script&gt;alert(1)") >= 5


def test_the_page_loads_nothing_and_runs_only_its_own_script(runs, tmp_path):
    import hashlib

    text = write_report(runs, tmp_path / "report.html").read_text()
    page = Page(text)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv"))
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not page.all("link")
    assert not re.search(r"https?://", re.sub(r"data:[^\"]*", "", text))


def test_large_pictures_are_made_small(tmp_path):
    from PIL import Image

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.effect_noise((1600, 1200), 90).convert("RGB").save(pictures / "1.png")
    folder = write_run(tmp_path / "run", [verdict(KIT.items[0], True)], pictures)
    out = write_report([folder], tmp_path / "report.html")
    assert "data:image/webp" in out.read_text()
    assert out.stat().st_size < 400_000


def test_unlike_runs_are_refused_or_marked(runs, tmp_path):
    stored = json.loads((runs[0] / "run.json").read_text())
    stored["judge"]["model"] = "another"
    stored["drift"] = {"moved_now": True, "moved_over_runs": False, "pictures": 280, "shift": -0.1}
    (runs[0] / "run.json").write_text(json.dumps(stored))
    told = write_report(runs, tmp_path / "r.html").read_text()
    assert "different judges" in told
    assert "does not judge the canary&#39;s 280 pictures as it first did (-10.0 %" in told
    for broken, complaint in (
        ({**stored, "format": 9}, "not a run of format 1"),
        ({**stored, "verdicts": [{}]}, "is damaged"),
        ({**stored, "extra": 1}, "is damaged"),
        ({**stored, "task": [1]}, r"is damaged \(`task` is \[1\]\)"),
        ({**stored, "spent_usd": None}, "`spent_usd` is None"),
        ({**stored, "protocol": {"name": "kit"}}, "is damaged"),
        ({**stored, "drift": {"shift": 0.0}}, "is damaged"),
        ({**stored, "drift": {**stored["drift"], "shift": "x"}}, "`drift` holds"),
        ({**stored, "items": {**stored["items"], "sha256": None}}, "`items` holds"),
        ({**stored, "judge": {"model": 1, "answered_as": []}}, "`judge` holds"),
        ({**stored, "generation": {"model": {"id": "x"}, "settings": 1}}, "is damaged"),
        ({**stored, "verdicts": [{**stored["verdicts"][0], "number": "x"}]}, "`number` is 'x'"),
        ({**stored, "verdicts": [{**stored["verdicts"][0], "points": "x"}]}, "`points` is 'x'"),
        ([], "not a run of format 1"),
    ):
        (runs[0] / "run.json").write_text(json.dumps(broken))
        with pytest.raises(Echo4oError, match=complaint):
            write_report(runs, tmp_path / "r.html")
    for text in ("{", "[" * 100_000):
        (runs[0] / "run.json").write_text(text)
        with pytest.raises(Echo4oError, match="not JSON"):
            write_report(runs, tmp_path / "r.html")
    with pytest.raises(Echo4oError, match="no run at"):
        write_report([tmp_path / "none"], tmp_path / "r.html")
    with pytest.raises(Echo4oError, match="at least one run"):
        write_report([], tmp_path / "r.html")


def test_a_moved_run_still_finds_its_pictures(runs, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("untrained", "pictures"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    text = write_report([tmp_path / "elsewhere" / "untrained"], tmp_path / "r.html").read_text()
    assert text.count("data:image/png") == 14 + 7


def test_loss_files_with_gaps_are_read_and_others_refused(tmp_path):
    file = tmp_path / "loss.jsonl"
    file.write_text('{"step": 2, "loss": 1.5, "lr": 1}\n\n{"step": 1, "loss": 2}\n')
    assert read_loss(file) == [(1.0, 2.0), (2.0, 1.5)]
    assert "polyline" in loss_curve(read_loss(file))
    assert "polyline" in loss_curve([(1, 0.0)])
    for text, complaint in (
        ("{}", "line 1"),
        ("no", "line 1"),
        ("[" * 100_000, "line 1"),
        ("", "holds no loss"),
    ):
        file.write_text(text)
        with pytest.raises(Echo4oError, match=complaint):
            read_loss(file)
    for pair in (
        '"step": 1, "loss": NaN',
        '"step": Infinity, "loss": 1',
        '"step": 1, "loss": 1e308',
    ):
        file.write_text(f"{{{pair}}}")
        with pytest.raises(Echo4oError, match="holds no loss"):
            read_loss(file)

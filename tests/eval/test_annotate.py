"""People judge: the server over real HTTP, votes on disk, agreement in the report."""

import http.client
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from eval_tools import KIT, paint_into, verdict, write_run
from PIL import Image

from echo4o.errors import Echo4oError
from echo4o.eval.annotate import make_server
from echo4o.eval.items import select
from echo4o.eval.layouts import item_row
from echo4o.eval.report import write_report
from echo4o.eval.tasks import get_task
from echo4o.eval.votes import PEOPLE, Votes, read_people

ITEMS = select(KIT.items, 7)
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def serving(folder):
    server, address = make_server(folder, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def run(tmp_path):
    """The judge says that odd items are right; the first has a second picture, the last none."""
    pictures = paint_into(tmp_path / "pictures", ITEMS)
    verdicts = [verdict(item, item.number % 2 == 1) for item in ITEMS]
    first = ITEMS[0].number
    Image.open(pictures / f"{first}.png").save(pictures / f"{first}-2.png")
    verdicts.append(verdict(ITEMS[0], True, sample=2, picture=f"{first}-2.png"))
    (pictures / f"{ITEMS[-1].number}.png").unlink()
    folder = write_run(tmp_path / "run", verdicts, pictures)
    lines = "".join(json.dumps(item.to_json()) + "\n" for item in ITEMS)
    (folder / "items.jsonl").write_text(lines)
    return folder


def get(address, name):
    with OPENER.open(address + name, timeout=10) as answer:
        return json.loads(answer.read())


def vote(address, rater, key, marks, **headers):
    body = json.dumps({"rater": rater, "key": key, "marks": marks}).encode()
    headers = {"Content-Type": "application/json"} | headers
    request = urllib.request.Request(address + "vote", data=body, headers=headers)
    with OPENER.open(request, timeout=10) as answer:
        return json.loads(answer.read())


def refusal(action, *arguments, **options):
    with pytest.raises(urllib.error.HTTPError) as error:
        action(*arguments, **options)
    return error.value.code


def raw(address, method, path, headers=(), body=None):
    """A request exactly as given: nothing tidies the path."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    connection.request(method, path, body=body, headers=dict(headers))
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_two_raters_vote_blind_disputes_are_settled_and_the_report_says_how_far_they_agree(
    run, tmp_path
):
    with serving(run) as address:
        start = {"title": "GenEval++", "has_lines": False, "most": 1, "pictures": 7}
        assert get(address, "start") == start
        queue = get(address, "queue?rater=ada")
        assert len(queue) == 7
        assert {card["key"] for card in queue} == (
            {str(item.number) for item in ITEMS[:-1]} | {f"{ITEMS[0].number}-2"}
        )
        assert [card["key"] for card in queue] != [c["key"] for c in get(address, "queue?rater=bo")]
        card = next(card for card in queue if card["key"] == str(ITEMS[0].number))
        assert card["prompt"] == ITEMS[0].prompt
        assert card["checklist"][0].startswith("exactly ")
        # Blind: nothing of the judge, the model or the other rater.
        assert "because" not in json.dumps(queue)
        assert set(card) == {
            *("key", "prompt", "note", "checklist", "lines", "references", "marks")
        }
        with OPENER.open(f"{address}picture?key={card['key']}", timeout=10) as answer:
            assert answer.headers["Content-Type"] == "image/png"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.read().startswith(b"\x89PNG")
        for card in queue:
            number = int(card["key"].split("-")[0])
            vote(address, "ada", card["key"], [number % 2])
            if number != ITEMS[1].number:
                vote(address, "bo", card["key"], [number % 2])
        disputed = str(ITEMS[1].number)
        assert get(address, "disputes") == []
        vote(address, "bo", disputed, [1 - ITEMS[1].number % 2])
        assert [(c["key"], c["said"], c["marks"]) for c in get(address, "disputes")] == [
            (disputed, [[0], [1]], None)
        ]
        people = read_people(run)
        assert (people.raters, people.seen, people.twice, people.disputes) == (
            ("ada", "bo"),
            7,
            7,
            1,
        )
        assert people.same["overall"] == (1.0, 6)
        # The last word goes against the judge.
        vote(address, "adjudicated", disputed, [1 - ITEMS[1].number % 2])
        assert get(address, "disputes")[0]["marks"] == [1 - ITEMS[1].number % 2]
    people = read_people(run)
    assert people.disputes == 0
    assert people.same["overall"] == (pytest.approx(6 / 7), 7)
    assert people.same[ITEMS[1].tag] == (0.0, 1)
    assert people.judge[0].alpha == pytest.approx(alpha_of_one_in(7, run), abs=1e-9)
    assert people.among[0].items == 7
    nobody = write_run(tmp_path / "nobody", [verdict(ITEMS[0], True)], run.parent / "pictures")
    text = write_report([nobody, run], tmp_path / "report.html").read_text()
    assert text.count("People and judge") == 1
    assert 'People and judge <span class="small soft">run</span>' in text
    assert "85.7 %" in text


def alpha_of_one_in(count, run):
    """Krippendorff's alpha for two raters and nominal data, by its definition, for this run."""
    pairs = []
    for one in json.loads((run / "run.json").read_text())["verdicts"]:
        if one["picture"] != f"{ITEMS[-1].number}.png":
            judge = float(one["correct"])
            pairs.append((judge, 1 - judge if one["number"] == ITEMS[1].number else judge))
    assert len(pairs) == count
    values = [value for pair in pairs for value in pair]
    n, ones = len(values), sum(values)
    observed = sum(a != b for a, b in pairs) * 2 / n
    return 1 - observed / (2 * ones * (n - ones) / (n * (n - 1)))


def test_two_marks_beside_the_references_and_a_dispute_in_points(tmp_path):
    task = get_task("omnicontext")
    items = task.items("kit").items[:2]
    pictures = paint_into(tmp_path / "pictures", items)
    folder = write_run(
        tmp_path / "run", [verdict(item, False, points=6.0) for item in items], pictures
    )
    value = json.loads((folder / "run.json").read_text()) | {"task": task.name}
    (folder / "run.json").write_text(json.dumps(value))
    rows = "".join(json.dumps(item_row(item)) + "\n" for item in items)
    (folder / "items.jsonl").write_text(rows)
    with serving(folder) as address:
        start = get(address, "start")
        assert (start["has_lines"], start["most"]) == (True, 10)
        card = next(one for one in get(address, "queue?rater=ada") if one["key"] == "1")
        assert card["lines"] == ["prompt following", "subject consistency"]
        assert card["references"] == len(items[0].references) >= 1
        with OPENER.open(f"{address}reference?key=1&place=0", timeout=10) as answer:
            assert answer.read() == Path(items[0].references[0]).read_bytes()
        for query in ("key=1&place=9", "key=1&place=-1", "key=9&place=0", "place=0", "key=1"):
            assert refusal(get, address, f"reference?{query}") == 404
        for rater, marks in (("ada", [9, 4]), ("bo", [4, 1])):
            vote(address, rater, "1", marks)
        assert [one["said"] for one in get(address, "disputes")] == [[[4, 1], [9, 4]]]
        vote(address, "adjudicated", "1", [4, 4])
    people = read_people(folder)
    assert (people.disputes, people.same["overall"]) == (0, (2.0, 1))  # 6 of the judge, 4 of people


def test_the_server_answers_nobody_else_and_no_path(run):
    with serving(run) as address:
        secret = urlsplit(address).path
        key = str(ITEMS[0].number)
        good = {"Content-Type": "application/json"}
        body = json.dumps({"rater": "eve", "key": key, "marks": [1]})
        for path in ("/", "/run.json", secret.rstrip("/"), secret[:-4] + "aaa/", "/x" + secret):
            assert raw(address, "GET", path)[0] == 404, path
        for name in (
            "../run.json",
            "..%2frun.json",
            "annotate.py",
            "vote",
            "picture?key=../run.json",
        ):
            status, said = raw(address, "GET", secret + name)
            assert status == 404, name
            assert b"verdicts" not in said
        assert raw(address, "GET", secret + "start", {"Host": "evil.example"}.items())[0] == 403
        # A page of another site: wrong origin, or a form that cannot send JSON.
        evil = {**good, "Origin": "http://evil.example"}
        assert raw(address, "POST", secret + "vote", evil.items(), body)[0] == 403
        assert (
            raw(address, "POST", secret + "vote", {"Content-Type": "text/plain"}.items(), body)[0]
            == 415
        )
        assert raw(address, "POST", "/guess/vote", good.items(), body)[0] == 404
        assert raw(address, "POST", secret + "vote", good.items(), "x" * 5000)[0] == 413
        assert raw(address, "POST", secret + "vote", good.items(), "[" * 4000)[0] == 400
        assert raw(address, "POST", secret + "vote", good.items(), "[]")[0] == 400
        for rater, one, marks in (
            ("../eve", key, [1]),
            ("Eve", key, [1]),
            ("", key, [1]),
            ("eve", key, [2]),
            ("eve", key, [True]),
            ("eve", key, [1, 1]),
            ("eve", key, "1"),
            ("eve", key, None),
        ):
            assert refusal(vote, address, rater, one, marks) == 400, (rater, marks)
        assert refusal(vote, address, "eve", "999", [1]) == 404
        assert refusal(get, address, "queue?rater=adjudicated") == 400
        assert refusal(get, address, "queue?rater=") == 400
        assert not (run / PEOPLE).exists()
        with OPENER.open(address, timeout=10) as answer:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "unsafe" not in answer.headers["Content-Security-Policy"]


def test_a_vote_belongs_to_the_bytes_of_its_picture_and_damage_is_told(run):
    with serving(run) as address:
        vote(address, "ada", str(ITEMS[0].number), [1])
    assert read_people(run).seen == 1
    Image.new("RGB", (8, 8)).save(run.parent / "pictures" / f"{ITEMS[0].number}.png")
    assert read_people(run) is None
    file = run / PEOPLE / "ada.json"
    for text in (
        "{",
        "[]",
        '{"format": 2, "votes": {}}',
        '{"format": 1, "votes": {"1": {}}}',
        '{"format": 1, "votes": {"1": {"marks": [11], "picture": "", "at": ""}}}',
    ):
        file.write_text(text)
        with pytest.raises(Echo4oError, match=r"ada.json is damaged .* restore it from a copy"):
            Votes.open(run, "ada")


def test_a_run_without_pictures_or_no_run_is_one_sentence(run, tmp_path):
    with pytest.raises(Echo4oError, match="no run at"):
        make_server(tmp_path, 0)
    (run / "items.jsonl").write_text("{")
    with pytest.raises(Echo4oError, match=r"items.jsonl, line 1: "):
        make_server(run, 0)
    (run / "items.jsonl").unlink()
    with serving(run) as address:  # without the items' words the pictures can still be judged
        assert get(address, "queue?rater=ada")[0]["checklist"] == []
    for file in (tmp_path / "pictures").glob("*.png"):
        file.unlink()
    with pytest.raises(Echo4oError, match="has no pictures to look at"):
        make_server(run, 0)
    assert read_people(run) is None


@pytest.mark.slow
def test_votes_survive_kill_and_a_second_server_is_refused(run):
    command = [sys.executable, "-m", "echo4o.cli", "eval", "annotate", str(run)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    address = child.stdout.readline().split()[2]
    for item in ITEMS[:3]:
        vote(address, "ada", str(item.number), [1])
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "is being annotated by another process" in second.stderr
    child.kill()
    child.wait()
    assert read_people(run).seen == 3

"""DPG-Bench as a task: questions, both conventions, crops, answers from elsewhere."""

import csv
import json
import os
from pathlib import Path

import pytest
from eval_tools import bare_run
from PIL import Image

from echo4o.cli import main
from echo4o.client import Reply
from echo4o.errors import Echo4oError
from echo4o.eval.dpg_bench import quarters, score
from echo4o.eval.dpg_items import questions_of, read_csv, read_row
from echo4o.eval.explain import explain
from echo4o.eval.items import Item
from echo4o.eval.judging import make_cases
from echo4o.eval.runs import load_run
from echo4o.eval.tasks import get_task
from echo4o.sandbox import world

TASK = get_task("dpg_bench")
ITEMS = TASK.items("kit").items
HEADER = ["item_id", "text", "keywords", "proposition_id", "dependency", "category_broad"]
HEADER += ["category_detailed", "tuple", "question_natural_language"]
ROWS = [
    ("tea1", "A red pot.", 1, "0", "entity - whole (pot)", "Is there a pot?"),
    ("tea1", "A red pot.", 2, "1", "attribute - color (pot, red)", "Is the pot red?"),
    ("sea2", "A boat, alone.", 1, "0", "entity - whole (boat)", "Is there a boat?"),
    ("sea2", "A boat, alone.", 2, "0", "global - (alone)", "Is it alone?"),
    ("sea2", "A boat, alone.", 3, "1, 2", "other - count (boat, ==1)", "Is there one boat?"),
]


def write_csv(path, rows=ROWS):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for name, prompt, number, needs, kind, question in rows:
            writer.writerow([name, prompt, "", number, needs, "", "", kind, question])
    return path


def settle(protocol, item, answers, sample=1):
    """The verdict of answers given one after the other."""
    case = make_cases([item], [{item.number: None}], protocol)[0]
    case.sample = sample
    for answer in answers:
        reply = Reply(outcome="done", text=answer, model="m")
        verdict = case.take(reply, answer)
    return verdict


def test_the_benchmarks_own_file(tmp_path):
    found = read_csv(write_csv(tmp_path / "q.csv"))
    assert [(one.name, one.prompt, one.number) for one in found.items] == [
        ("tea1", "A red pot.", 1),
        ("sea2", "A boat, alone.", 2),
    ]
    last = questions_of(found.items[1])[-1]
    assert (last.number, last.parents, last.category) == (3, (1, 2), "other - count")
    again = TASK.read_row(found.items[1].to_json(), 2)
    assert again == found.items[1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS[:1], ("tea1", "A red pot.", 2, "7", "a", "?")], "depends on question 7"),
        (
            [("tea1", "A pot.", 1, "2", "a", "?"), ("tea1", "A pot.", 2, "1", "a", "?")],
            "in a circle: ",
        ),
        ([*ROWS[:1], ("tea1", "Another.", 2, "1", "a", "?")], "2 different texts"),
        ([("tea1", "A pot.", "one", "0", "a", "?")], "'one' where a question's number"),
        ([("tea1", "A pot.", 1, "0", "a", " ")], "has no text"),
        ([], "holds no item"),
    ],
)
def test_question_files_that_cannot_be_scored(tmp_path, rows, message):
    with pytest.raises(Echo4oError, match=message):
        TASK.items(str(write_csv(tmp_path / "q.csv", rows)))


def test_other_files_are_one_sentence(tmp_path):
    (tmp_path / "q.csv").write_text("a,b\n1,2\n")
    with pytest.raises(Echo4oError, match="has no column item_id"):
        TASK.items(str(tmp_path / "q.csv"))
    with pytest.raises(Echo4oError, match=r"no items file .*none\.csv"):
        TASK.items(str(tmp_path / "none.csv"))


def test_released_counts_the_bare_word_only_and_loses_the_first_question(tmp_path):
    tea, sea = TASK.items(str(write_csv(tmp_path / "q.csv"))).items
    paper, released = TASK.protocol("paper"), TASK.protocol("released")
    said = ["Yes.", "yes", "No, two."]
    assert settle(paper, sea, said).points == pytest.approx(200 / 3)
    # Under `released` "Yes." is no yes, and takes the third question along.
    assert settle(released, sea, ["Yes.", "yes", "yes"]).points == pytest.approx(100 / 3)
    dropped = settle(released, tea, ["yes"])
    assert dropped.is_left_out
    assert "drops the item" in dropped.reason
    assert settle(paper, sea, ["yes", "perhaps", "yes"]).outcome == "unreadable"
    cases = [make_cases([sea], [{}], protocol)[0] for protocol in (paper, released)]
    assert [one.unasked("missing", "").is_left_out for one in cases] == [False, True]


def test_categories_by_both_conventions(tmp_path):
    _, sea = TASK.items(str(write_csv(tmp_path / "q.csv"))).items
    protocol = TASK.protocol("paper")
    crops = [
        ["yes", "yes", "yes"],
        ["yes", "yes", "yes"],
        ["no", "yes", "yes"],
        ["no", "no", "yes"],
    ]
    found = score([settle(protocol, sea, one, n) for n, one in enumerate(crops, 1)], "paper")
    assert found.overall.score == pytest.approx(100 * (1 + 1 + 1 / 3 + 0) / 4)
    groups = {name: one.score for name, one in found.by_group.items()}
    assert (groups["entity"], groups["other"], groups["global"]) == (50, 50, 75)
    assert groups["entity, as released"] == groups["global, as released"] == 0
    assert groups["other, as released"] == 100  # the last crop's bare answer
    assert found.by_tag["other - count"].score == 50


def test_a_kit_run_is_one_call_a_crop_and_then_none(api, tmp_path, capsys):
    items = ITEMS[:3]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for item in items:
        for sample in range(1, 5):
            picture = world.paint(item.prompt, width=64, height=64, seed=sample)
            if sample == 4:
                picture = Image.new("RGB", (64, 64), "white")
            name = f"{item.number}.png" if sample == 1 else f"{item.number}-{sample}.png"
            picture.save(pictures / name)
    rows = "".join(json.dumps(item.to_json()) + "\n" for item in items)
    (tmp_path / "items.jsonl").write_text(rows)
    words = ["eval", "judge", "dpg_bench", "--items", str(tmp_path / "items.jsonl"), "--no-canary"]
    words += ["--images", str(pictures), "--judge", "sandbox-judge", "--out", str(tmp_path / "run")]
    main([*words, "--protocol", "kit"])
    run = load_run(tmp_path / "run")
    assert run.calls == 12
    assert run.scores().overall.score == pytest.approx(75)
    assert run.judge["model"] == "sandbox-judge"
    assert "relation, as released" in capsys.readouterr().out
    main([*words, "--protocol", "kit"])
    assert load_run(tmp_path / "run").calls == 0
    (pictures / f"{items[0].number}-3.png").unlink()
    with pytest.raises(SystemExit):
        main([*words, "--protocol", "kit"])
    assert "takes 4 pictures of a prompt, but item 1 has 3" in capsys.readouterr().err


def test_single_questions_are_asked_bare(api, tmp_path):
    item = ITEMS[0]
    world.paint(item.prompt, width=64, height=64, seed=1).save(tmp_path / "1.png")
    case = make_cases([item], [{1: tmp_path / "1.png"}], TASK.protocol("paper"))[0]
    first = case.request(b"p", "judge")
    assert first.user == (questions_of(item)[0].text, b"p")
    assert first.system is None


def test_explain_says_which_answers_only_one_reading_counts(tmp_path):
    items = read_csv(write_csv(tmp_path / "q.csv")).items
    paper, released = TASK.protocol("paper"), TASK.protocol("released")
    said = {1: ["yes", "Yes."], 2: ["yes", "no", "yes"]}
    by_number = {item.number: item for item in items}
    verdicts = [settle(paper, item, said[item.number]) for item in items]
    lines = explain(bare_run(TASK.name, "paper", verdicts), by_number)
    assert "  paper     66.6667 over 2 items" in lines
    # The published script loses the first item's first question, and drops the item.
    assert "  released  33.3330 over 1 items" in lines
    assert lines[-2] == "1 of 2 pictures count differently:"
    assert lines[-1].startswith(
        "  1 (dense prompt): paper 100, released left out: released: the pub"
    )
    verdicts = [settle(released, by_number[2], ["yes", "No, it is not alone.", "yes"])]
    assert verdicts[0].points == pytest.approx(100 / 3)
    lines = explain(bare_run(TASK.name, "released", verdicts), by_number)
    assert lines[-1] == "0 of 1 pictures count differently:"
    verdicts = [settle(released, by_number[2], ["yes", "Yes.", "yes"])]
    lines = explain(bare_run(TASK.name, "released", verdicts), by_number)
    assert lines[-1] == "  2 (dense prompt): paper 100, released 33.3333: see reply"


def test_people_say_yes_or_no_to_each_question_and_parents_have_their_say():
    sheet = TASK.hooks.sheet(read_row(ITEMS[0].to_json(), 1))
    asked = questions_of(ITEMS[0])
    assert sheet.lines == tuple(one.text for one in asked)
    assert (sheet.value([1] * len(asked)), sheet.value([0] * len(asked))) == (100, 0)
    first = [int(one.number != asked[0].number) for one in asked]
    assert sheet.value(first) < 100 * sum(first) / len(first)  # others fall with it
    assert not sheet.allows([2] * len(asked))
    assert not sheet.allows([1])
    with pytest.raises(Echo4oError, match=r"the questions of item 7 are not known; put the items"):
        TASK.hooks.sheet(Item(number=7, tag="dense prompt", prompt="p"))


def test_a_grid_is_cut_into_four(tmp_path):
    grid = Image.new("RGB", (8, 4))
    grid.paste((255, 0, 0), (4, 0, 8, 2))
    grid.save(tmp_path / f"{ITEMS[0].name}.png")
    found = TASK.hooks.layout(ITEMS, tmp_path)
    assert list(found) == ["1.png", "1-2.png", "1-3.png", "1-4.png"]
    (tmp_path / "second.png").write_bytes(found["1-2.png"].encode())
    with Image.open(tmp_path / "second.png") as crop:
        assert crop.size == (4, 2)
        assert crop.getcolors() == [(8, (255, 0, 0))]
    Image.new("RGB", (7, 4)).save(tmp_path / "odd.png")
    with pytest.raises(Echo4oError, match="7x4 pixels, which is no grid"):
        quarters(tmp_path / "odd.png")
    for size, name in (((8, 8), "1.png"), ((8, 4), "1-2.png")):
        Image.new("RGB", size).save(tmp_path / name)
    samples = [{1: tmp_path / "1.png"}, {1: tmp_path / "1-2.png"}, {}, {}]
    with pytest.raises(Echo4oError, match="8x4 pixels and 1.png of the same item 8x8"):
        TASK.hooks.check(ITEMS[:1], [*samples[:2], samples[0], samples[1]], "paper")


def test_answers_from_elsewhere(tmp_path, capsys):
    file = write_csv(tmp_path / "q.csv")
    answers = tmp_path / "mplug.jsonl"
    rows = [
        {"item_id": "sea2", "picture": crop, "answers": {"1": "yes", "2": "no", "3": "yes"}}
        for crop in (1, 2, 3, 4)
    ]
    rows += [{"item_id": "tea1", "picture": 1, "answers": {"1": "yes", "2": "yes"}}]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["eval", "import", "dpg_bench", "--items", str(file), "--judge", "mplug-large"]
    words += ["--answers", str(answers), "--out", str(tmp_path / "run")]
    main([*words, "--protocol", "paper", "--explain"])
    run = load_run(tmp_path / "run")
    assert run.judge["model"] == "imported:mplug-large"
    assert [one.outcome for one in run.verdicts] == ["judged", *["missing"] * 3, *["judged"] * 4]
    told = capsys.readouterr().out
    assert "5 judged, 3 missing" in told
    # The published script drops the first item, and leaves pictures out that are not there.
    assert "4 of 8 pictures count differently:" in told
    for change, message in (
        ({"item_id": "gone"}, "there is no item 'gone'"),
        ({"answers": {"1": "yes"}}, "question 2 of item 'sea2' has no answer"),
        ({"picture": 5}, "not a number from 1 to 4"),
        ({"picture": 3}, "picture 3 of item 'sea2' stands there twice"),
    ):
        changed = [*rows[:3], rows[3] | change]
        answers.write_text("".join(json.dumps(row) + "\n" for row in changed))
        with pytest.raises(SystemExit):
            main([*words, "--out", str(tmp_path / "other")])
        assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("ECHO4O_DPG_CSV"), reason="set ECHO4O_DPG_CSV to the file")
def test_the_real_questions_can_be_scored():

    assert len(read_csv(Path(os.environ["ECHO4O_DPG_CSV"])).items) == 1065

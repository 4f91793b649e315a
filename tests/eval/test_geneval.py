"""GenEval as a task: items, the detector as a judge, layouts, and what does not fit."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detectors import save_detectors, tiny_clip

from echo4o.cli import main
from echo4o.errors import Echo4oError
from echo4o.eval.detector_agreement import compare_verdicts, read_verdicts
from echo4o.eval.geneval import ANY_RIGHT, label, read_row
from echo4o.eval.geneval_classes import NAMES, class_names
from echo4o.eval.geneval_colours import ColourClassifier
from echo4o.eval.geneval_detector import Detections
from echo4o.eval.geneval_judge import seen
from echo4o.eval.items import ItemSet
from echo4o.eval.judging import JudgeConfig, judge
from echo4o.eval.pictures import find_pictures
from echo4o.eval.protocols import UnreadableReply
from echo4o.eval.runs import LEDGER, load_run, run_cases
from echo4o.eval.tasks import get_task
from echo4o.eval.wording import ITEM_FILES
from echo4o.ledger import Ledger, LedgerError
from echo4o.models.pictures import PictureRecord, save_picture

TASK = get_task("geneval")
ITEMS = TASK.items("kit").items
COUNTING, COLORED = ITEMS[8], ITEMS[12]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return save_detectors(tmp_path_factory.mktemp("models"))


def reply(**objects):
    """An answer: boxes (side by side, 10 pixels wide) with scores, and perhaps a colour of all."""
    value = {}
    for name, (scores, colour) in objects.items():
        boxes = [[20 * n, 0, 20 * n + 10, 10, score] for n, score in enumerate(scores)]
        colours = {str(n): colour for n in range(len(scores))} if colour else {}
        value[name.replace("_", " ")] = {"boxes": boxes, "colours": colours}
    return json.dumps({"objects": value})


def paint(folder, items, samples=4):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for item in items:
        for sample in range(1, samples + 1):
            name = f"{item.number}.png" if sample == 1 else f"{item.number}-{sample}.png"
            pixels = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((64, 48), Image.Resampling.NEAREST).save(folder / name)
    return folder


def test_a_row_is_what_it_was():
    for item in ITEMS:
        row = item.to_json()
        assert read_row(row, item.number) == item
    assert ITEMS[16].positions == (None, ("above", 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tag": "texture"}, "`tag` one of"),
        ({"include": [{"class": "dragon", "count": 1}]}, "'dragon', none of the 80 things"),
        ({"include": [{"class": "cat", "count": 1, "color": "teal"}]}, "`color` is 'teal'"),
        ({"include": [{"class": "cat", "count": 1, "position": ["above", 0]}]}, "earlier object"),
        ({"include": []}, "at least one object"),
    ],
)
def test_rows_that_are_none(change, message):
    with pytest.raises(ValueError, match=message):
        read_row({**ITEMS[0].to_json(), **change}, 1)


def test_findings_say_what_was_wrong():
    protocol = TASK.protocol("paper")
    name = COUNTING.include[0].name.replace(" ", "_")
    right, over = (
        protocol.read(COUNTING, reply(**{name: ([0.95] * count, "")})) for count in (2, 3)
    )
    assert [one.satisfied for one in right] == [True, True]
    assert [one.expectation for one in right] == ["2 wine glasses", "fewer than 3 wine glasses"]
    assert [one.satisfied for one in over] == [True, False]
    assert over[1].reason == "expected wine glass<3, found 3"
    name = COLORED.include[0].name
    yellow, blue = (protocol.read(COLORED, reply(**{name: ([0.5], c)})) for c in ("yellow", "blue"))
    assert yellow[0].satisfied
    assert blue[0].reason == "expected yellow refrigerator>=1, found 0 yellow; and 1 blue"
    for text in ("{}", '{"objects": {"cat": {"boxes": [[1]]}}}', "no"):
        with pytest.raises(UnreadableReply):
            protocol.read(COLORED, text)


def test_only_colours_that_matter_are_asked_for():
    boxes = np.array([[0, 0, 20, 20, s] for s in (0.2, 0.6, 0.9)], dtype=np.float32)
    masks = np.ones((3, 40, 40), dtype=bool)
    image = np.full((40, 40, 3), (255, 0, 0), np.uint8)
    classifier = ColourClassifier(*tiny_clip(), source="tiny")

    def detect(_):
        return {"refrigerator": Detections(boxes, masks), "cat": Detections(boxes, masks)}

    found = seen(image, COLORED.to_json(), detect, classifier)
    assert [len(one["boxes"]) for one in found.values()] == [2, 2]
    # The best of the two that pass: number 1 among them.
    assert list(found["refrigerator"]["colours"]) == ["1"]
    assert found["cat"]["colours"] == {}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (NAMES[:3], "knows 3 classes"),
        (NAMES[::-1], r"another order: number 0 is 'toothbrush' where COCO has 'person'"),
    ],
)
def test_a_detector_of_other_classes_is_refused(labels, message):
    with pytest.raises(Echo4oError, match=message):
        class_names(dict(enumerate(labels)), "tiny")


@pytest.mark.parametrize(
    "change", [{}, {3: "motorbike", 57: "sofa", 62: "tvmonitor", 60: "diningtable", 64: "mouse"}]
)
def test_names_that_models_write_their_own_way_are_accepted(change):
    class_names({**dict(enumerate(NAMES)), **change}, "tiny")


@pytest.fixture(scope="module")
def judged(models, tmp_path_factory):
    """A run of two items, the words of its command, and its pictures."""
    root = tmp_path_factory.mktemp("geneval")
    file = root / "items.jsonl"
    rows = [item.to_json() for item in (ITEMS[0], COLORED)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pictures = paint(root / "pictures", TASK.items(str(file)).items)
    words = ["eval", "judge", "geneval", "--items", str(file), "--images", str(pictures)]
    words += ["--colours", str(models[1]), "--protocol", "paper"]
    main([*words, "--judge", f"detector:{models[0]}", "--out", str(root / "run")])
    return load_run(root / "run"), words, root


def test_a_run_with_a_detector(models, judged, tmp_path, capsys):
    run, words, root = judged
    assert (len(run.verdicts), run.calls) == (8, 8)
    assert all(one.outcome == "judged" for one in run.verdicts)
    assert run.judge["model"] == "detector:tiny-mask2former"
    (name,) = run.judge["answered_as"]
    assert name.startswith("detector:tiny-mask2former@")
    assert ", colours tiny-clip@" in name
    assert any(json.loads(one.raw_reply)["objects"] for one in run.verdicts)
    main([*words, "--judge", f"detector:{models[0]}", "--out", str(root / "run")])
    assert load_run(root / "run").calls == 0  # all was known
    assert ANY_RIGHT in capsys.readouterr().out
    for name, message in (
        ("gpt-4.1", "judged by a detector, not by gpt-4.1"),
        (f"detector:{models[1]}", "is a clip, none of the detectors that can be read here"),
        (f"detector:{tmp_path}", "is no detector that transformers can load"),
    ):
        with pytest.raises(SystemExit):
            main([*words, "--out", str(tmp_path / "other"), "--judge", name])
        assert message in capsys.readouterr().err


def test_pictures_side_by_side_are_judged_as_one_after_the_other(models, judged, tmp_path):
    """Threads share the models, and torch has as many as before when they are done."""
    run, _, root = judged
    items = TASK.items(str(root / "items.jsonl")).items
    samples = [find_pictures(root / "pictures", sample) for sample in range(1, 5)]
    before = torch.get_num_threads()
    other = 1 if before > 1 else 3
    torch.set_num_threads(other)
    try:
        found = judge(
            items,
            samples[0],
            more=samples[1:],
            protocol=TASK.protocol("paper"),
            config=JudgeConfig(model=f"detector:{models[0]}", colours=str(models[1])),
            ledger=tmp_path / "ledger.sqlite",
        )
        assert torch.get_num_threads() == other
    finally:
        torch.set_num_threads(before)
    assert [one.findings for one in found.verdicts] == [one.findings for one in run.verdicts]
    for one, wanted in zip(found.verdicts, run.verdicts, strict=True):
        mine, theirs = (json.loads(each.raw_reply)["objects"] for each in (one, wanted))
        assert mine.keys() == theirs.keys()
        for name, group in mine.items():
            assert group["colours"] == theirs[name]["colours"]
            np.testing.assert_allclose(group["boxes"], theirs[name]["boxes"], atol=1e-4)


def test_pictures_that_do_not_fit_the_items(tmp_path):
    pictures = paint(tmp_path, ITEMS[:2])
    samples = [find_pictures(pictures, sample) for sample in range(1, 5)]
    config = JudgeConfig(model="detector:tiny")
    cases = run_cases(TASK, ITEMS[:2], pictures=pictures, protocol="released", config=config)
    assert [(one.item.number, one.sample) for one in cases[2:5]] == [(1, 3), (1, 4), (2, 1)]
    with pytest.raises(Echo4oError, match="item 1 has 3, item 2 has 3"):
        TASK.hooks.check(ITEMS, samples[:3], "released")
    TASK.hooks.check(ITEMS, samples[:3], "kit")
    record = PictureRecord(prompt=ITEMS[1].prompt, model="m")
    save_picture(samples[2][1], Image.new("RGB", (8, 8)), record)
    with pytest.raises(Echo4oError, match=r"1-3\.png was made from the prompt 'Show a cat\.', but"):
        TASK.hooks.check(ITEMS, samples, "paper")


def test_the_benchmarks_own_layout(tmp_path):
    for item in ITEMS[:2]:
        own = tmp_path / f"{item.number - 1:05d}"
        paint(own / "samples", [item], 1)
        (own / "samples" / f"{item.number}.png").rename(own / "samples" / "0000.png")
        (own / "samples" / "grid.png").write_bytes(b"")
        (own / "metadata.jsonl").write_text(json.dumps(item.to_json()))
    found = TASK.hooks.layout(ITEMS, tmp_path)
    assert list(found) == ["1.png", "2.png"]
    with pytest.raises(Echo4oError, match="says that its pictures were made from"):
        TASK.hooks.layout([read_row(ITEMS[1].to_json(), 1)], tmp_path)


def test_what_prompts_are_is_always_said():
    for name, said in (("geneval", "short prompts"), ("geneval_rewritten", "rewritten long")):
        found = ItemSet(source="mine.jsonl", sha256=ITEM_FILES[name].sha256, items=ITEMS)
        assert said in label(found).source
    assert label(ItemSet(source="mine.jsonl", sha256="0", items=ITEMS)).source == "mine.jsonl"
    with pytest.raises(Echo4oError, match="echo4o eval fetch geneval`"):
        TASK.items("rewritten")


def test_agreement_with_the_verdicts_of_another_detector(judged, tmp_path, capsys):
    run, _, root = judged
    rows = [
        {
            "filename": f"x/{one.number - 1:05d}/samples/{one.sample - 1:04d}.png",
            "correct": one.correct if one.number == 1 else not one.correct,
        }
        for one in run.verdicts[:-1]
    ]
    other = tmp_path / "results.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare_verdicts(run, read_verdicts(other))
    assert found.overall.share.score == pytest.approx(0.5)  # one prompt wholly, one not at all
    assert sum(found.overall.table) == 7
    assert (found.run_only, found.other_only) == (1, 0)
    main(["eval", "detector-agreement", str(root / "run"), str(root / "run")])
    assert "100.0 %" in capsys.readouterr().out
    for text, message in (
        ('{"filename": "a.png", "correct": true}', "is no 00000/samples"),
        ('{"number": 1, "correct": "yes"}', "neither true nor false"),
        ("{", "line 1"),
        ("", "holds no verdict"),
    ):
        other.write_text(text)
        with pytest.raises(Echo4oError, match=message):
            read_verdicts(other)


@pytest.mark.slow
def test_a_killed_run_looks_at_no_picture_twice(models, tmp_path):
    pictures = paint(tmp_path / "pictures", ITEMS)
    command = [sys.executable, "-m", "echo4o.cli", "eval", "judge", "geneval"]
    command += ["--images", str(pictures), "--judge", f"detector:{models[0]}"]
    command += ["--colours", str(models[1]), "--out", str(tmp_path / "run")]
    looked_at, total = 0, len(ITEMS) * 4
    for wanted in (10, 30, 60):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while (looked_at := known(tmp_path / "run" / LEDGER)) < wanted:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    looked_at = known(tmp_path / "run" / LEDGER)
    subprocess.run(command, check=True)
    run = load_run(tmp_path / "run")
    assert run.calls == total - looked_at
    assert [one.outcome for one in run.verdicts] == ["judged"] * total


def known(ledger):
    """How many pictures a ledger has an answer for."""
    try:
        with Ledger(ledger, read_only=True) as book:
            return sum(entry.state == "done" for entry in book.entries())
    except LedgerError:  # not there yet, or just being made
        return 0

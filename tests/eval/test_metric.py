"""The `evaluate` module of GenEval++, loaded from its folder by the real library."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from eval_tools import KIT, paint_into
from PIL import Image
from tiny_detectors import save_detectors

import echo4o.eval
from echo4o.errors import Echo4oError
from echo4o.eval.protocols import checklist
from echo4o.eval.tasks import get_task, task_names
from echo4o.sandbox import world

METRICS = Path(echo4o.eval.__file__).parent / "metrics"
FOLDER = METRICS / "geneval_plus_plus"
ITEMS = KIT.items[28:34]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """`evaluate.load` of our folders, offline.

    A process imports its copies from the first place it saw, and the parallel runner comes back
    to this file after others: one folder for the whole session, not one per fixture.
    """
    import evaluate

    modules = tmp_path_factory.getbasetemp() / "evaluate-modules"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(modules))
        yield lambda name, **options: evaluate.load(str(METRICS / name), **options)


def test_compute_judges_paths_and_pil_pictures(api, load, tmp_path):
    metric = load("geneval_plus_plus", cache_dir=str(tmp_path / "cache"))
    folder = paint_into(tmp_path / "pictures", ITEMS)
    files = [folder / f"{item.number}.png" for item in ITEMS]
    predictions = [str(file) for file in files[:3]] + [Image.open(file) for file in files[3:5]]
    references = [item.to_json() for item in ITEMS]
    result = metric.compute(
        predictions=[*predictions, Image.new("RGB", (64, 64), "white")],
        references=references,
        judge="sandbox-judge",
    )
    assert [one["correct"] for one in result["verdicts"]] == [True] * 5 + [False]
    assert result["by_tag"]["color_attr"]["score"] == 1.0
    assert result["by_tag"]["counting"]["score"] == 0.75
    assert result["overall"]["items"] == 6
    assert (result["coverage"], result["calls"]) == (1.0, 6)
    assert result["cost_usd"] > 0

    metric.add(prediction=str(files[0]), reference=references[0])
    metric.add_batch(predictions=[str(files[1])], references=references[1:2])
    again = metric.compute(judge="sandbox-judge", base_url=api.openai)
    assert again["overall"]["score"] == 1.0
    assert again["calls"] == 0  # the ledger in evaluate's cache knew both


def test_the_space_judges_a_picture(api, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("metric_app", FOLDER / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    assert app.LEDGER.parent.stat().st_mode & 0o777 == 0o700
    app.LEDGER.parent.rmdir()
    monkeypatch.setattr(app, "LEDGER", tmp_path / "ledger.sqlite")
    choice = f"{ITEMS[0].prompt} ({ITEMS[0].tag})"
    file = str(paint_into(tmp_path / "p", ITEMS[:1]) / f"{ITEMS[0].number}.png")
    with pytest.raises(app.gr.Error, match="ECHO4O_JUDGE"):
        app.judge_picture(choice, file)
    monkeypatch.setenv("ECHO4O_JUDGE", "sandbox-judge")
    for budget in ("", "much", "-1", "nan", "inf"):
        monkeypatch.setenv("ECHO4O_BUDGET", budget)
        with pytest.raises(app.gr.Error, match="sets ECHO4O_BUDGET"):
            app.judge_picture(choice, file)
    monkeypatch.setenv("ECHO4O_BUDGET", "0.0000001")
    with pytest.raises(app.gr.Error, match="budget"):
        app.judge_picture(choice, file)
    assert (api.root / "openai" / "calls.jsonl").read_text() == ""
    monkeypatch.setenv("ECHO4O_BUDGET", "1")
    words, rows = app.judge_picture(choice, file)
    assert words == "**Right**"
    assert [row[0] for row in rows] == ["yes"] * len(checklist(ITEMS[0]))
    with pytest.raises(app.gr.Error, match="give a picture"):
        app.judge_picture(choice, None)


@pytest.mark.parametrize(
    ("name", "words", "row"),
    [
        ("geneval_plus_plus", "**Right**", ["yes", "exactly 1 pink ring"]),
        ("imagine_bench", "**10 of 10 points**", ["10", "fantasy"]),
        ("dpg_bench", "**100 of 100 points**", ["holds", "Is there a circle?"]),
    ],
)
def test_a_visitor_of_the_space_gets_a_verdict(api, tmp_path, monkeypatch, name, words, row):
    """The page itself, over HTTP, by gradio's own client; nothing the visitor sends is trusted."""
    from gradio_client import Client, exceptions, handle_file

    monkeypatch.setenv("ECHO4O_JUDGE", "sandbox-judge")
    monkeypatch.setenv("ECHO4O_BUDGET", "1")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    spec = importlib.util.spec_from_file_location(f"space_{name}", METRICS / name / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    app.LEDGER.parent.rmdir()
    monkeypatch.setattr(app, "LEDGER", tmp_path / "ledger.sqlite")
    item = get_task(name).items("kit").items[0]
    picture = paint_into(tmp_path / "p", [item]) / f"{item.number}.png"
    (tmp_path / "no.png").write_bytes(b"no picture")
    _, url, _ = app.demo.launch(prevent_thread_lock=True, quiet=True, inbrowser=False)
    try:
        client = Client(url, verbose=False)
        choice = next(iter(app.ITEMS))
        said, table = client.predict(choice, handle_file(picture), api_name="/judge")
        assert said == words
        assert table["data"][0][:2] == row
        no_picture = handle_file(tmp_path / "no.png")
        for bad in (("no such item", handle_file(picture)), (choice, None), (choice, no_picture)):
            with pytest.raises(exceptions.AppError):
                client.predict(*bad, api_name="/judge")
        calls = (api.root / "openai" / "calls.jsonl").read_text().splitlines()
        assert len(calls) == 1
    finally:
        app.demo.close()


def test_imagine_bench_computes_points(api, load, tmp_path):
    metric = load("imagine_bench", cache_dir=str(tmp_path / "cache"))
    items = get_task("imagine_bench").items("kit").items[8:11]
    folder = paint_into(tmp_path / "pictures", items)
    result = metric.compute(
        predictions=[str(folder / f"{item.number}.png") for item in items],
        references=[item.to_json() for item in items],
        judge="sandbox-judge",
    )
    assert (result["overall"]["score"], result["scale"], result["calls"]) == (10.0, 10.0, 3)
    assert list(result["by_group"]) == ["Attribute shift"]
    assert [one["points"] for one in result["verdicts"][0]["findings"]] == [10.0] * 3
    metric.add(prediction=str(folder / f"{items[0].number}.png"), reference=items[0].to_json())
    metric.add_batch(
        predictions=[str(folder / f"{items[1].number}.png")], references=[items[1].to_json()]
    )
    again = metric.compute(judge="sandbox-judge")
    assert (again["overall"]["items"], again["calls"]) == (2, 0)


@pytest.mark.parametrize("name", task_names())
def test_the_folder_is_a_space(name):
    folder = METRICS / name
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])
    assert front["sdk"] == "gradio"
    assert len(front["short_description"]) <= 60
    assert (folder / front["app_file"]).is_file()
    assert "evaluate" in front["tags"]
    assert "echo4o[eval]" in (folder / "requirements.txt").read_text()


@pytest.mark.parametrize("name", task_names())
def test_the_metric_file_obeys_the_loaders_import_rules(name):
    """evaluate copies one file and reads its imports by pattern: one plain module a line."""
    text = (METRICS / name / f"{name}.py").read_text()
    top = [line for line in text.splitlines() if re.match(r"(import|from) ", line)]
    assert top
    for line in top:
        assert re.fullmatch(r"import \w+|from (pathlib|typing) import \w+", line), line


def test_several_pictures_of_an_item_are_one_item(api, load, tmp_path):
    metric = load("dpg_bench", cache_dir=str(tmp_path / "cache"))
    items = get_task("dpg_bench").items("kit").items[:2]
    for item in items:
        for sample in range(4):
            picture = world.paint(item.prompt, width=64, height=64, seed=sample)
            if (item.number, sample) == (2, 3):
                picture = Image.new("RGB", (64, 64), "white")
            picture.save(tmp_path / f"{item.number}-{sample}.png")
    files = [str(tmp_path / f"{item.number}-{n}.png") for item in items for n in range(4)]
    rows = [item.to_json() for item in items for _ in range(4)]
    result = metric.compute(predictions=files, references=rows, judge="sandbox-judge")
    assert result["overall"]["score"] == pytest.approx(87.5)
    assert (result["overall"]["items"], result["calls"]) == (2, 8)
    with pytest.raises(Echo4oError, match="between 3 and 4 pictures; give as many of each"):
        metric.compute(predictions=files[:7], references=rows[:7], judge="sandbox-judge")


def test_omnicontext_sees_the_references(api, load, tmp_path):
    metric = load("omnicontext", cache_dir=str(tmp_path / "cache"))
    items = get_task("omnicontext").items("kit").items[9:11]
    folder = paint_into(tmp_path / "pictures", items)
    result = metric.compute(
        predictions=[str(folder / f"{item.number}.png") for item in items],
        references=[item.to_json() for item in items],
        judge="sandbox-judge",
    )
    assert (result["overall"]["score"], result["calls"]) == (10, 2)
    assert {"average of 8 types", "average of 6 types"} <= set(result["by_group"])


def test_geneval_needs_no_judge_but_a_detector(load, tmp_path):
    detector, clip = save_detectors(tmp_path)
    metric = load("geneval", cache_dir=str(tmp_path / "cache"))
    item = get_task("geneval").items("kit").items[0]
    files = []
    for sample in range(2):
        picture = world.paint("a red ring", width=64, height=64, seed=sample)
        picture.save(tmp_path / f"{sample}.png")
        files.append(str(tmp_path / f"{sample}.png"))
    result = metric.compute(
        predictions=files,
        references=[item.to_json()] * 2,
        detector=str(detector),
        colours=str(clip),
    )
    assert (result["overall"]["items"], result["calls"], result["coverage"]) == (1, 2, 1.0)


def test_the_space_of_geneval_draws_what_was_found(tmp_path, monkeypatch):
    detector, clip = save_detectors(tmp_path)
    spec = importlib.util.spec_from_file_location("geneval_app", METRICS / "geneval" / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    app.LEDGER.parent.rmdir()
    monkeypatch.setattr(app, "LEDGER", tmp_path / "ledger.sqlite")
    world.paint("a red ring", width=96, height=64, seed=1).save(tmp_path / "1.png")
    choice = next(iter(app.ITEMS))
    with pytest.raises(app.gr.Error, match="ECHO4O_DETECTOR"):
        app.judge_picture(choice, str(tmp_path / "1.png"))
    monkeypatch.setenv("ECHO4O_DETECTOR", str(detector))
    monkeypatch.setenv("ECHO4O_COLOURS", str(clip))
    words, rows, shown = app.judge_picture(choice, str(tmp_path / "1.png"))
    assert words in ("**Right**", "**Wrong**")
    assert rows[0][1] == "1 dog"
    assert shown.size == (96, 64)

"""The `evaluate` module of GenEval++, loaded from its folder by the real library."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from eval_tools import KIT, paint_into
from PIL import Image
from tests_sandbox import image_api

import echo4o.eval
from echo4o.eval.protocols import checklist

FOLDER = Path(echo4o.eval.__file__).parent / "metrics" / "geneval_plus_plus"
ITEMS = KIT.items[28:34]


@pytest.fixture
def api(tmp_path, monkeypatch):
    with image_api(tmp_path / "sandbox") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        yield server


def test_compute_judges_paths_and_pil_pictures(api, tmp_path, monkeypatch):
    import evaluate

    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    metric = evaluate.load(str(FOLDER), cache_dir=str(tmp_path / "cache"))
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


def test_the_folder_is_a_space():
    text = (FOLDER / "README.md").read_text()
    front = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])
    assert front["sdk"] == "gradio"
    assert (FOLDER / front["app_file"]).is_file()
    assert "evaluate" in front["tags"]
    assert "echo4o[eval]" in (FOLDER / "requirements.txt").read_text()


def test_the_metric_file_obeys_the_loaders_import_rules():
    """evaluate copies one file and reads its imports by pattern: one plain module a line."""
    text = (FOLDER / "geneval_plus_plus.py").read_text()
    top = [line for line in text.splitlines() if re.match(r"(import|from) ", line)]
    assert top
    for line in top:
        assert re.fullmatch(r"import \w+|from (pathlib|typing) import \w+", line), line

"""`echo4o eval run`: three kinds of models, several pictures a prompt, several processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from eval_tools import KIT, WorldPainter
from PIL import Image
from tests_sandbox import image_api
from tiny_diffusers import save_stable_diffusion

from echo4o.cli import main
from echo4o.errors import Echo4oError
from echo4o.eval import generate as generation
from echo4o.eval.buying import BuyConfig, buy, estimate_usd, read_bought
from echo4o.eval.generate import GenerateConfig, generate, seed_of
from echo4o.eval.items import select
from echo4o.eval.painters import PaintSettings, PipelinePainter
from echo4o.eval.pictures import find_pictures
from echo4o.ledger import BudgetExceeded
from echo4o.models.pictures import read_record

ITEMS = select(KIT.items, 7)


@pytest.fixture(scope="module")
def diffusers_folder(tmp_path_factory):
    return save_stable_diffusion(tmp_path_factory.mktemp("diffusers") / "tiny-sd")


def words(model, out, *more):
    fixed = ["eval", "run", "geneval_plus_plus", "--judge", "sandbox-judge", "--limit", "7"]
    return [str(word) for word in (*fixed, "--model", model, "--out", out, *more)]


def status(*words):
    with pytest.raises(SystemExit) as error:
        main(list(words))
    return error.value.code


def test_any_pipeline_of_diffusers_paints_twice_judges_and_reports(
    diffusers_folder, api, tmp_path, capsys
):
    out = tmp_path / "run"
    command = words(diffusers_folder, out, "--steps", "1", "--seed", "4", "--batch-size", "4")
    main(command)
    main([*command, "--samples-per-prompt", "2"])
    folder = out / "pictures"
    names = {path.name for path in folder.glob("*.png")}
    assert names == {f"{i.number}{end}.png" for i in ITEMS for end in ("", "-2")}
    for sample, suffix in ((1, ""), (2, "-2")):
        record = read_record(folder / f"{ITEMS[0].number}{suffix}.png")
        assert record.seed == seed_of(4, ITEMS[0].number, sample)
        assert (record.model, record.parameters["sample"]) == ("tiny-sd", sample)
    first, second = (Image.open(folder / f"{ITEMS[0].number}{end}.png") for end in ("", "-2"))
    assert first.size == (32, 32)
    assert first.tobytes() != second.tobytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["pipeline"] == "StableDiffusionPipeline"
    assert "data:image/png" in (out / "report.html").read_text()
    assert f"report  {out / 'report.html'}" in capsys.readouterr().out


def test_a_batch_of_another_size_paints_the_same(diffusers_folder, tmp_path):
    painter = PipelinePainter(str(diffusers_folder))
    for size in (2, 3):
        config = GenerateConfig(steps=1, seed=1, batch_size=size)
        generate(ITEMS[:3], KIT, painter, tmp_path / str(size), config)
    for item in ITEMS[:3]:
        one, other = (Image.open(tmp_path / size / f"{item.number}.png") for size in "23")
        levels = zip(one.tobytes(), other.tobytes(), strict=True)
        assert max(abs(a - b) for a, b in levels) <= 1


def test_a_bought_model_is_paid_once_refusals_are_named_and_the_budget_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sandbox-key")
    folder, ledger = tmp_path / "pictures", tmp_path / "bought" / "ledger.sqlite"
    with image_api(tmp_path / "sandbox", "refuse=0.3,429=0.1,seed=3") as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)

        def config(**changes):
            settings = {"model": "sandbox-image", "base_url": server.openai, "size": (64, 64)}
            return BuyConfig(**settings | changes)

        pictures, expected = estimate_usd(ITEMS, folder, config())
        assert pictures == 7
        with pytest.raises(BudgetExceeded):
            buy(ITEMS, KIT, folder, config(budget_usd=expected / 2), ledger=ledger)
        kept = {path.name: path.read_bytes() for path in find_pictures(folder).values()}
        bought = buy(ITEMS, KIT, folder, config(budget_usd=2 * expected), ledger=ledger)
        assert len(kept) + bought.pictures + len(bought.refused) == 7
        assert 0 < len(bought.refused) < 7
        assert bought.spent_usd <= expected
        assert read_bought(folder)["refused"] == bought.refused
        assert all((folder / name).read_bytes() == data for name, data in kept.items())
        again = buy(ITEMS, KIT, folder, config(), ledger=ledger)
        assert (again.pictures, again.calls, again.refused) == (0, 0, bought.refused)
        with pytest.raises(Echo4oError, match="settings.quality is 'auto' there and 'low' now"):
            buy(ITEMS, KIT, folder, config(quality="low"), ledger=ledger)
        more = buy(ITEMS[:2], KIT, folder, config(samples=2), ledger=ledger)
        assert set(more.refused) <= {"1", "2", "1-2", "2-2"} | set(bought.refused)
        assert more.calls > 0
        # Refusals of items that were not asked for this time stay known.
        assert read_bought(folder)["refused"] == bought.refused | more.refused


def test_a_damaged_list_of_refusals_or_manifest_is_one_sentence(tmp_path):
    for text in ("{", "[]"):
        (tmp_path / "bought.json").write_text(text)
        with pytest.raises(Echo4oError, match=r"bought.json is .*; delete it and run again"):
            read_bought(tmp_path)
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(Echo4oError, match=r"manifest.json is not .*; use a new folder"):
            generate(ITEMS, KIT, WorldPainter(), tmp_path, GenerateConfig())
    for settings, complaint in (
        ({"model": " "}, "`model` is empty"),
        ({"model": "m", "samples": 0}, "`samples` must be at least 1, got 0"),
        ({"model": "m", "concurrency": 0}, "`concurrency` must be at least 1, got 0"),
        ({"model": "m", "budget_usd": float("nan")}, "`budget_usd` must be 0 or more, got nan"),
    ):
        with pytest.raises(ValueError, match=complaint):
            BuyConfig(**settings)


def test_run_buys_judges_and_resumes_without_a_call(api, tmp_path, capsys):
    command = words("api:sandbox-image", tmp_path / "run", "--size", "64x64")
    main([*command, "--dry-run"])
    told = capsys.readouterr().out
    assert "pictures to buy: 7, about 0.0" in told
    assert "not there yet as 64x64 pixels (--size):\nsandbox-judge: 7 calls, 0 known" in told
    assert not (tmp_path / "run").exists()
    main(command)
    main(command)
    said = capsys.readouterr().out
    assert "pictures to buy: 7, about 0.0" in said
    assert "7 bought, 0 refused, 0 failed; 7 calls now" in said
    assert "0 bought, 0 refused, 0 failed; 0 calls now" in said
    assert "7 judged; 0 calls now" in said
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["generation"]["model"]["id"] == "api:sandbox-image"
    assert run["scores"]["overall"]["score"] > 0.5  # the sandbox paints what it is told


@pytest.mark.shared
@pytest.mark.parametrize(
    ("model", "options", "complaint"),
    [
        ("api:sandbox-image", ("--steps", "4"), "--steps means nothing for an image model behind"),
        ("api:sandbox-image", ("--processes", "2"), "--processes means nothing for an image model"),
        ("api:", (), "`model` is empty; name one"),
        ("api:nobody-knows", (), "no price for model 'nobody-knows'"),
        ("x", ("--picture-budget", "1"), "--picture-budget means nothing for a model that runs"),
        ("x", ("--processes", "0"), "--processes must be at least 1, got 0"),
        ("x", ("--dtype", "int3"), "`dtype` must be one of float32, bfloat16, float16, got 'int3'"),
        ("x", ("--samples-per-prompt", "0"), "`samples` must be at least 1, got 0"),
        ("x", (), "'x' is neither a folder nor a Hub id"),
        (
            "x",
            ("--protocol", "released", "--samples-per-prompt", "2"),
            "judges one picture of a prompt, not 2",
        ),
        ("x", ("--protocol", "released"), "looks only for files that end in jpg"),
        ("x", ("--protocol", "kit", "--explain"), "kit cannot be read another way"),
    ],
)
def test_misuse_is_one_sentence(
    shared, api, tmp_path, monkeypatch, capsys, model, options, complaint
):
    monkeypatch.setenv("ECHO4O_BENCHMARKS", str(shared / "benchmarks"))
    assert status(*words(model, tmp_path / "run", *options)) == 1
    said = capsys.readouterr().err
    assert complaint in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("index", "complaint"),
    [
        ("{", "names no pipeline class"),
        ("[]", "names no pipeline class"),
        ('{"_class_name": "../x"}', "as its class; that is none"),
        ('{"_class_name": ["a", 3]}', "as its class; that is none"),
        ('{"_class_name": "NoSuchPipeline"}', "does not load as a pipeline of diffusers"),
        ('{"_class_name": ["pipeline", "Theirs"]}', "does not load as a pipeline of diffusers"),
    ],
)
def test_a_broken_model_folder_is_one_sentence(tmp_path, index, complaint):
    (tmp_path / "model_index.json").write_text(index)
    (tmp_path / "pipeline.py").write_text("raise SystemExit('code of a repository was run')")
    with pytest.raises(Echo4oError, match=complaint):
        PipelinePainter(str(tmp_path)).paint(["a"], [1], PaintSettings())


def test_pipelines_that_need_more_than_text_are_refused(diffusers_folder, tmp_path):
    from diffusers import StableDiffusionImg2ImgPipeline

    other = tmp_path / "other"
    StableDiffusionImg2ImgPipeline.from_pretrained(diffusers_folder).save_pretrained(other)
    painter = PipelinePainter(str(other))
    assert painter.made_by == "StableDiffusionImg2ImgPipeline"
    with pytest.raises(Echo4oError, match="cannot paint from text alone"):
        painter.paint(["a"], [1], PaintSettings(steps=2))
    with pytest.raises(Echo4oError, match="has no setting `width`"):
        painter.paint(["a"], [1], PaintSettings(size=(64, 64)))


def test_kill_9_in_the_middle_of_painting_loses_and_repeats_no_picture(tmp_path):
    """The process dies at each picture in turn, before or after it is written."""
    config = GenerateConfig(seed=1, batch_size=2)
    generate(ITEMS, KIT, WorldPainter(), tmp_path / "whole", config)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    folder, kept = tmp_path / "killed", {}
    for number in range(2 * len(ITEMS)):
        if not (child := os.fork()):
            write, left = generation.write_atomic, [1 + number % 2]

            def dying(path, data, write=write, left=left, number=number):
                left[0] -= path.suffix == ".png"
                if left[0] < 0 or (number % 3 == 0 and left[0] == 0):
                    os.kill(os.getpid(), signal.SIGKILL)
                write(path, data)

            generation.write_atomic = dying
            generate(ITEMS, KIT, WorldPainter(), folder, config)
            os._exit(0)
        os.waitpid(child, 0)
        now = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".png"}
        assert now.items() >= kept.items()
        kept = now
    painter = WorldPainter()
    generate(ITEMS, KIT, painter, folder, config)
    assert len(painter.painted) == len(ITEMS) - len(kept) < len(ITEMS)
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}
    assert found == whole


def _start(command, env):
    return subprocess.Popen(
        [sys.executable, "-m", "echo4o.cli", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_share_the_work_and_paint_what_one_paints(diffusers_folder, api, tmp_path):
    runs = {}
    for processes in ("1", "2"):
        out = tmp_path / processes
        command = words(diffusers_folder, out, "--steps", "1", "--processes", processes)
        child = _start(command, {"ACCELERATE_USE_CPU": "true"})
        said, _ = child.communicate(timeout=300)
        assert child.returncode == 0, said
        assert said.count("7 judged; 7 calls now") == 1, said
        runs[processes] = {
            path.name: path.read_bytes() for path in (out / "pictures").glob("*.png")
        }
    assert "process 1 of 2" in said
    assert len(runs["1"]) == 7
    for name in runs["1"]:
        one, other = (tmp_path / number / "pictures" / name for number in "12")
        pairs = zip(Image.open(one).tobytes(), Image.open(other).tobytes(), strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 1
        assert read_record(one).seed == read_record(other).seed


@pytest.mark.slow
def test_killed_runs_lose_no_picture_and_buy_none_twice(tmp_path, monkeypatch):
    """kill -9 at random moments while buying and judging, until it is through."""
    draw = random.Random(0)
    with image_api(tmp_path / "sandbox", "latency=400ms,seed=1") as server:
        env = {"OPENAI_BASE_URL": server.openai, "OPENAI_API_KEY": server.api_key}
        command = words("api:sandbox-image", tmp_path / "run", "--size", "64x64")
        command[command.index("7")] = "40"
        command += ["--concurrency", "2"]
        kept, kills, done = {}, 0, False
        while not done:
            child = _start(command, env)
            try:
                said, _ = child.communicate(timeout=draw.uniform(4.0, 7.0))
                done = True
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                said, _ = child.communicate()
                kills += 1
            assert done is False or child.returncode == 0, said
            now = {p.name: p.read_bytes() for p in (tmp_path / "run/pictures").glob("*.png")}
            assert now.items() >= kept.items()
            assert all(data.endswith(b"IEND\xaeB`\x82") for data in now.values())
            kept = now
            time.sleep(0.05)
        calls = (tmp_path / "sandbox/openai/calls.jsonl").read_text().splitlines()
        assert len(kept) == 40
        # A kill loses at most what was in flight: two calls.
        assert 80 <= len(calls) <= 80 + 2 * kills
        print(f"killed {kills} times; 40 pictures and 40 verdicts took {len(calls)} calls")
        run = json.loads((tmp_path / "run/run.json").read_text())
        assert run["scores"]["outcomes"]["judged"] == 40

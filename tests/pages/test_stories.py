"""What our pages tell, command by command, against a Hub and an image API of this machine."""

import json
import re
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from authors_layout import write_collection, write_t2i
from page_blocks import ROOT, World, block, changed
from page_table import STORIES
from PIL import Image
from tests_sandbox import image_api

TINY = Path(str(files("echo4o.models"))) / "tiny_model"
DATASET = (
    "echo4o data plan shapes --out w --rows 40 --model sandbox-image --size 64x64",
    "echo4o data generate w --model sandbox-image --size 64x64",
    "echo4o data build w --out made/echo-4o-image --validation 4",
)
RELEASE = """
[release]
name = "NAME"
version = "v2"
[dataset]
folder = "echo-4o-image"
repo = "ORG/echo-4o-image"
[results]
repo = "ORG/results"
runs = ["scores"]
[model]
folder = "run"
repo = "ORG/model"
runs = ["scores"]
authors_layout = "ORG/model-bagel"
[model.card]
license = "apache-2.0"
[[spaces]]
name = "generate"
repo = "ORG/NAME"
"""
OTHER_LICENCE = '[[rights.references]]\nmatch = "*"\nlicence = "MIT"\n'


@pytest.fixture
def here(tmp_path):
    with image_api(tmp_path / "sandbox") as server:
        made = World(tmp_path, server.openai, server.api_key)
        try:
            yield made
        finally:
            made.hub.stop()


def run(here: World, story: tuple[str, tuple[str, ...]], before: dict[str, str] | None = None):
    page, firsts = story
    assert story in STORIES
    return [here.run(block(page, one), (before or {}).get(one, "")) for one in firsts]


@pytest.mark.slow
def test_a_model_makes_pictures(here):
    from peft import get_peft_model

    from echo4o import Echo4oPipeline
    from echo4o.models.bagel import adapter

    here.push(TINY, "Yejy53/Echo-4o")
    pipe = Echo4oPipeline.from_pretrained(str(TINY))
    wrapped = get_peft_model(pipe.model, adapter.lora_config("generation", rank=4, alpha=8))
    wrapped.save_pretrained(here.folder / "adapter")
    here.push(here.folder / "adapter", "ORG/adapter")
    _leave_out(here.folder / "tuned")
    _omnigen2(here)
    before = "from PIL import Image\nbear = rug = photo = Image.new('RGB', (48, 48), 'red')"
    said = run(here, STORIES[0], {"import torch": before})
    assert (here.folder / "out/a-cube-shaped-football-2.png").is_file()
    assert (here.folder / "whole").is_dir()
    assert "generate is at http://127.0.0.1" in said[1]


def _omnigen2(here: World) -> None:
    from tiny_omnigen2 import make_omnigen2

    make_omnigen2().save_pretrained(here.folder / "omnigen2")
    here.push(here.folder / "omnigen2", "OmniGen2/OmniGen2")


def _leave_out(folder: Path) -> None:
    """A model in the authors' layout without its vision tower, as some fine-tunings leave it."""
    from safetensors.torch import load_file, save_file

    from echo4o import Echo4oPipeline
    from echo4o.models.bagel.weights import VISION_PREFIXES

    Echo4oPipeline.from_pretrained(str(TINY)).save_pretrained(folder, layout="bagel")
    tensors = load_file(folder / "ema.safetensors")
    kept = {name: one for name, one in tensors.items() if not name.startswith(VISION_PREFIXES)}
    save_file(kept, folder / "ema.safetensors")


@pytest.mark.slow
def test_the_authors_dataset_is_imported(here):
    write_t2i(here.folder / "Echo-4o-Image")
    write_collection(here.folder / "Echo-4o-Image", [[0, 1], [1, 2], [2, 0]], 3)
    run(here, STORIES[1])


@pytest.mark.slow
def test_a_dataset_is_made_trained_on_and_judged(here):
    rights = changed("README.md", block("README.md", "[rights]").text) + OTHER_LICENCE
    (here.folder / "RELEASE.toml").write_text(rights)
    page, (make,) = STORIES[2]
    lines = block(page, make)
    first, compare, rest = lines.text.partition("echo4o eval compare")
    here.run(lines._replace(text=first))
    shutil.copytree(here.folder / "scores", here.folder / "other-scores")
    here.run(lines._replace(text=compare + rest))
    assert (here.folder / "rows").is_dir()


@pytest.mark.slow
def test_a_release_is_signed_published_and_verified(here):
    """Also in the authors' layout, which is loaded and held against the model."""
    here.shell(
        *DATASET,
        "mv made/echo-4o-image .",
        "echo4o train run tiny --data echo-4o-image --out run --set steps=2",
        "echo4o eval run geneval_plus_plus --items kit --limit 7 --steps 1 --model run/model "
        "--judge sandbox-judge --out scores",
    )
    rights = changed("README.md", block("README.md", "[rights]").text) + OTHER_LICENCE
    (here.folder / "RELEASE.toml").write_text(RELEASE + rights)
    page, (release,) = STORIES[12]
    lines = block(page, release)
    published, verify, checked = lines.text.partition("echo4o release verify")
    here.run(lines._replace(text=published))
    repos = json.loads((here.folder / "release-v2/published.json").read_text())["repos"]
    assert [one["id"] for one in repos][-2:] == ["ORG/model-bagel", "ORG/NAME"]
    (here.folder / "COMMIT").write_text(f"spaces/ORG/NAME@{repos[-1]['revision']}")
    said = here.run(lines._replace(text=verify + checked))
    assert "checks, no difference" in said
    assert "authors' layout" in said


@pytest.mark.slow
def test_the_sandbox_tells_its_variables(here):
    (said,) = run(here, STORIES[3])
    assert "you may write to" in said


@pytest.mark.slow
def test_a_model_is_trained(here):
    here.shell(*DATASET)
    here.push(here.folder / "made/echo-4o-image", "ORG/echo-4o-image", "dataset")
    for name in ("bear", "rug", "bear-on-rug", "cube-football"):
        Image.new("RGB", (64, 64), "red").save(here.folder / f"{name}.png")
    (here.folder / "my_rows/data").mkdir(parents=True)
    here.run(block("training/README.md", "from pathlib"))
    fresh = "rm -rf run"
    befores = dict.fromkeys(STORIES[4][1][1:], fresh)
    run(here, STORIES[4], befores)
    assert (here.folder / "run/record.json").is_file()


@pytest.mark.slow
def test_omnigen2_is_trained_and_compared(here):
    here.shell(*DATASET)
    here.push(here.folder / "made/echo-4o-image", "ORG/echo-4o-image", "dataset")
    _omnigen2(here)
    run(here, STORIES[5])
    assert (here.folder / "comparison/comparison.md").is_file()


@pytest.mark.slow
def test_blip3o_is_trained_from_cached_features(here):
    here.shell(*DATASET)
    here.push(here.folder / "made/echo-4o-image", "ORG/echo-4o-image", "dataset")
    run(here, STORIES[6])
    assert (here.folder / "run/record.json").is_file()


@pytest.mark.slow
def test_models_are_judged(here):
    from tiny_detectors import save_detectors

    here.push(TINY, "Yejy53/Echo-4o")
    save_detectors(here.folder)
    lines = [
        {"filename": f"{n:05d}/samples/{k:04d}.png", "correct": False}
        for n in range(7)
        for k in range(4)
    ]
    (here.folder / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    run(here, STORIES[7], {"echo4o eval fetch geneval": "rm -rf run"})


@pytest.mark.slow
def test_answers_from_elsewhere_and_references_are_judged(here):
    here.push(TINY, "Yejy53/Echo-4o")
    (here.folder / "dpg_bench.csv").write_text(
        "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
        "question_natural_language\n"
        "pot,A red pot.,,1,0,entity,whole,entity - whole (pot),Is there a pot?\n"
        "pot,A red pot.,,2,1,attribute,color,attribute - color (pot),Is the pot red?\n"
    )
    answers = [
        {"item_id": "pot", "picture": picture, "answers": {"1": "yes", "2": "no"}}
        for picture in range(1, 5)
    ]
    (here.folder / "answers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in answers))
    run(here, STORIES[8], {"echo4o eval fetch omnicontext": "rm -rf run"})


@pytest.mark.slow
def test_items_metrics_and_scores_reach_the_hub(here):
    here.push(TINY, "Yejy53/Echo-4o")
    here.variables["ECHO4O_WEBHOOK_SECRET"] = "a secret of eight letters or more"
    items = Path(str(files("echo4o.eval"))) / "items/geneval_plus_plus_kit.jsonl"
    (here.folder / "FILE").write_text("".join(items.open().readlines()[::30]))
    made = (
        "--items hub:ORG/NAME --model Yejy53/Echo-4o --steps 1 --judge sandbox-judge --protocol kit"
    )
    before = [
        "echo4o eval push items geneval_plus_plus ORG/NAME --items FILE --license apache-2.0",
        f"echo4o eval run geneval_plus_plus {made} --out run",
        f"echo4o eval run geneval_plus_plus {made} --out another-run --seed 1",
    ]
    said = run(here, STORIES[9], {"echo4o eval push items": "\n".join(before)})
    assert "run_uv_job" in said[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generate", "explore"])
def test_a_program_uses_a_space(here, name):
    from demo import TINY as DEMO
    from demo import running

    page, (first,) = next(one for one in STORIES if one[0] == f"spaces/{name}/README.md")
    Image.new("RGB", (48, 48), "red").save(here.folder / "photo.jpg")
    options = []
    if name == "explore":
        here.shell(*DATASET)
        run_it = "echo4o eval run geneval_plus_plus --items kit --limit 7 --steps 1"
        here.shell(f"{run_it} --model {TINY} --judge sandbox-judge --out scores")
        options = ["--dataset", str(here.folder / "made/echo-4o-image")]
        options += ["--results", str(here.folder / "scores")]
    snippet = changed(page, block(page, first).text)
    with running(here.folder, *options, name=name, environment=DEMO) as (url, _):
        snippet = snippet.replace("http://127.0.0.1:7860", url)
        if name == "explore":  # the rows that were made are of this subset
            snippet = snippet.replace('words="red cube", subset="surreal_fantasy"', 'words="red"')
        here.python(snippet)


def test_every_story_has_a_test():
    text = (ROOT / "tests/pages/test_stories.py").read_text()
    used = {int(number) for number in re.findall(r"STORIES\[(\d+)\]", text)}
    assert used | {10, 11} == set(range(len(STORIES)))

"""Pictures for items: the same in every batch, resumable, and never mixed with other settings."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from eval_tools import KIT, WorldPainter, paint_into
from PIL import Image
from tiny_blip3o import make_blip3o
from tiny_omnigen2 import make_omnigen2

from echo4o.errors import Echo4oError
from echo4o.eval.generate import MANIFEST, GenerateConfig, generate, seed_of
from echo4o.eval.items import select
from echo4o.eval.painters import PipelinePainter, identify
from echo4o.eval.pictures import find_pictures, load_picture
from echo4o.models.pictures import read_record
from echo4o.pictures import PictureError

ITEMS = select(KIT.items, 7)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def test_our_pipeline_paints_the_same_picture_in_every_batch(model_folder, tmp_path):
    painter = PipelinePainter(str(model_folder))
    paths = {}
    for size in (3, 7):
        config = GenerateConfig(seed=5, steps=2, size=(64, 64), batch_size=size)
        assert generate(ITEMS, KIT, painter, tmp_path / str(size), config) == 7
        paths[size] = find_pictures(tmp_path / str(size))
    for item in ITEMS:
        first, second = pixels(paths[3][item.number]), pixels(paths[7][item.number])
        assert first.shape == (64, 64, 3)
        # Another batch adds up floats in another order: a level of 255 at most.
        assert np.abs(first - second).max() <= 1
    different = pixels(paths[7][ITEMS[0].number]) - pixels(paths[7][ITEMS[1].number])
    assert np.abs(different).max() > 10
    record = read_record(paths[3][ITEMS[2].number])
    assert record.prompt == ITEMS[2].prompt
    assert record.seed == seed_of(5, ITEMS[2].number)
    assert record.model == "echo-4o-tiny"
    manifest = json.loads((tmp_path / "3" / MANIFEST).read_text())
    assert manifest["model"] == {
        "id": "echo-4o-tiny",
        "revision": None,
        "sha256": painter.identity.sha256,
    }


@pytest.mark.parametrize(
    ("make", "size"), [(make_omnigen2, (32, 48)), (make_blip3o, None)], ids=["omnigen2", "blip3o"]
)
def test_other_models_paint(tmp_path, make, size):
    pipe = make()
    pipe.save_pretrained(tmp_path / "model")
    painter = PipelinePainter(str(tmp_path / "model"))
    config = GenerateConfig(seed=5, steps=2, size=size)
    assert generate(ITEMS[:2], KIT, painter, tmp_path / "pictures", config) == 2
    manifest = json.loads((tmp_path / "pictures" / MANIFEST).read_text())
    assert manifest["pipeline"] == type(pipe).__name__
    alone = pipe(
        ITEMS[1].prompt,
        **({"width": size[0], "height": size[1]} if size else {}),
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(seed_of(5, ITEMS[1].number)),
    )
    found = pixels(find_pictures(tmp_path / "pictures")[ITEMS[1].number])
    assert np.abs(found - np.asarray(alone.images[0], dtype=np.int16)).max() <= 1


def test_a_changed_weight_is_another_model(model_folder, tmp_path):
    before = identify(str(model_folder), None)
    assert identify(str(model_folder), None) == before
    weights = next(model_folder.rglob("*.safetensors"))
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        assert identify(str(model_folder), None).sha256 != before.sha256
    finally:
        weights.write_bytes(kept)


def test_interrupted_generation_goes_on_where_it_was(tmp_path):
    config = GenerateConfig(seed=1, batch_size=2)
    dying = WorldPainter(die_after=4)
    with pytest.raises(KeyboardInterrupt):
        generate(ITEMS, KIT, dying, tmp_path / "a", config)
    finished = {path.name: path.read_bytes() for path in find_pictures(tmp_path / "a").values()}
    assert len(finished) == 4
    (tmp_path / "a" / ".9.png.x.tmp").write_bytes(b"half a picture")
    again = WorldPainter()
    assert generate(ITEMS, KIT, again, tmp_path / "a", config) == 3
    paths = find_pictures(tmp_path / "a")
    assert again.painted == [item.prompt for item in ITEMS[4:]]
    assert all((tmp_path / "a" / name).read_bytes() == data for name, data in finished.items())
    generate(ITEMS, KIT, WorldPainter(), tmp_path / "b", GenerateConfig(seed=1))
    whole = find_pictures(tmp_path / "b")
    assert [whole[n].read_bytes() for n in whole] == [paths[n].read_bytes() for n in paths]


@pytest.mark.parametrize(
    ("painter", "config", "complaint"),
    [
        (WorldPainter("other"), GenerateConfig(), "model.id is 'world' there and 'other' now"),
        (WorldPainter(), GenerateConfig(seed=3), "settings.seed is 0 there and 3 now"),
        (WorldPainter(), GenerateConfig(steps=9), "settings.steps is None there and 9 now"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(tmp_path, painter, config, complaint):
    generate(ITEMS[:1], KIT, WorldPainter(), tmp_path, GenerateConfig())
    with pytest.raises(Echo4oError, match=complaint):
        generate(ITEMS[:1], KIT, painter, tmp_path, config)


def test_pictures_of_unknown_origin_are_not_taken_over(tmp_path):
    paint_into(tmp_path, ITEMS[:1])
    with pytest.raises(Echo4oError, match="nobody knows what made them"):
        generate(ITEMS, KIT, WorldPainter(), tmp_path, GenerateConfig())


def test_seeds_differ_and_are_fixed():
    assert len({seed_of(seed, number) for seed in range(9) for number in range(300)}) == 2700
    assert seed_of(0, 1) == 1419524863  # the high bits of sha256("0/1")


@pytest.mark.parametrize("name", ["not-there", "../up/model", "a/b/c"])
def test_a_model_that_is_nowhere_is_named(name):
    with pytest.raises(Echo4oError, match="neither a folder nor a Hub id"):
        identify(name, None)


def test_a_hub_model_is_pinned_to_its_commit_and_a_missing_one_named(sandbox, tmp_path):
    # The Hub's address is read when its library is imported, hence a process of its own.
    code = """
from huggingface_hub import HfApi
from echo4o.errors import Echo4oError
from echo4o.eval.painters import identify
HfApi().create_repo("rehearsal/eval-identify")
commit = HfApi().upload_file(
    path_or_fileobj=b"one", path_in_repo="a.txt", repo_id="rehearsal/eval-identify"
).oid
found = identify("rehearsal/eval-identify", None)
assert (found.id, found.revision, found.sha256) == ("rehearsal/eval-identify", commit, None)
for name, revision in (("rehearsal/nothing", None), ("rehearsal/eval-identify", "v9")):
    try:
        identify(name, revision)
    except Echo4oError as error:
        assert name in str(error), error
    else:
        raise AssertionError(name)
"""
    subprocess.run(
        [sys.executable, "-c", code], env=sandbox.environment(tmp_path), check=True, timeout=120
    )


def test_pictures_are_found_by_number_whatever_their_ending(tmp_path):
    for name in ("1.png", "002.JPG", "3.webp", "x.png", "0.png", "4.gif", "5.png.txt"):
        Image.new("RGB", (8, 8)).save(tmp_path / "t.png")
        (tmp_path / name).write_bytes((tmp_path / "t.png").read_bytes())
    (tmp_path / "6.png").mkdir()
    assert {number: path.name for number, path in find_pictures(tmp_path).items()} == {
        1: "1.png",
        2: "002.JPG",
        3: "3.webp",
    }
    (tmp_path / "1.jpeg").write_bytes(b"")
    with pytest.raises(Echo4oError, match="two pictures for item 1: 1.jpeg and 1.png"):
        find_pictures(tmp_path)
    with pytest.raises(Echo4oError, match="no picture folder"):
        find_pictures(tmp_path / "none")


def test_ordinary_pictures_are_sent_byte_for_byte_and_others_upright(tmp_path):
    plain = Image.new("RGB", (10, 6), "red")
    plain.save(tmp_path / "1.png")
    assert load_picture(tmp_path / "1.png").data == (tmp_path / "1.png").read_bytes()
    turned = Image.Exif()
    turned[0x0112] = 6
    plain.save(tmp_path / "2.jpg", exif=turned)
    plain.convert("CMYK").save(tmp_path / "3.jpg")
    Image.new("RGBA", (10, 6), (0, 0, 0, 0)).save(tmp_path / "4.png")
    frames = [Image.new("RGB", (10, 6), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "5.webp", save_all=True, append_images=frames[1:], lossless=True)
    sizes = []
    for name in ("2.jpg", "3.jpg", "4.png", "5.webp"):
        (tmp_path / "sent.png").write_bytes(load_picture(tmp_path / name).data)
        with Image.open(tmp_path / "sent.png") as sent:
            assert (sent.format, sent.mode) == ("PNG", "RGB")
            sizes.append((sent.size, sent.getpixel((0, 0))))
    assert [size for size, _ in sizes] == [(6, 10), (10, 6), (10, 6), (10, 6)]
    assert sizes[2][1] == (255, 255, 255)
    assert sizes[3][1] == (255, 0, 0)


def test_damaged_and_huge_pictures_are_refused(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "1.png")
    whole = (tmp_path / "1.png").read_bytes()
    broken = whole[:60] + bytes(20) + whole[80:]
    bomb = whole[:16] + (60000).to_bytes(4, "big") * 2 + whole[24:]
    for data in (b"", b"text", whole[:-20], broken, bomb):
        (tmp_path / "1.png").write_bytes(data)
        with pytest.raises(PictureError):
            load_picture(tmp_path / "1.png")

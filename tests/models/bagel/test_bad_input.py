"""Every entry of the list of bad inputs, through the pipeline or the command line, as users do it.

Pictures are real files here. What is refused is one sentence with the value that was got.
"""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipeline import make_pipeline

from echo4o import Echo4oPipeline, cli
from echo4o.models.checkpoint import CheckpointError
from echo4o.models.pixels import to_rgb

QUICK = {"num_inference_steps": 1, "output_type": "latent"}


def gradient(width: int = 64, height: int = 32) -> Image.Image:
    """Differs at every place, so that turning or blending it shows."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    array = np.stack((x * 3, y * 7, (x + y) * 2), axis=-1) % 256
    return Image.fromarray(array.astype(np.uint8))


def made(pipe: Echo4oPipeline, picture: Image.Image) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return pipe("a hat", picture, generator=generator, **QUICK).images[0]


def saved(path: Path, picture: Image.Image, **options) -> Image.Image:
    picture.save(path, **options)
    return Image.open(path)


# ---------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_rotation_in_exif_is_applied(pipe, orientation, tmp_path):
    """As a phone writes it: the file holds turned pixels and says how to turn them back."""
    upright = gradient()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright.transpose(undo[orientation])
    file = saved(tmp_path / "p.png", turned, exif=exif.tobytes())
    assert to_rgb(file).tobytes() == upright.tobytes()
    assert torch.equal(made(pipe, file), made(pipe, upright))
    assert not torch.equal(made(pipe, turned), made(pipe, upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\xff", b""])
def test_damaged_exif_is_no_rotation(exif, tmp_path):
    file = saved(tmp_path / "p.jpg", gradient(), exif=exif)
    assert to_rgb(file).size == (64, 32)


def test_transparency_becomes_white_in_every_mode(pipe, tmp_path):
    """RGBA, a palette with a transparent colour, and an RGB file with one."""
    half = gradient().convert("RGBA")
    half.putalpha(Image.linear_gradient("L").resize(half.size))
    white = Image.new("RGBA", half.size, "white")
    wanted = Image.alpha_composite(white, half).convert("RGB")
    got = to_rgb(saved(tmp_path / "rgba.png", half))
    difference = np.abs(np.asarray(got, int) - np.asarray(wanted, int))
    assert difference.max() <= 1
    assert torch.isfinite(made(pipe, half)).all()
    palette = Image.new("P", (40, 40), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    file = saved(tmp_path / "p.png", palette, transparency=1)
    assert to_rgb(file).getpixel((5, 5)) == (255, 255, 255)
    keyed = saved(tmp_path / "rgb.png", Image.new("RGB", (40, 40), "red"), transparency=(255, 0, 0))
    assert to_rgb(keyed).getpixel((5, 5)) == (255, 255, 255)


def test_cmyk_files_are_read(pipe, tmp_path):
    file = saved(tmp_path / "p.jpg", Image.new("CMYK", (64, 32), (0, 255, 255, 0)), quality=95)
    assert file.mode == "CMYK"
    red, green, blue = to_rgb(file).getpixel((9, 9))
    assert (red > 200, green < 60, blue < 60) == (True, True, True)
    assert torch.isfinite(made(pipe, file)).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I", "F"])
def test_16_bits_per_channel_are_refused_by_mode(pipe, mode):
    with pytest.raises(ValueError, match=rf"mode '{mode}' \(16 bit or more .*convert it to 8 bit"):
        made(pipe, Image.new(mode, (40, 40)))


def test_16_bit_files(pipe, ours, tmp_path, capsys):
    """Grey is refused on the command line too; colour is reduced to 8 bits when it is opened."""
    grey = tmp_path / "grey.png"
    Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(grey)
    assert "convert it to 8 bit first" in refused(capsys, "generate", ours, "x", "--image", grey)
    colour = tmp_path / "colour.png"
    colour.write_bytes(png_16_bit(40, 24, (0x8000, 0x4000, 0xFFFF)))
    file = Image.open(colour)
    assert to_rgb(file).getpixel((3, 3)) == (0x80, 0x40, 0xFF)
    assert torch.isfinite(made(pipe, file)).all()


def png_16_bit(width: int, height: int, colour: tuple[int, int, int]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    row = b"\0" + b"".join(value.to_bytes(2, "big") for value in colour) * width
    parts = chunk(b"IHDR", size + bytes((16, 2, 0, 0, 0)))
    parts += chunk(b"IDAT", zlib.compress(row * height)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("mode", ["1", "L", "P", "PA", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_8_bit_mode_is_taken(pipe, mode):
    assert to_rgb(Image.new(mode, (40, 40))).mode == "RGB"
    assert torch.isfinite(made(pipe, Image.new(mode, (40, 40)))).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (17, 5)])
def test_odd_shapes_are_taken(pipe, size):
    assert torch.isfinite(made(pipe, Image.new("RGB", size, "red"))).all()


def test_an_empty_picture_is_refused(pipe):
    with pytest.raises(ValueError, match="a picture of 0 x 5 pixels is empty"):
        made(pipe, Image.new("RGB", (0, 5)))


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """A verb ends with status 1 and one line."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["model", *map(str, words)])
    assert caught.value.code == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("error: ")
    assert not [line for line in said if "Traceback" in line]
    return said[-1]


@pytest.mark.parametrize("keep", [0, 10, 100, -5])
def test_cut_off_picture_files_are_refused(ours, keep, tmp_path, capsys):
    path = tmp_path / "cut.png"
    gradient().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    assert "cut.png cannot be read as a picture" in refused(capsys, "ask", ours, path, "why?")


# ---------------------------------------------------------------------------- requests


def test_too_many_references_are_counted(pipe, ours, tmp_path, capsys):
    many = [gradient()] * 5
    with pytest.raises(ValueError, match="at most 4 .*got 5"):
        pipe("a", many, **QUICK)
    with pytest.raises(ValueError, match="at most 4 .*got 5"):
        pipe(["a", "b"], [[gradient()], many], **QUICK)
    with pytest.raises(ValueError, match="at most 4 .*got 5"):
        pipe(segments=["a", *many], **QUICK)
    gradient().save(tmp_path / "p.png")
    five = [tmp_path / "p.png"] * 5
    assert "at most 4" in refused(capsys, "generate", ours, "x", "--image", *five)
    assert torch.isfinite(pipe("a", many[:4], **QUICK).images[0]).all()


def test_prompts_longer_than_the_positions_are_measured(pipe):
    limit = pipe.model.config.text_config.max_position_embeddings
    with pytest.raises(ValueError, match=f"takes {limit + 2} positions, the model has {limit}"):
        pipe("x" * limit, height=32, width=32, **QUICK)
    with pytest.raises(ValueError, match="shorten the text"):
        pipe("x" * limit, gradient(), **QUICK)
    with pytest.raises(ValueError, match="shorten the text"):
        pipe.understand(None, "x" * limit)


def test_answers_and_plans_need_room_too():
    pipe = make_pipeline()
    pipe.model.config.text_config.max_position_embeddings = 100
    with pytest.raises(ValueError, match="takes 62 positions and up to 50 tokens .*has 100"):
        pipe.understand(None, "x" * 60, max_new_tokens=50)
    pipe.understand(None, "x" * 60, max_new_tokens=38)
    pipe.model.config.text_config.max_position_embeddings = 700
    with pytest.raises(ValueError, match="up to 1000 tokens"):
        pipe("a", think=True, height=32, width=32, **QUICK)


@pytest.mark.parametrize("prompt", ["", " ", "\n", "\0", "\N{SNOWMAN}" * 40, "<|im_end|>"])
def test_odd_prompts_are_allowed(pipe, prompt):
    assert torch.isfinite(pipe(prompt, height=32, width=32, **QUICK).images[0]).all()
    assert torch.isfinite(made(pipe, gradient())).all()
    assert isinstance(pipe.understand(None, prompt, max_new_tokens=2), str)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"prompt": "a\ud800b"}, r"no Unicode: 'a\\ud800b'"),
        ({"prompt": 5}, "`prompt` must be a text or a list of texts, got 5"),
        ({"prompt": ["a", None]}, r"a list of texts, got \['a', None\]"),
        ({"image": "x"}, "for 1 prompts, with a str among them"),
        ({"image": [["x"]]}, "for 1 prompts, with a str among them"),
        ({"image": 3}, "must be PIL pictures, got int"),
        ({"guidance_scale": float("nan")}, "must be a finite number from 0, got nan"),
        ({"guidance_scale": float("inf")}, "must be a finite number from 0, got inf"),
        ({"image_guidance_scale": -0.5}, r"`image_scale` must be .*got -0\.5"),
        ({"num_inference_steps": -3}, "must be at least 1, got -3"),
        ({"num_inference_steps": 2.5}, r"must be a whole number, got 2\.5"),
        ({"height": 32.0}, r"`height` must be a whole number of pixels, got 32\.0"),
        ({"height": 0}, "multiple of 16, got 0"),
        ({"height": -16}, "multiple of 16, got -16"),
        ({"width": 1 << 40}, "at most 128 pixels"),
        ({"timestep_shift": float("nan")}, "must be a positive number, got nan"),
        ({"think": True, "max_think_tokens": 0}, "`max_think_tokens` must be at least 1"),
    ],
)
def test_values_out_of_range_are_named(pipe, call, said):
    with pytest.raises(ValueError, match=said):
        pipe(**{"prompt": "a", "height": 32, "width": 32, **QUICK} | call)


def test_zero_steps_and_negative_guidance_on_the_command_line(ours, capsys):
    words = ("generate", ours, "a", "--size", "32")
    assert "must be at least 1, got 0" in refused(capsys, *words, "--steps", 0)
    assert "got -2.0" in refused(capsys, *words, "--guidance", "-2")
    assert "got -2.0" in refused(capsys, *words, "--image-guidance", "-2")
    assert "`width` must be at most 128" in refused(capsys, *words[:3], "--size", "256x32")
    assert "no Unicode" in refused(capsys, "generate", ours, "\udcff", "--size", "32")


# ---------------------------------------------------------------------------- folders


@pytest.fixture
def copy(ours: Path, tmp_path: Path) -> Path:
    """Our layout; the authors' is treated the same way in test_weights.py."""
    shutil.copytree(ours, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_trailing_comma_in_our_layout_is_named(copy):
    path = copy / "model" / "config.json"
    path.write_text(path.read_text().rstrip().removesuffix("}").rstrip() + ",\n}")
    with pytest.raises(CheckpointError, match=r"config\.json is no valid JSON .*trailing comma"):
        Echo4oPipeline.from_pretrained(copy)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"a": 1', "\ufeff{}x"])
def test_a_configuration_that_is_none_is_named(copy, text):
    (copy / "model" / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json (is no valid|should hold)"):
        Echo4oPipeline.from_pretrained(copy)


def test_pickled_weights_are_never_opened(copy):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (copy / "opened",))

    (copy / "model" / "model.safetensors").unlink()
    torch.save({"a": Bomb()}, copy / "model" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        Echo4oPipeline.from_pretrained(copy)
    assert not (copy / "opened").exists()


def test_shards_are_checked_one_by_one(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, max_shard_size="100KB")
    index = tmp_path / "model" / "model.safetensors.index.json"
    first, *_, last = sorted((tmp_path / "model").glob("*.safetensors"))
    data = last.read_bytes()
    last.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=rf"{last.name} has .*cut off"):
        Echo4oPipeline.from_pretrained(tmp_path)
    last.unlink()
    with pytest.raises(CheckpointError, match=f"{last.name} is missing"):
        Echo4oPipeline.from_pretrained(tmp_path)
    facts = json.loads(index.read_text())
    for damaged in ({}, {"weight_map": []}, {"weight_map": {"a": "../../elsewhere"}}):
        index.write_text(json.dumps(facts | {"weight_map": None} | damaged))
        with pytest.raises(CheckpointError, match="should map tensors to files beside it"):
            Echo4oPipeline.from_pretrained(tmp_path)
    assert first.is_file()


@pytest.mark.parametrize("name", ["tests", "pyproject.toml", "nobody/", "a b/c", "../x", ""])
def test_names_that_are_no_model_are_refused(name, capsys):
    refused(capsys, "info", name)

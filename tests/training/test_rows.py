"""What rows become: questions with answers, references in another order or left out, padding."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_rows import make_question, make_row, write_dataset

from echo4o import Echo4oPipeline
from echo4o.errors import Echo4oError
from echo4o.models.bagel.packing import TextSegment, VaeSegment, VitSegment
from echo4o.training.bagel import BagelBatch, BagelFamily, open_family
from echo4o.training.config import TrainConfig
from echo4o.training.data import load_rows
from echo4o.training.latents import Encoder
from echo4o.training.order import Visit
from echo4o.training.overrides import override
from echo4o.training.references import renumber
from echo4o.training.train import train

KEEP = ["drop_text=0", "drop_vit=0", "drop_vae=0"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four drawn rows, questions about 0 to 3 pictures, a row that is both."""
    rows = [make_row(n, references=n % 2) for n in range(4)]
    rows += [make_question(4 + n, pictures=n) for n in range(4)]
    rows.append(make_row(8, references=1) | {"answer": "I place it on the left."})
    return write_dataset(tmp_path_factory.mktemp("asked"), rows)


def make_family(config: TrainConfig, tmp_path: Path, *changes: str) -> BagelFamily:
    config = override(config, changes)
    family = open_family(config, load_rows(config), tmp_path, device=torch.device("cpu"))
    family.prepare()
    return family


def collate(family: BagelFamily, row: int, visit: int = 0) -> BagelBatch:
    batch = family.collate([family.load(Visit(row, visit))])
    assert batch is not None
    return batch


def segments(family: BagelFamily, row: int, visit: int = 0) -> list[object]:
    """The segments of a row, encoded."""
    loaded = family.load(Visit(row, visit))
    assert loaded.example is not None
    (example,) = family._examples.finish([loaded.example])
    return list(family._samples.sample(loaded.visit, example))


@pytest.mark.parametrize("memory", ["latent_cache_mb=64", "latent_cache_mb=0"])
def test_a_question_is_looked_at_and_answered(config, asked, tmp_path, memory):
    # Dropout is for drawing: a question whose pictures or text are left out teaches nothing.
    always = ["drop_text=1", "drop_vit=1", "drop_vae=1", "drop_references=1"]
    family = make_family(config, tmp_path, f"data={asked}", memory, *always)
    tokenizer = family._pipeline.tokenizer
    for row in range(4, 8):
        batch = collate(family, row)
        assert batch.counts.mse == 0
        assert not len(batch.packed.latents)
        assert len(batch.packed.vit_lens) == row - 4
        answer = load_rows(family._config)[row].answer
        labels = batch.packed.ce_labels.tolist()
        assert tokenizer.decode(labels[:-1]) == answer
        assert labels[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert batch.tokens == family.length(row)
        losses = batch.losses()
        assert losses.mse is None
        assert losses.ce is not None
    both = collate(family, 8)
    assert both.counts.mse > 0
    assert both.counts.ce > 0


def test_questions_and_pictures_are_learned_together(config, asked, tmp_path):
    words = [f"data={asked}", "steps=60", "learning_rate=0.01", "samples_per_pack=6"]
    train(override(config, [*words, "checkpoint_every=1000"]), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/loss.jsonl").open()]
    for name in ("ce", "mse"):
        values = [line[name] for line in lines if line[name]]
        assert sum(values[-10:]) < 0.7 * sum(values[:10]), name
    pipe = Echo4oPipeline.from_pretrained(tmp_path / "run/model")
    assert isinstance(pipe.understand(None, "What?", max_new_tokens=3), str)


def test_rows_without_anything_to_learn(config, tmp_path):
    rows = [make_row(n) | {"answer": "  "} for n in range(3)]
    rows[0]["output_image"] = None
    data = write_dataset(tmp_path / "rows", rows)
    family = make_family(config, tmp_path, f"data={data}")
    assert family._rows.skipped == {"a picture is missing": 1}
    lacking = [{k: v for k, v in make_row(n).items() if k != "output_image"} for n in range(3)]
    data = write_dataset(tmp_path / "lacking", lacking)
    with pytest.raises(Echo4oError, match="lacks the columns output_image or answer; it has id"):
        load_rows(override(config, [f"data={data}"]))


@pytest.mark.parametrize(
    ("text", "order", "expected"),
    [
        ("the cat of image 1 on Image 2", (1, 0), "the cat of image 2 on Image 1"),
        ("images 1, 2 and 3 together", (2, 0, 1), "images 2, 3 and 1 together"),
        ("the first image, the second picture", (1, 0), "the second image, the first picture"),
        ("First and third images, photo 2", (2, 1, 0), "Third and first images, photo 2"),
        ("<image_1> with <image_2>", (1, 0), "<image_2> with <image_1>"),
        ("image 1 and the last image, image 2", (1, 0), None),
        ("image 1 and image 12", (1, 0), None),
        ("image 1 beside the other", (1, 0), None),
        ("a cat and a dog", (1, 0), None),
        ("images 1, 2, 3, 4 and 5", (4, 3, 2, 1, 0), None),
    ],
)
def test_references_are_renumbered_or_left_alone(text, order, expected):
    assert renumber(text, order) == expected
    if expected is not None:
        back = tuple(order.index(place) for place in range(len(order)))
        assert renumber(expected, back) == text


def test_references_come_in_any_order_with_their_text(config, mixed, tmp_path):
    plain = make_family(config, tmp_path, *KEEP)
    family = make_family(config, tmp_path, *KEEP, "shuffle_references=true")
    decode = family._pipeline.tokenizer.decode
    row, seen = 17, {}  # two references, both named by number
    usual = segments(plain, row)
    pictures = {usual[1].pixels.sum().item(): "image 1", usual[3].pixels.sum().item(): "image 2"}
    for visit in range(12):
        _, first, _, second, text, target = segments(family, row, visit)
        assert isinstance(first, VitSegment)
        assert isinstance(target, VaeSegment)
        names = [pictures[part.pixels.sum().item()] for part in (first, second)]
        seen[tuple(names)] = decode(text.token_ids)
    left, right = (
        "Put the object from image {} on the left",
        "the object from image {} on the right",
    )
    assert seen == {
        ("image 1", "image 2"): f"{left.format(1)} and {right.format(2)}",
        ("image 2", "image 1"): f"{left.format(2)} and {right.format(1)}",
    }
    assert collate(family, row).tokens <= (family.length(row) or 0)
    assert collate(plain, 3).packed.text_ids.equal(collate(family, 3).packed.text_ids)


def test_references_can_be_left_out_as_guidance_does(config, tmp_path):
    family = make_family(config, tmp_path, *KEEP, "drop_references=0.5")
    kinds = [[type(part) for part in segments(family, 17, visit)] for visit in range(20)]
    without = [TextSegment, VaeSegment]
    assert 4 < kinds.count(without) < 16
    assert {len(kind) for kind in kinds} == {2, 6}
    number = kinds.index(without)
    # The text then starts at position 0, as in the branch of the sampler without pictures.
    assert collate(family, 17, number).packed.position_ids[0] == 0
    assert collate(family, 17, number).packed.position_ids[1] == 1


@pytest.mark.shared
def test_padded_latents_are_the_authors(shared):
    folder = shared / "goldens/bagel"
    tensors = load_file(folder / "goldens_dev/e1_train_mixed.safetensors")
    recorded = json.loads((folder / "goldens_dev/e1_train_mixed.json").read_text())
    pipe = Echo4oPipeline.from_pretrained(folder / "tiny_upstream", dtype=torch.float32)
    encoder = Encoder(pipe.vae, torch.device("cpu"))
    grids = recorded["result"]["patchified_vae_latent_shapes"]
    pictures = [
        padded[:, : 16 * rows, : 16 * columns]
        for padded, (rows, columns) in zip(tensors["in.padded_images"], grids, strict=True)
    ]
    shift, scale = pipe.vae.config.shift_factor, pipe.vae.config.scaling_factor
    alone = [encoder.moments([picture])[0] for picture in pictures]
    for one, single, (rows, columns), noise, expected in zip(
        encoder.padded_moments(pictures),
        alone,
        grids,
        tensors["noise.0"],
        tensors["padded_latent"],
        strict=True,
    ):
        crop = np.s_[:, : 2 * rows, : 2 * columns]
        latent = (one.mean_Chw + one.std_Chw * noise[crop].numpy() - shift) * scale
        np.testing.assert_allclose(latent, expected[crop], atol=1e-5)
        if (rows, columns) == (5, 3):
            assert np.abs(one.mean_Chw - single.mean_Chw).max() > 0.05


def test_padding_is_an_option_of_the_run(config, tmp_path):
    rows = [make_row(n) for n in range(2)]
    family = make_family(
        override(config, [f"data={write_dataset(tmp_path / 'rows', rows)}"]), tmp_path
    )
    padded = BagelFamily(
        family._pipeline,
        family._rows,
        dataclasses.replace(family._config, pad_pictures=True),
        torch.device("cpu"),
    )
    padded.prepare()
    assert not padded.all_ready
    # Pictures of one size need no padding: the same latents, but for how convolutions are summed.
    torch.testing.assert_close(
        collate(padded, 0).packed.latents, collate(family, 0).packed.latents, atol=5e-3, rtol=0
    )

"""A run end to end: what it learns, what it leaves, what it skips, what it refuses."""

import json
import math
import shutil
import sqlite3
import struct
import zlib
from pathlib import Path

import datasets
import pytest
import torch
from datasets import Dataset, Features, List, Value
from huggingface_hub.utils import httpx
from PIL import Image
from safetensors.torch import load_file
from training_rows import make_row, png, write_dataset

from echo4o import Echo4oPipeline, schema
from echo4o.errors import Echo4oError
from echo4o.owner import sole_owner
from echo4o.records import RunRecord, sha256_file
from echo4o.training import draws
from echo4o.training.bagel import open_family
from echo4o.training.config import GROUPS, TrainConfig
from echo4o.training.data import UnusableRowError, decode_picture, load_rows
from echo4o.training.groups import parameter_group
from echo4o.training.order import Visit
from echo4o.training.overrides import override
from echo4o.training.plan import needs, plan_lines
from echo4o.training.recipes import echo4o_7b, tiny
from echo4o.training.tokenizer import SPECIAL_TOKENS, train_tokenizer
from echo4o.training.train import train


def trace(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "loss.jsonl").open()]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model/model/model.safetensors")


def test_references_are_learned(settings, tmp_path):
    rows = [make_row(n, references=1 + n % 2) for n in range(4)]
    config = override(
        tiny(),
        [
            *settings,
            *(f"data={write_dataset(tmp_path / 'rows', rows)}", "steps=60", "ema_decay=0.9"),
            *("drop_text=0", "drop_vit=0", "drop_vae=0", "checkpoint_every=1000"),
            *("learning_rate=0.01", "warmup_steps=5"),
        ],
    )
    train(config, tmp_path / "run")
    losses = [line["loss"] for line in trace(tmp_path / "run")]
    assert sum(losses[-15:]) < 0.6 * sum(losses[:15])


def test_two_runs_do_not_share_a_folder(config: TrainConfig, tmp_path, monkeypatch):
    monkeypatch.setattr("echo4o.training.train.PATIENCE_S", 0)
    with (
        sole_owner(tmp_path / "run", "busy"),
        pytest.raises(Echo4oError, match="another run trains into .*--out"),
    ):
        train(config, tmp_path / "run")
    train(override(config, ["steps=1"]), tmp_path / "run")


def test_what_a_run_leaves(config: TrainConfig, tmp_path):
    prompts = '["A photo of a red circle", "A photo of two blue rings"]'
    config = override(config, [f"sample_prompts={prompts}", "sample_every=6"])
    out = tmp_path / "run"
    assert train(config, out) == (12, True)
    record = RunRecord.load(out)
    assert record.metrics["steps"] == 12
    assert record.metrics["samples"] == 48
    assert record.inputs[0].id.startswith("mixed")
    assert str(tmp_path) not in (out / "record.json").read_text()
    assert all(sha256_file(out / name) == digest for name, digest in record.files.items())
    assert [line["step"] for line in trace(out)] == list(range(1, 13))
    sheets = sorted((out / "samples").iterdir())
    assert [sheet.name for sheet in sheets] == ["step-0000006.png", "step-0000012.png"]
    sheet = Image.open(sheets[0])
    assert sheet.size == (64, 32)
    assert "trainedAlgorithmicMedia" in sheet.info["XML:com.adobe.xmp"]
    pipe = Echo4oPipeline.from_pretrained(out / "model")
    assert pipe("A photo of a red circle", num_inference_steps=2).images[0].size == (32, 32)
    # All groups were trained.
    base = load_file(out / "base/model/model.safetensors")
    moved = {name for name, tensor in weights(out).items() if not tensor.equal(base[name])}
    assert {parameter_group(name) for name in moved} == set(GROUPS["bagel"])


def test_no_steps_give_the_untrained_model(config: TrainConfig, tmp_path):
    config = override(config, ["steps=0"])
    assert train(config, tmp_path / "run") == (0, True)
    base = load_file(tmp_path / "run/base/model/model.safetensors")
    assert all(tensor.equal(base[name]) for name, tensor in weights(tmp_path / "run").items())
    train(override(config, ["seed=43"]), tmp_path / "other")
    assert any(not tensor.equal(base[name]) for name, tensor in weights(tmp_path / "other").items())


def test_frozen_groups_stay(config: TrainConfig, tmp_path):
    train(override(config, ["freeze=und,vit,embeddings"]), tmp_path / "run")
    base = load_file(tmp_path / "run/base/model/model.safetensors")
    moved = {n for n, tensor in weights(tmp_path / "run").items() if not tensor.equal(base[n])}
    assert {parameter_group(name) for name in moved} == {"gen", "heads"}


def test_pictures_encoded_at_every_use_give_the_same_losses(config: TrainConfig, tmp_path):
    config = override(config, ["steps=5"])
    train(config, tmp_path / "cached")
    train(override(config, ["latent_cache_mb=0"]), tmp_path / "fresh")
    cached, fresh = (
        [line["loss"] for line in trace(tmp_path / name)] for name in ("cached", "fresh")
    )
    assert fresh == pytest.approx(cached, rel=1e-4)


def test_a_connection_that_is_cut_is_tried_again(config: TrainConfig, monkeypatch):
    real, tried = datasets.load_dataset_builder, []

    def flaky(*words, **options):
        tried.append(words)
        if len(tried) == 1:
            raise httpx.ReadError("[Errno 104] Connection reset by peer")
        return real(*words, **options)

    monkeypatch.setattr(datasets, "load_dataset_builder", flaky)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert len(load_rows(config)) > 0
    assert len(tried) == 2


def test_dropout_follows_its_probabilities(config: TrainConfig, tmp_path):
    config = override(config, ["drop_text=0.5", "drop_vit=0", "drop_vae=1"])
    rows = load_rows(config)
    family = open_family(config, rows, tmp_path, device=torch.device("cpu"))
    family.prepare()
    with_references = family.collate([family.load(Visit(17, visit)) for visit in range(20)])
    assert with_references is not None
    packed = with_references.packed
    assert all(noised for noised in packed.latent_noised), "every clean latent is dropped"
    assert len(packed.vit_lens) == 40, "no vision part is dropped"
    texts = sum(modes.count("causal") for modes in packed.attention_modes)
    expected = [draws.uniform(42, 17, visit, "drop text") >= 0.5 for visit in range(20)]
    assert texts == sum(expected)
    assert 0 < texts < 20
    # Two visits of a row differ in noise and time, the same visit does not.
    again = family.collate([family.load(Visit(17, 0))])
    assert again is not None
    assert again.timesteps[0] == with_references.timesteps[0] != with_references.timesteps[1]
    assert again.noise[-1].equal(with_references.noise[: len(again.noise)][-1])


def bomb() -> bytes:
    """A small file whose header claims 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def broken_rows() -> list[dict[str, object]]:
    """Six rows that cannot be used."""
    rows = [make_row(100 + number) for number in range(6)]
    whole = png(Image.new("RGB", (32, 32), "red"))
    pictures = [bomb(), whole[: len(whole) // 2], b"no picture", b""]
    for row, data in zip(rows, pictures, strict=False):
        row["output_image"] = {"bytes": data, "path": "../../x.png"}
    rows[4]["instruction"] = "  "
    rows[5]["output_image"] = {
        "bytes": png(Image.new("I;16", (32, 32))),
        "path": "x.png",
    }
    return rows


def test_rows_that_cannot_be_used_are_skipped_and_counted(settings, tmp_path):
    rows = [*broken_rows(), *(make_row(n) for n in range(6))]
    data = write_dataset(tmp_path / "rows", rows)
    skipped = {
        "a picture is too large": 1,
        "a picture does not decode": 2,
        "a picture is only a path, its bytes are not stored": 1,
        "no instruction": 1,
        "a picture has more than 8 bits per channel": 1,
    }
    traces = []
    for mode in ("latent_cache_mb=64", "latent_cache_mb=0"):
        config, out = override(tiny(), [*settings, f"data={data}", mode]), tmp_path / mode
        train(config, out)
        assert RunRecord.load(out).metrics["rows_skipped"] == skipped
        # A resumed run knows of those that came up before.
        (out / "record.json").unlink()
        train(config, out)
        assert RunRecord.load(out).metrics["rows_skipped"] == skipped
        traces.append(trace(out))
    # The order does not lean on when a row is found unusable: a run may go on with more memory.
    cached, fresh = traces
    assert [line["samples"] for line in cached] == [line["samples"] for line in fresh]
    assert [line["loss"] for line in cached] == pytest.approx([line["loss"] for line in fresh])


def test_only_broken_rows_end_in_a_sentence(settings, tmp_path):
    data = write_dataset(tmp_path / "rows", broken_rows())
    config = override(tiny(), [*settings, f"data={data}"])
    with pytest.raises(
        Echo4oError, match="no row can be used; left out: 6 of 6 rows .*too large: 1"
    ):
        train(config, tmp_path / "run")
    with pytest.raises(Echo4oError, match="no row can be used"):
        train(override(config, ["latent_cache_mb=0"]), tmp_path / "run")


def test_a_missing_column_is_named(settings, tmp_path):
    rows = [{k: v for k, v in make_row(n).items() if k != "output_image"} for n in range(3)]
    data = write_dataset(tmp_path / "rows", rows)
    with pytest.raises(Echo4oError, match=r"lacks the columns output_image"):
        train(override(tiny(), [*settings, f"data={data}"]), tmp_path / "run")


@pytest.mark.parametrize("mode", [[], ["streaming=true", "latent_cache_mb=0"]])
@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("instruction", 3, Value("int64")),
        ("answer", ["a"], List(Value("string"))),
        ("subset", ["a"], List(Value("string"))),
        ("output_image", "a.png", Value("string")),
        ("input_images", {"bytes": b"", "path": None}, datasets.Image()),
        ("input_images", [["a.png"]], List(List(Value("string")))),
    ],
)
def test_a_column_of_something_else_is_named(settings, tmp_path, column, value, kind, mode):
    rows = [make_row(n) | {column: value} for n in range(3)]
    features = {name: kind for name, kind in schema.features().items() if name in rows[0]}
    data = Dataset.from_list(rows, features=Features(features | {column: kind}))
    data.to_parquet(tmp_path / "data" / "train-00000.parquet")
    words = [f"data={tmp_path}", "mixture=default:1", *mode]
    with pytest.raises(
        Echo4oError, match=f"the column {column} holds .*, and not (text|lists|pict)"
    ):
        load_rows(override(tiny(), [*settings, *words]))


def test_pictures_may_be_plain_bytes(settings, tmp_path):
    rows = [make_row(n, references=1) for n in range(2)]
    whole = png(Image.new("RGB", (32, 32), "red"))
    plain = [row | {"output_image": whole, "input_images": [whole]} for row in rows]
    kinds = {"output_image": Value("binary"), "input_images": List(Value("binary"))}
    features = {name: kind for name, kind in schema.features().items() if name in rows[0]}
    data = Dataset.from_list(plain, features=Features(features | kinds))
    data.to_parquet(tmp_path / "data" / "train-00000.parquet")
    for mode in ([], ["streaming=true", "latent_cache_mb=0"]):
        words = [f"data={tmp_path}", "mixture=default:1", *mode]
        row = load_rows(override(tiny(), [*settings, *words]))[1]
        assert (row.target, row.references) == (whole, (whole,))


def test_a_part_of_the_mixture_that_shows_nothing_is_refused(config: TrainConfig, tmp_path):
    with pytest.raises(Echo4oError, match=r"no row of 'all': 18 of 18 can be used.* is 0\.01"):
        train(override(config, ["mixture=all:0.01"]), tmp_path / "run")


def test_pictures_of_any_kind_decode_or_are_refused():
    assert decode_picture(png(Image.new("RGBA", (8, 8)))).mode == "RGBA"
    for data in (b"", b"GIF89a", bomb()):
        with pytest.raises(UnusableRowError):
            decode_picture(data)


def test_a_loss_that_is_no_number_stops_the_run(config: TrainConfig, tmp_path):
    config = override(config, ["learning_rate=1e30", "min_learning_rate=1e-7", "warmup_steps=6"])
    with pytest.raises(Echo4oError, match=r"loss is .*row-00.*checkpoint is none; lower"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run/model").exists()


def test_trackio_keeps_figures_with_the_run(config: TrainConfig, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    drawn = ["sample_every=6", 'sample_prompts=["A photo of a red circle"]', "log_every=6"]
    train(override(config, ["trackers=trackio", *drawn]), tmp_path / "run")
    (database,) = (tmp_path / "run/trackio").glob("*.db")
    with sqlite3.connect(database) as tables:
        kept = " ".join(str(row) for row in tables.execute("select * from metrics"))
    for figure in ("grad_norm", "tokens_per_second", "share_of_peak", "loss/multi_reference"):
        assert figure in kept
    assert list((tmp_path / "run/trackio").rglob("*.png"))
    # One that goes on is the same run there.
    (tmp_path / "run/record.json").unlink()
    shutil.rmtree(tmp_path / "run/checkpoints/step-0000012")
    train(override(config, ["trackers=trackio", *drawn]), tmp_path / "run")
    with sqlite3.connect(database) as tables:
        ((name, steps),) = tables.execute("select run_name, max(step) from metrics group by 1")
    assert (name.partition(" ")[0], steps) == ("tiny", 12)


def test_the_tokenizer_is_reproducible_and_knows_the_markers():
    texts = ["A photo of two red circles", "A photo of two blue rings on the right"] * 20
    first, second = train_tokenizer(texts, 400), train_tokenizer(texts, 400)
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert [first.decode([first.convert_tokens_to_ids(t)]) for t in SPECIAL_TOKENS] == list(
        SPECIAL_TOKENS
    )
    assert len(first.encode("A photo of two red circles on the right")) == 9
    strange = "un café 日本 <|im_end|>"
    assert first.decode(first.encode(strange)) == strange
    with pytest.raises(Echo4oError, match="no instruction"):
        train_tokenizer(["", " "], 400)


@pytest.mark.shared
def test_the_plan_counts_without_loading(shared):
    found = needs(echo4o_7b())
    manifest = json.loads((shared / "goldens/bagel/param_manifest_7b.json").read_text())
    tensors = manifest["model"]["tensors"].values()
    sizes = (math.prod(tensor["shape"]) for tensor in tensors if tensor["trainable"])
    assert found.trained == sum(sizes)
    assert any("hours" in line for line in plan_lines(echo4o_7b()))
    assert 3_000_000 < needs(tiny()).trained < 4_500_000
    frozen = needs(override(tiny(), ["freeze=und"]))
    assert frozen.frozen == frozen.parameters["und"] > 0


@pytest.mark.shared
def test_the_authors_checkpoint_is_fine_tuned_by_token_budget(shared, mixed, tmp_path):
    config = override(
        echo4o_7b(),
        [
            *(f"base_model={shared / 'goldens/bagel/tiny_upstream'}", f"data={mixed}"),
            *("mixture=all:1", "vae_sizes=64,32,16", "vit_sizes=56,28,14", "trackers="),
            "understanding_sizes=none",
            *("tokens_per_pack=200", "packs_per_step=2", "steps=2", "warmup_steps=1"),
            *("sample_every=2", "sample_steps=2", "precision=fp32", "layout=bagel"),
        ],
    )
    train(config, tmp_path / "run")
    train(override(config, ["gradient_checkpointing=false"]), tmp_path / "plain")
    checkpointed, plain = (trace(tmp_path / name) for name in ("run", "plain"))
    assert [line["loss"] for line in checkpointed] == pytest.approx(
        [line["loss"] for line in plain], rel=1e-5
    )
    assert all(100 < line["tokens"] <= 400 for line in plain)
    record = RunRecord.load(tmp_path / "run")
    assert [entry.id for entry in record.inputs if entry.kind == "model"] == ["tiny_upstream"]
    assert (tmp_path / "run/samples/step-0000002.png").exists()
    stored = load_file(tmp_path / "run/model/ema.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert any(name.startswith("vit_model.") for name in stored)
    assert Echo4oPipeline.from_pretrained(tmp_path / "run/model").model.config.hidden_size == 64

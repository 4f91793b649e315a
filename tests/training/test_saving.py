"""What a run keeps and leaves: 8-bit moments, types, layouts, a plan that fits; when it stops."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from echo4o.errors import Echo4oError
from echo4o.model_cards.check import check_card, load_claims
from echo4o.models.bagel.configuration import BagelConfig
from echo4o.models.bagel.modeling import BagelForUnifiedGeneration
from echo4o.records import RunRecord
from echo4o.training import opening, plan, work
from echo4o.training.config import TrainConfig
from echo4o.training.data import load_rows
from echo4o.training.optimise import Trained
from echo4o.training.overrides import override
from echo4o.training.recipes import echo4o_7b, echo4o_7b_lora, echo4o_7b_qlora
from echo4o.training.sizes import sizes_of
from echo4o.training.train import train


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model/model/model.safetensors")


def test_8_bit_moments_take_a_quarter(config: TrainConfig):
    config = override(config, ["optimizer=adamw_8bit"])
    big = torch.nn.Parameter(torch.randn(256, 256))
    before = big.detach().clone()
    trained = Trained({"big": big}, config)
    big.grad = torch.randn(256, 256)
    direction = big.grad.sign()
    trained.clip(1.0)
    trained.step(1e-3)
    # The first step of Adam is the learning rate, against the gradient.
    assert (big - before + 1e-3 * direction).abs().mean() < 1e-5
    moment = trained.optimizer.state_dict()["state"][0]["exp_avg"]
    assert moment.codes.nbytes + moment.scale.nbytes < 0.26 * big.nbytes


@pytest.mark.slow
def test_8_bit_moments_resume_exactly(config: TrainConfig, tmp_path):
    config = override(config, ["optimizer=adamw_8bit"])
    train(config, tmp_path / "run")
    expected = weights(tmp_path / "run")
    (tmp_path / "run/record.json").unlink()
    shutil.rmtree(tmp_path / "run/checkpoints/step-0000012")
    train(config, tmp_path / "run")
    assert all(tensor.equal(expected[name]) for name, tensor in weights(tmp_path / "run").items())


def test_the_last_weights_in_bfloat16(config: TrainConfig, tmp_path):
    train(override(config, ["save_dtype=bf16", "save_weights=raw"]), tmp_path / "raw")
    stored = weights(tmp_path / "raw")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    folder = tmp_path / "raw/checkpoints/step-0000012"
    last, average = (load_file(folder / f"{name}.safetensors") for name in ("weights", "average"))
    assert all(tensor.bfloat16().equal(stored[name]) for name, tensor in last.items())
    assert not all(tensor.bfloat16().equal(stored[name]) for name, tensor in average.items())


def test_a_layout_that_could_not_be_read_again_is_refused_first(config: TrainConfig, tmp_path):
    with pytest.raises(Echo4oError, match=r"`layout` = bagel .*Set layout=echo4o"):
        train(override(config, ["layout=bagel"]), tmp_path / "run")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("vae_sizes=64,32,8", "multiple of the model's patch, 16"),
        ("vit_sizes=56,28,8", "multiple of the model's patch, 14"),
        ("vae_sizes=2048,512,16", "longest side of `vae_sizes`.* table, 1024 pixels"),
        ("understanding_sizes=1400,28,14", "longest side of `understanding_sizes`.*, 980 pixels"),
    ],
)
def test_sizes_that_the_model_cannot_take_are_refused_first(setting, message):
    with pytest.raises(Echo4oError, match=message):
        sizes_of(override(echo4o_7b(), [setting]), BagelConfig())


def test_a_loss_far_above_the_usual_stops_the_run(config: TrainConfig, tmp_path):
    """Half the usual counts as far above here, so the first step that can be judged is."""
    config = override(config, ["steps=60", "stop_above=0.5", "checkpoint_every=20"])
    with pytest.raises(
        Echo4oError, match=r"step 51: .*`stop_above` = 0.5 times.*\(rows row-.*is step-0000040"
    ):
        train(config, tmp_path / "run")
    assert len((tmp_path / "run/loss.jsonl").read_text().splitlines()) == 50


def test_the_console_says_how_it_goes(config: TrainConfig, tmp_path, capfd, caplog):
    budget = ["tokens_per_pack=40", "samples_per_pack=none", "packs_per_step=4", "log_every=6"]
    train(override(config, budget), tmp_path / "run")
    # Three rows have two references.
    left_out = {"longer than `tokens_per_pack`": 3}
    assert RunRecord.load(tmp_path / "run").metrics["rows_skipped"] == left_out
    assert "left out: 3 of 18 rows (longer than `tokens_per_pack`: 3)" in caplog.text
    said = [line for line in capfd.readouterr().out.splitlines() if "tokens/s" in line]
    assert len(said) == 2
    for part in ("instruction_following ", "multi_reference ", "of peak", "% full", "GiB", "grad"):
        assert part in said[0], said
    lines = [json.loads(line) for line in (tmp_path / "run/loss.jsonl").open()]
    spoken = float(said[1].split("  loss ")[1].split()[0])
    assert spoken == pytest.approx(lines[-1]["loss"], abs=1e-4)


def test_the_work_of_a_step_is_that_of_its_matrices():
    """Against torch's own counter; attention outside of the model is counted by the formula."""
    from torch.utils.flop_counter import FlopCounterMode

    from echo4o.models.bagel import BagelConfig, TextSegment, VaeSegment, pack

    ids = {f"{name}_token_id": i for i, name in enumerate(("bos", "eos", "vision_start"))}
    sizes = {"hidden_size": 128, "intermediate_size": 384, "vocab_size": 512}
    config = BagelConfig.tiny(**sizes, **ids, vision_end_token_id=3)
    model = BagelForUnifiedGeneration(config)
    latent = torch.randn(config.latent_channels, 16, 16)
    words = TextSegment(list(range(20)), loss=True)
    batch = pack([[words, VaeSegment(latent, noised=True)]], config)
    with FlopCounterMode(display=False) as counter:
        found = model(batch, timesteps=torch.tensor([0.3]), noise=torch.randn_like(batch.latents))
        (found.mse.mean() + found.ce.mean()).backward()
    gen = sum(batch.latent_lens)

    def flops(sample_lens: list[int]) -> float:
        return work.step_flops(
            config,
            und=batch.num_tokens - gen,
            gen=gen,
            vit_lens=[],
            sample_lens=sample_lens,
            labels=len(batch.ce_rows),
        )

    # The counter knows matrices; the attention kernel of the CPU is unknown to it.
    assert flops([]) == pytest.approx(counter.get_total_flops(), rel=0.05)
    layers, length = config.text_config.num_hidden_layers, batch.num_tokens
    assert flops([length]) - flops([]) == pytest.approx(12 * layers * 128 * length**2)


def test_the_plan_says_what_fits():
    full, lora = plan.needs(echo4o_7b()), plan.needs(echo4o_7b_lora())
    assert plan.memory(full, echo4o_7b(), 1).total > 250 * 2**30
    assert plan.memory(full, echo4o_7b(), 8).total < 80 * 2**30
    small = override(echo4o_7b(), ["optimizer=adamw_8bit"])
    saved = plan.memory(full, echo4o_7b(), 8).training - plan.memory(full, small, 8).training
    assert saved == pytest.approx(full.trained * 5.94 / 8)
    assert plan.memory(lora, echo4o_7b_lora(), 1).total < 48 * 2**30
    assert plan.memory(lora, echo4o_7b_lora(), 8) == plan.memory(lora, echo4o_7b_lora(), 1)
    assert plan.memory(lora, echo4o_7b_qlora(), 1).total < 24 * 2**30
    lines = plan.plan_lines(echo4o_7b(), rate=2000.0)
    assert any(line.split()[:1] == ["8"] and "38 hours" in line for line in lines)
    assert any("needs packs_per_step=16" in line for line in lines)


def test_the_example_of_the_page_is_a_dataset(config: TrainConfig, tmp_path, monkeypatch):
    root = Path(__file__).parents[2]
    claims = load_claims(root / "claims.yaml")
    page = (root / "training/README.md").read_text()
    assert check_card(page, folder=root / "training", repo_type=None, claims=claims) == []
    monkeypatch.chdir(tmp_path)
    for name in ("bear", "rug", "bear-on-rug", "cube-football"):
        Image.new("RGB", (32, 32), "red").save(f"{name}.png")
    exec(page.split("```python\n")[1].split("```")[0], {})
    rows = load_rows(override(config, ["data=my_rows", "mixture=default:1"]))
    assert [len(rows[number].references) for number in range(2)] == [2, 0]
    assert rows.subsets == ("multi_reference", "surreal_fantasy")


def test_gpus_get_the_kernel_for_packs():
    assert opening.attention_for(torch.device("cuda", 0)) == "flex_attention"
    assert opening.attention_for(torch.device("cpu")) == "sdpa"


@pytest.mark.gpu
def test_packs_train_on_a_gpu_as_on_a_cpu(config: TrainConfig, tmp_path, monkeypatch):
    config = override(config, ["precision=fp32"])
    train(config, tmp_path / "gpu")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    train(config, tmp_path / "cpu")
    gpu, cpu = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "loss.jsonl").open()]
        for name in ("gpu", "cpu")
    )
    assert gpu == pytest.approx(cpu, abs=1e-3)

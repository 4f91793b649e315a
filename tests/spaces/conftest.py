"""A tiny model with random weights, and the demo running on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from demo import running


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real pipeline that makes 64 px pictures of nothing in particular."""
    from diffusers import AutoencoderKL

    from echo4o.training.parts import TinySizes
    from echo4o.training.tiny import build_pipeline

    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )
    sizes = TinySizes(hidden_size=48, layers=2, heads=4, kv_heads=2, intermediate_size=96)
    words = ["A photo of three red circles on the left and one small blue square on the right"]
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_pipeline(sizes, vae, words, seed=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[str]:
    """Address of the demo with the tiny model."""
    folder = tmp_path_factory.mktemp("space")
    with running(folder, "--model", str(tiny_model)) as (url, _):
        yield url

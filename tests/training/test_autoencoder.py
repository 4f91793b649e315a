"""The autoencoder that the package ships: what its record says, and what the eye reads of it."""

import random
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from echo4o.records import RunRecord, sha256_file
from echo4o.sandbox import world
from echo4o.sandbox.world.scenes import random_scene
from echo4o.training.tiny import load_autoencoder

FOLDER = Path(str(resources.files("echo4o.models"))) / "tiny_autoencoder"


def test_its_files_are_those_of_its_record():
    record = RunRecord.load(FOLDER)
    assert {name: sha256_file(FOLDER / name) for name in record.files} == record.files
    assert (FOLDER / "diffusion_pytorch_model.safetensors").stat().st_size < 1_000_000


@torch.no_grad()
def test_the_eye_reads_what_it_decodes():
    vae = load_autoencoder(None).float()
    right = 0
    for number in range(25):
        prompt, include = random_scene(random.Random(f"autoencoder {number}"))
        picture = world.paint(prompt, width=64, height=64, seed=number)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
        decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample[0].clamp(-1, 1)
        levels = ((decoded.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
        findings = world.check(world.see(Image.fromarray(levels)), include)
        right += all(finding.ok for finding in findings)
    assert right >= 24

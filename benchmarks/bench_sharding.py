"""Host memory of eight processes that share a model of 1/100 of the published size, on a CPU.

Above what the same processes take idle with the same imports: the peak while the weights are loaded
(limit 1.25 x the checkpoint's bytes), and how much a checkpoint and the final model add to what
training holds (limit 10 %). Peaks are every process' own highest resident size, added up, which is
never less than the peak of the sum; what is held at a time is counted as PSS.

Run: python benchmarks/bench_sharding.py [--processes 8]
Writes: benchmarks/results/sharding.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from machine import describe
from memory import peak, reset_peak, resident
from random_pipeline import make_pipeline
from torch.distributed.device_mesh import init_device_mesh

from echo4o.models.bagel import TextSegment, VaeSegment, pack
from echo4o.training import checkpoint, opening
from echo4o.training.optimise import Trained
from echo4o.training.order import Position
from echo4o.training.recipes import tiny
from echo4o.training.saving import save_pipeline

SIZES: dict[str, Any] = {
    "hidden_size": 640,
    "intermediate_size": 3392,
    "num_hidden_layers": 8,
    "num_attention_heads": 10,
    "num_key_value_heads": 2,
    "vocab_size": 15_200,
    "vision_hidden_size": 256,
    "vision_intermediate_size": 1024,
    "vision_num_hidden_layers": 6,
    "max_latent_size": 16,
    "vit_max_num_patch_per_side": 16,
}
LOADING, SAVING = 1.25, 0.10
RESULTS = Path(__file__).parent / "results/sharding.json"


def pss(process: int) -> int:
    """Bytes of a process, pages that several share divided among them."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("smaps_rollup has no Pss: this needs Linux")


def rank_main(folder: Path, dtype: str) -> None:
    """One of the processes: load, train two steps, save; tells the parent where it is."""
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    torch.set_num_threads(1)
    dist.barrier()
    _say("idle")
    where = opening.Where(torch.device("cpu"), mesh, bf16=False)
    pipe = opening.open_pipeline(folder / dtype, None, where, lambda name: False)
    dist.barrier()
    _say("loaded")
    names = dict(pipe.model.named_parameters())
    trained = Trained(names, tiny())
    seed = torch.Generator().manual_seed(dist.get_rank())
    latent = torch.randn(16, 16, 16, generator=seed)
    batch = pack([[TextSegment([5, 6, 7]), VaeSegment(latent, noised=True)]], pipe.model.config)
    for _ in range(2):
        out = pipe.model(batch, timesteps=torch.tensor([0.5]), noise=torch.randn(64, 64))
        out.mse.mean().backward()
        trained.clip(1.0)
        trained.step(1e-4)
    dist.barrier()
    _say("trained")
    progress = checkpoint.Progress(
        step=2, position=Position(), config={}, data="", started="", seconds=0.0
    )
    checkpoint.save(folder / "checkpoints", progress, trained, keep=1)
    dist.barrier()
    _say("checkpoint")
    save_pipeline(folder / "model", pipe, layout="echo4o", dtype=torch.bfloat16)
    dist.barrier()
    _say("model")
    dist.destroy_process_group()


def _say(word: str) -> None:
    """Report a stage's peak over all processes, wait for the parent to look, and begin anew."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, (peak(), resident()))
    if dist.get_rank() == 0:
        sums = [sum(values) for values in zip(*found, strict=True)]
        print(json.dumps({"stage": word, "peak": sums[0], "resident": sums[1]}), flush=True)
        sys.stdin.readline()
    dist.barrier()
    reset_peak()


def measure(folder: Path, dtype: str, count: int) -> dict[str, Any]:
    """Run the processes through all stages."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(count)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29731"}
    children = [
        subprocess.Popen(
            [sys.executable, __file__, "--rank-of", str(folder), "--dtype", dtype],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if rank == 0 else None,
            text=True,
        )
        for rank in range(count)
    ]
    first = children[0]
    assert first.stdout is not None
    assert first.stdin is not None
    said: dict[str, dict[str, int]] = {}
    for word in ("idle", "loaded", "trained", "checkpoint", "model"):
        line = first.stdout.readline()
        if not line:
            sys.exit(f"the processes ended before they were {word!r}")
        said[word] = json.loads(line) | {"pss": sum(pss(child.pid) for child in children)}
        first.stdin.write("\n")
        first.stdin.flush()
    for child in children:
        child.wait(60)
    size = sum(file.stat().st_size for file in (folder / dtype).rglob("*.safetensors"))
    idle, trained = said["idle"], said["trained"]
    above = trained["pss"] - idle["pss"]

    def over_checkpoint(stage: str, what: str) -> float:
        base = idle["pss" if what == "pss" else "resident"]
        return round((said[stage][what] - base) / size, 3)

    return {
        "checkpoint_mb": round(size / 1e6),
        "idle_mb": round(idle["pss"] / 1e6),
        "loading_peak_over_checkpoint": over_checkpoint("loaded", "peak"),
        "loaded_over_checkpoint": over_checkpoint("loaded", "pss"),
        "training_peak_over_checkpoint": over_checkpoint("trained", "peak"),
        "training_over_checkpoint": over_checkpoint("trained", "pss"),
        "checkpoint_adds": round((said["checkpoint"]["peak"] - trained["resident"]) / above, 3),
        "model_adds": round((said["model"]["peak"] - trained["resident"]) / above, 3),
    }


def main() -> None:
    """Measure, write, and fail when a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rank-of", type=Path)
    parser.add_argument("--dtype", default="fp32")
    args = parser.parse_args()
    if args.rank_of:
        rank_main(args.rank_of, args.dtype)
        return
    results: dict[str, Any] = {"machine": describe(), "processes": args.processes}
    with tempfile.TemporaryDirectory() as name:
        pipe = make_pipeline(**SIZES)
        results["parameters"] = sum(p.numel() for p in pipe.model.parameters())
        for dtype in (torch.float32, torch.bfloat16):
            word = "fp32" if dtype == torch.float32 else "bf16"
            pipe.model.to(dtype)
            pipe.save_pretrained(Path(name) / word)
            results[f"from {word}"] = measure(Path(name), word, args.processes)
            print(word, results[f"from {word}"], flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    found = results["from fp32"]
    if found["loading_peak_over_checkpoint"] > LOADING:
        sys.exit(f"loading is over its limit of {LOADING}")
    if max(found["checkpoint_adds"], found["model_adds"]) > SAVING:
        sys.exit(f"saving is over its limit of {SAVING}")


if __name__ == "__main__":
    main()

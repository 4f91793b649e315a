"""Host memory of eight processes that share a model of 1/100 of the published size, on a CPU.

Summed over the processes, above what the same processes take idle with the same imports: the peak
while the weights are loaded (limit 1.25 x the checkpoint's bytes), and how much a checkpoint and
the final model add to it while training (limit 10 % of what training holds).

Run: python benchmarks/bench_sharding.py [--processes 8]
Writes: benchmarks/results/sharding.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from machine import describe
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
POLL_SECONDS = 0.004


def pss(process: int) -> int:
    """Bytes of a process, pages that several share divided among them."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("smaps_rollup has no Pss: this needs Linux")


class Meter:
    """Samples the sum over all processes and keeps the peak since the last question."""

    def __init__(self, processes: list[int]) -> None:
        self._processes, self._peak, self.samples = processes, 0, 0
        threading.Thread(target=self._watch, daemon=True).start()

    def now(self) -> int:
        """Bytes of all processes at this moment."""
        return sum(pss(process) for process in self._processes)

    def _watch(self) -> None:
        while True:
            try:
                found = self.now()
            except (OSError, RuntimeError):  # the processes have ended
                return
            self._peak, self.samples = max(self._peak, found), self.samples + 1
            time.sleep(POLL_SECONDS)

    def peak(self) -> int:
        """The most since the last question."""
        found, self._peak = self._peak, 0
        return found


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
    """Report a stage and wait for the parent, which reads the meter meanwhile."""
    if dist.get_rank() == 0:
        print(word, flush=True)
        sys.stdin.readline()
    dist.barrier()


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
    meter: Meter | None = None
    peaks: dict[str, int] = {}
    held: dict[str, int] = {}
    for word in ("idle", "loaded", "trained", "checkpoint", "model"):
        said = first.stdout.readline().strip()
        if said != word:
            sys.exit(f"the processes ended before they were {word!r}")
        meter = meter or Meter([child.pid for child in children])
        peaks[word], held[word] = meter.peak(), meter.now()
        meter.peak()
        first.stdin.write("\n")
        first.stdin.flush()
    for child in children:
        child.wait(60)
    size = sum(file.stat().st_size for file in (folder / dtype).rglob("*.safetensors"))
    above = held["trained"] - held["idle"]
    return {
        "checkpoint_mb": round(size / 1e6),
        "idle_mb": round(held["idle"] / 1e6),
        "loading_peak_over_checkpoint": round((peaks["loaded"] - held["idle"]) / size, 3),
        "loaded_over_checkpoint": round((held["loaded"] - held["idle"]) / size, 3),
        "training_over_checkpoint": round(above / size, 3),
        "checkpoint_adds": round((peaks["checkpoint"] - held["trained"]) / above, 3),
        "model_adds": round((peaks["model"] - held["trained"]) / above, 3),
        "samples": meter.samples if meter else 0,
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

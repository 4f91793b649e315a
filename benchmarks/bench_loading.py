"""Host memory and seconds to load a random checkpoint of more than 500 MB, in both layouts.

Each load happens in a fresh process; memory is the growth over what the imports take. Loading in
the stored type may take 1.15 x the checkpoint's bytes at its peak; a wider type needs its own size.

Run: python benchmarks/bench_loading.py
Writes: benchmarks/results/loading.json
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import describe
from memory import peak, reset_peak, resident
from random_pipeline import load, make_pipeline
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
LIMIT = 1.15
RESULTS = Path(__file__).parent / "results/loading.json"


def load_once(folder: str, precision: str) -> dict[str, float]:
    """Load, and touch every weight, so that nothing is left in files that are only mapped."""
    before = resident()
    reset_peak()
    start = time.perf_counter()
    pipe = load(folder, precision)
    seconds = time.perf_counter() - start
    for part in (pipe.model, pipe.vae):
        for parameter in part.parameters():
            if not is_traceable_wrapper_subclass(parameter):  # quantised ones are new memory
                parameter.sum()
    size = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
    return {
        "checkpoint_mb": round(size / 1e6),
        "peak_over_checkpoint": round((peak() - before) / size, 3),
        "kept_over_checkpoint": round((resident() - before) / size, 3),
        "seconds": round(seconds, 2),
    }


def in_a_fresh_process(folder: Path, precision: str) -> dict[str, float]:
    """The same, after nothing but the imports."""
    command = [sys.executable, __file__, str(folder), precision]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure all combinations; fail when a load in the stored type takes too much."""
    results: dict[str, Any] = {"machine": describe(), "limit": LIMIT}
    with tempfile.TemporaryDirectory() as name:
        for stored in (torch.bfloat16, torch.float32):
            pipe = make_pipeline(**SIZES, max_latent_size=16, vit_max_num_patch_per_side=16)
            pipe.model.to(stored)
            for layout in ("echo4o", "bagel"):
                folder = Path(name) / f"{layout}-{stored}"
                pipe.save_pretrained(folder, layout=layout)
                for precision in ("stored", "bf16", "int8"):
                    key = f"{str(stored).removeprefix('torch.')} {layout} as {precision}"
                    results[key] = in_a_fresh_process(folder, precision)
                    print(key, results[key], flush=True)
    worst = max(
        facts["peak_over_checkpoint"]
        for facts in results.values()
        if isinstance(facts, dict) and "peak_over_checkpoint" in facts
    )
    results["worst_peak_over_checkpoint"] = worst
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    if worst > LIMIT:
        sys.exit(f"a load took {worst} x the checkpoint's bytes, the limit is {LIMIT}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(load_once(sys.argv[1], sys.argv[2])))
    else:
        main()

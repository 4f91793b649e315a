"""Milliseconds that the sandbox's judge needs for one picture (limit: 40), and how often it errs.

Run: python benchmarks/bench_sandbox_eye.py
"""

import json
import platform
import random
import statistics
import time
from pathlib import Path

import numpy as np
from PIL import Image

from echo4o.sandbox.world import check, paint, see
from echo4o.sandbox.world.scenes import random_scene


def milliseconds(pictures: list[Image.Image]) -> dict[str, float]:
    """Median and maximum over pictures that are in memory."""
    times = []
    for picture in pictures:
        clock = time.perf_counter()
        see(picture)
        times.append(1000 * (time.perf_counter() - clock))
    return {"median_ms": round(statistics.median(times), 2), "max_ms": round(max(times), 2)}


def main() -> None:
    """Measure scenes of three sizes and pure noise; write benchmarks/results/sandbox_eye.json."""
    results: dict[str, object] = {"machine": platform.processor() or platform.machine()}
    for size, count in ((64, 2000), (256, 200), (1024, 40)):
        scenes = [random_scene(random.Random(f"bench|{i}")) for i in range(count)]
        pictures = [
            paint(text, width=size, height=size, seed=i) for i, (text, _) in enumerate(scenes)
        ]
        wrong = sum(
            not all(finding.ok for finding in check(see(picture), include))
            for picture, (_, include) in zip(pictures, scenes, strict=True)
        )
        results[f"scenes_{size}px"] = {
            **milliseconds(pictures), "pictures": count, "misread": wrong
        }  # fmt: skip
    noise = np.random.default_rng(0).integers(0, 256, (40, 1024, 1024, 3), dtype=np.uint8)
    results["noise_1024px"] = milliseconds([Image.fromarray(one) for one in noise])
    text = json.dumps(results, indent=1)
    print(text)
    (Path(__file__).parent / "results/sandbox_eye.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

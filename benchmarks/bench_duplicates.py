"""Near-duplicates: seconds to search a whole release, recall and precision on planted pairs.

Scenes of the sandbox's painter. Planted copies are re-encoded, cropped or resized; decoys differ in
one fact that their row states. No two scenes of that part have equal facts; what happens to scenes
with equal facts that were painted anew is counted apart.

Run: python benchmarks/bench_duplicates.py [--rows 180000] [--pairs 1000]
"""

import argparse
import io
import json
import os
import platform
import random
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from echo4o.dataset_builder.duplicates import find_duplicates, group_of
from echo4o.dataset_builder.perceptual import (
    CHANNELS,
    VIEW_BYTES,
    VIEWS,
    Words,
    hash_batch,
    thumbnail,
    to_bytes,
    view_hashes,
)
from echo4o.sandbox import world
from echo4o.sandbox.world.scenes import random_scene

SUBSET = "instruction_following"
_BATCH = 2_000
_LARGE, _SMALL = 256, 64
Scene = tuple[str, list[dict[str, Any]]]


def scene(number: int) -> Scene:
    """An instruction and its facts."""
    return random_scene(random.Random(f"duplicates|{number}"))


def group(made: Scene) -> str:
    """What rows must share to be compared."""
    return group_of(SUBSET, made[0], {"include": made[1]})


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, form, **options)
    return buffer.getvalue()


def recoded(image: Image.Image, draw: random.Random) -> bytes:
    """As JPEG or WebP of middling quality."""
    return encode(image, draw.choice(("JPEG", "WEBP")), quality=draw.choice((50, 70, 90)))


def cropped(image: Image.Image, draw: random.Random) -> bytes:
    """Up to 5 % less on each side."""
    cut = [draw.uniform(0.0, 0.05) for _ in range(4)]
    wide, high = image.size
    box = (cut[0] * wide, cut[1] * high, (1 - cut[2]) * wide, (1 - cut[3]) * high)
    return encode(image.crop(tuple(map(round, box))))


def resized(image: Image.Image, draw: random.Random) -> bytes:
    """Half to one and a half times as large."""
    factor = draw.uniform(0.5, 1.5)
    size = (round(image.width * factor), round(image.height * factor))
    return encode(image.resize(size, Image.Resampling.LANCZOS))


COPIES: dict[str, Callable[[Image.Image, random.Random], bytes]] = {
    "re-encoded": recoded,
    "cropped": cropped,
    "resized": resized,
}


def planted(number: int) -> list[tuple[str, str, bytes]]:
    """(id, group, picture) of an original, its copies, and a decoy with one fact changed."""
    draw = random.Random(f"planted|{number}")
    made = scene(number)
    image = world.paint(made[0], width=_LARGE, height=_LARGE, seed=number)
    rows = [(f"{number}/original", group(made), encode(image))]
    rows += [(f"{number}/{name}", group(made), copy(image, draw)) for name, copy in COPIES.items()]
    wrong = world.paint(made[0], width=_LARGE, height=_LARGE, seed=number, misalign=True)
    first, seen = made[1][0], world.see(wrong)
    alike = [one for one in seen if one.shape == first["class"]]
    facts = {"count": len(alike)} | ({"color": alike[0].colour} if "color" in first else {})
    changed = [{**first, **facts}, *made[1][1:]]
    if changed != made[1]:  # else a colour differs that no row speaks of
        rows.append((f"{number}/decoy", group((made[0], changed)), encode(wrong)))
    return rows


def batches(rows: list[tuple[str, str, bytes]]) -> Iterator[pa.RecordBatch]:
    """What the search reads."""
    for start in range(0, len(rows), _BATCH):
        ids, groups, pictures = zip(*rows[start : start + _BATCH], strict=True)
        hashed = hash_batch(
            pa.RecordBatch.from_arrays([pa.array(ids), pa.array(pictures)], ["id", "picture"])
        )
        yield pa.RecordBatch.from_arrays(
            [hashed.column("id"), pa.array(groups), hashed.column("views")],
            ["id", "group", "views"],
        )


def quality(pairs: int, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """Recall and precision of what is marked."""
    rows: list[tuple[str, str, bytes]] = []
    used: set[str] = set()
    for part in pool.map(planted, range(2 * pairs), chunksize=16):
        groups = {name for _, name, _ in part}
        if not groups & used and len(part) == len(COPIES) + 2 and len(used) < 2 * pairs:
            used |= groups
            rows += part
    random.Random(0).shuffle(rows)
    marks = find_duplicates(batches(rows))
    found = dict(zip(marks["id"].to_pylist(), marks["duplicate_of"].to_pylist(), strict=True))
    wanted, hits, wrong = Counter[str](), Counter[str](), Counter[str]()
    seen: set[str] = set()
    for name, _, _ in rows:
        number, kind = name.split("/")
        is_copy = kind != "decoy" and number in seen
        if kind != "decoy":
            seen.add(number)
            wanted[kind] += is_copy
        if name in found:
            is_right = is_copy and found[name].split("/")[0] == number
            (hits if is_right and "decoy" not in found[name] else wrong)[kind] += 1
    return {
        "scenes": len(seen),
        "planted": wanted.total(),
        "decoys": sum(name.endswith("decoy") for name, _, _ in rows),
        "recall": round(hits.total() / wanted.total(), 4),
        "recall_by_kind": {kind: round(hits[kind] / n, 4) for kind, n in sorted(wanted.items())},
        "precision": round(hits.total() / (hits.total() + wrong.total()), 4),
        "marked_wrongly": dict(wrong),
        "hash_alone": blind(rows),
    }


def blind(rows: list[tuple[str, str, bytes]]) -> dict[str, float]:
    """What the hash would do without looking at facts."""
    same = [(name, "", picture) for name, _, picture in rows]
    marks = find_duplicates(batches(same))
    ids, targets = marks["id"].to_pylist(), marks["duplicate_of"].to_pylist()
    right = sum(
        "decoy" not in one + other and one.split("/")[0] == other.split("/")[0]
        for one, other in zip(ids, targets, strict=True)
    )
    return {"precision": round(right / max(1, len(ids)), 4)}


def painted_anew(number: int) -> tuple[bool, bool]:
    """Whether a second painting of a scene looks the same to the eye, and whether it is marked."""
    made = scene(number)
    images = [world.paint(made[0], width=_LARGE, height=_LARGE, seed=seed) for seed in (1, 2)]
    seen = [world.see(image) for image in images]
    is_same = len(seen[0]) == len(seen[1]) and all(
        (one.shape, one.colour) == (other.shape, other.colour)
        and abs(one.x - other.x) + abs(one.y - other.y) < 0.05
        for one, other in zip(*seen, strict=True)
    )
    rows = [(str(index), group(made), encode(image)) for index, image in enumerate(images)]
    return is_same, find_duplicates(batches(rows)).num_rows == 1


def anew(count: int, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """Shares marked among second paintings."""
    pairs = Counter(pool.map(painted_anew, range(count), chunksize=16))
    shares = {}
    for name, is_same in (("same_layout", True), ("other_layout_or_colours", False)):
        total = pairs[is_same, True] + pairs[is_same, False]
        shares[name] = {"pairs": total, "marked": round(pairs[is_same, True] / max(1, total), 3)}
    return shares


def hashed(numbers: list[int]) -> Words:
    """Hashes of small paintings, without encoding them in between."""
    small = [
        thumbnail(world.paint(scene(number)[0], width=_SMALL, height=_SMALL, seed=number))
        for number in numbers
    ]
    return view_hashes(np.stack(small))


def release(count: int, pool: ProcessPoolExecutor) -> list[pa.RecordBatch]:
    """Rows as large as a release, with groups as they come by chance.

    The first four rows of a group are painted, more repeat them with a bit of each word off;
    a row that is alone in its group is compared with nothing and gets hashes of chance.
    """
    draw = np.random.default_rng(0)
    numbers = list(range(count))
    groups = list(pool.map(group_of_number, numbers, chunksize=1_000))
    members: dict[str, list[int]] = {}
    for number, name in enumerate(groups):
        members.setdefault(name, []).append(number)
    several = [one for one in members.values() if len(one) > 1]
    wanted = [number for one in several for number in one[:4]]
    views = draw.integers(0, 2**63, (count, VIEWS, CHANNELS)).astype(np.uint64)
    parts = [wanted[start : start + 500] for start in range(0, len(wanted), 500)]
    for part, found in zip(parts, pool.map(hashed, parts), strict=True):
        views[part] = found
    for one in several:
        for place, number in enumerate(one[4:]):
            turned = np.uint64(1) << draw.integers(0, 60, (VIEWS, CHANNELS)).astype(np.uint64)
            views[number] = views[one[place % 4]] ^ turned
    return [
        pa.RecordBatch.from_arrays(
            [
                pa.array(map(str, numbers[start : start + _BATCH])),
                pa.array(groups[start : start + _BATCH]),
                pa.array([to_bytes(one) for one in views[start : start + _BATCH]]),
            ],
            ["id", "group", "views"],
        )
        for start in range(0, count, _BATCH)
    ]


def group_of_number(number: int) -> str:
    """Group of a scene."""
    return group(scene(number))


def speed(count: int, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """Seconds of hashing and of the search."""
    clock = time.perf_counter()
    made = release(count, pool)
    painting = time.perf_counter() - clock
    sizes = Counter(name for batch in made for name in batch.column("group").to_pylist())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock, processor = time.perf_counter(), time.process_time()
    marks = find_duplicates(made)
    seconds, used = time.perf_counter() - clock, time.process_time() - processor
    return {
        "rows": count,
        "search_seconds": round(seconds, 2),
        "search_processor_seconds": round(used, 2),
        "search_memory_mb": round(
            (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        ),
        "groups": len(sizes),
        "largest_group": max(sizes.values()),
        "pairs_compared": sum(size * (size - 1) // 2 for size in sizes.values()),
        "marked": marks.num_rows,
        "view_bytes": VIEW_BYTES,
        "paint_and_hash_seconds": round(painting, 1),
    }


def main() -> None:
    """Measure; print and write benchmarks/results/duplicates.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=180_000)
    parser.add_argument("--pairs", type=int, default=1_000)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with ProcessPoolExecutor() as pool:
        result = {
            **quality(args.pairs, pool),
            "equal_facts_painted_anew": anew(args.pairs // 2, pool),
            "speed": speed(args.rows, pool),
            "machine": platform.processor() or platform.machine(),
            "load_at_start": round(load, 1),
        }
    text = json.dumps(result, indent=1)
    print(text)
    (Path(__file__).parent / "results/duplicates.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

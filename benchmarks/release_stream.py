"""The authors' release at any size, painted while it is read: no archive ever lies on a disk.

Archives have the names, sizes and members that the release is known to have; each is a gzip of a
tar whose pieces were compressed before, so that making it costs little beside reading it. Pictures
are noisy JPEGs of about 64 KB; names differ, contents repeat.
"""

import gzip
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from echo4o.dataset_builder.sources import Readable, Source
from echo4o.records import Input
from echo4o.schema import CATEGORIES

PER_ARCHIVE = 5_000
PAINTED = 48
POOL = 3_000
"""Different references of each of the three classes at full size."""
_STEMS = {
    "human_human": ("hum_hum", ("human", "human")),
    "object_object": ("obj_obj", ("object", "object")),
    "any_two_entities": ("hum_obj", ("human", "object")),
    "human_object_scene": ("hum_obj_sce", ("human", "object", "sence")),
    "others": ("others", ("human", "object", "object", "sence")),
}
_PIPE = Path(__file__).parent / "archive_pipe.py"
_INSTRUCTION, _SURREAL = "Instruction-Following-Image", "Surrel-Fantasy-Image"
_COLLECTION = "Multi-Reference-Image"


def paint(seed: int, size: int) -> bytes:
    """A JPEG of at most about `size` bytes: coarse noise, with fine noise that fills it up."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 255, (9, 9, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((288, 288), Image.Resampling.BICUBIC)
    fine = np.asarray(image, dtype=np.int16) + draw.integers(-40, 40, (288, 288, 3))
    picture = Image.fromarray(fine.clip(0, 255).astype(np.uint8))
    best = b""
    for quality in range(40, 100):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        if len(buffer.getvalue()) > size:
            break
        best = buffer.getvalue()
    return best


def paint_pieces(folder: Path, size: int) -> None:
    """The pictures as archive_pipe.py wants them."""
    for number in range(PAINTED):
        picture = paint(number, size)
        body = gzip.compress(picture + bytes(-len(picture) % 512), 6)
        (folder / f"{len(picture)}-{number}").write_bytes(body)


class PaintedRelease(Source):
    """A release with `rows` rows in the authors' proportions; archives come from a child."""

    def __init__(self, rows: int, pieces: Path) -> None:
        """`pieces` was filled by `paint_pieces`."""
        self._pieces = pieces
        self._texts: dict[str, str] = {}
        self._archives: dict[str, list[str]] = {}
        total = sum(sum(counts.values()) for counts in CATEGORIES.values())
        self._share = rows / total
        for subset, folder, stem in (
            ("instruction_following", _INSTRUCTION, _INSTRUCTION),
            ("surreal_fantasy", _SURREAL, "conflict"),
        ):
            self._add_plain(subset, folder, stem)
        self._add_collections()
        facts = Input(kind="folder", id="painted-release")
        super().__init__(facts, [*self._texts, *self._archives])
        self.rows = sum(text.count("\n") for text in self._texts.values())

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """A record file from memory, an archive from a process that writes it to a pipe."""
        if name in self._texts:
            yield io.BytesIO(self._texts[name].encode())
            return
        command = [sys.executable, str(_PIPE), str(self._pieces)]
        with tempfile.TemporaryFile() as names:
            names.write(json.dumps(self._archives[name]).encode())
            names.seek(0)
            pipes = {"stdin": names, "stdout": subprocess.PIPE}
            with subprocess.Popen(command, bufsize=0, **pipes) as child:
                assert child.stdout is not None
                yield child.stdout

    def _scaled(self, count: int) -> int:
        return max(1, round(count * self._share))

    def _add_plain(self, subset: str, folder: str, stem: str) -> None:
        rows: list[str] = []
        for category, count in CATEGORIES[subset].items():
            for _ in range(self._scaled(count)):
                row = {
                    "task_type": "t2i",
                    "instruction": f"A photo of scene {len(rows)} with a {category} thing in it.",
                    "output_image": f"/Echo-4o-Image/{folder}/images/{len(rows):05d}.jpg",
                    "type": category if subset == "instruction_following" else "T1",
                }
                rows.append(json.dumps(row))
        self._texts[f"{folder}/{stem}.jsonl"] = "\n".join(rows) + "\n"
        for start in range(0, len(rows), PER_ARCHIVE):
            stop = min(start + PER_ARCHIVE, len(rows))
            names = [f"images/{number:05d}.jpg" for number in range(start, stop)]
            self._archives[f"{folder}/images/{start}-{start + PER_ARCHIVE}.tar.gz"] = names

    def _add_collections(self) -> None:
        base, pool = f"/Echo-4o-Image/{_COLLECTION}", self._scaled(POOL)
        for kind in ("human", "object", "sence"):
            place = f"{_COLLECTION}/multi_refer_images_input/{kind}/{kind}.tar.gz"
            self._archives[place] = [f"{number:05d}.jpg" for number in range(pool)]
        for category, (stem, kinds) in _STEMS.items():
            lines = []
            for number in range(self._scaled(CATEGORIES["multi_reference"][category])):
                inputs = [
                    f"{base}/multi_refer_images_input/{kind}/{(number * 7 + place) % pool:05d}.jpg"
                    for place, kind in enumerate(kinds)
                ]
                row = {
                    "task_type": "ic",
                    "instruction": f"Combine what the {len(kinds)} pictures show, number {number}.",
                    "input_images": inputs,
                    "output_image": f"{base}/multi_refer_images_output/{stem}/{number:05d}.jpg",
                }
                lines.append(json.dumps(row) + "\n")
            self._texts[f"{_COLLECTION}/multi-ic/{stem}.jsonl"] = "".join(lines)
            place = f"{_COLLECTION}/multi_refer_images_output/{stem}/{stem}.tar.gz"
            self._archives[place] = [f"{number:05d}.jpg" for number in range(len(lines))]

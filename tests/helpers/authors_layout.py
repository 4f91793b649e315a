"""Writes small releases in the authors' layout, sound or damaged, for the import's tests."""

import io
import json
import tarfile
from pathlib import Path

from PIL import Image

INSTRUCTION = "Instruction-Following-Image"
SURREAL = "Surrel-Fantasy-Image"
REFERENCES = "Multi-Reference-Image"


def picture(number: int, *, size: tuple[int, int] = (24, 16), kind: str = "JPEG") -> bytes:
    """A picture that differs for every number below 4096."""
    colour = (number % 16 * 16, number // 16 % 16 * 16, number // 256 % 16 * 16)
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def bomb(side: int = 40_000) -> bytes:
    """A PNG whose header claims `side` x `side` pixels."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def write_tar(path: Path, members: list[tuple[str, bytes] | tarfile.TarInfo]) -> Path:
    """A tar (compressed by its name) with the members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def row(subset: str, number: int, **changes: object) -> dict[str, object]:
    """A record as the authors write it."""
    return {
        "task_type": "t2i",
        "instruction": f"A photo of scene {number} of {subset}.",
        "output_image": f"/Echo-4o-Image/{subset}/images/{number:05d}.jpg",
        "type": "easy" if subset == INSTRUCTION else "T1",
    } | changes


def collection(number: int, references: list[int], stem: str = "hum_obj") -> dict[str, object]:
    """A multi-reference record; references come from the class `object`."""
    root = f"/Echo-4o-Image/{REFERENCES}"
    return {
        "task_type": "ic",
        "instruction": f"Combine {references} as {number}.",
        "input_images": [
            f"{root}/multi_refer_images_input/object/{one:05d}.jpg" for one in references
        ],
        "output_image": f"{root}/multi_refer_images_output/{stem}/{number:05d}.jpg",
    }


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


def write_t2i(root: Path, subset: str = INSTRUCTION, rows: int = 3) -> Path:
    """A subset with `rows` rows and one archive; returns the subset's folder."""
    folder = root / subset
    write_rows(folder / f"{subset}.jsonl", [row(subset, number) for number in range(rows)])
    members = [(f"./{number:05d}.jpg", picture(number)) for number in range(rows)]
    write_tar(folder / "images" / "0-5000.tar.gz", members)
    return folder


def write_collection(root: Path, rows: list[list[int]], pool: int, stem: str = "hum_obj") -> Path:
    """The multi-reference subset: row n uses the references rows[n] of a pool."""
    folder = root / REFERENCES
    records = [collection(number, used, stem) for number, used in enumerate(rows)]
    write_rows(folder / "multi-ic" / f"{stem}.jsonl", records)
    inputs = [(f"{number:05d}.jpg", picture(1000 + number)) for number in range(pool)]
    write_tar(folder / "multi_refer_images_input" / "object" / "object.tar.gz", inputs)
    outputs = [(f"{number:05d}.jpg", picture(2000 + number)) for number in range(len(rows))]
    write_tar(folder / "multi_refer_images_output" / stem / f"{stem}.tar.gz", outputs)
    return folder


def write_nano(root: Path, rows: int = 4, portraits: int = 2) -> None:
    """Nano-consistent-150k: one archive with portraits and results, a record file per task."""
    people = [f"Nano-150k/Image/orignal/people/Face_{n}.jpg" for n in range(portraits)]
    made = [f"Nano-150k/Image/output/action/Wave_{n % 2}/Face_{n}.jpg" for n in range(rows)]
    records = [
        {
            "task_type": "ic",
            "instruction": f"Let the person of the picture wave, number {n}.",
            "input_images": [people[n % portraits]],
            "output_image": made[n],
            "general_prompt": "The actions after being edited are: waving",
        }
        for n in range(rows)
    ]
    write_rows(root / "json" / "action.jsonl", [*records, {"task_type": "ic"}])
    write_rows(root / "json" / "action_cleaned.jsonl", records)
    outputs = [(name, picture(100 + n)) for n, name in enumerate(made)]
    # Results before portraits: nobody promised an order.
    inputs = [(name, picture(n)) for n, name in enumerate(people)]
    extra = [("Nano-150k/Image/output/action/Wave_0/surplus.jpg", picture(999))]
    write_tar(root / "Nano-150k.tar.gz", [*outputs, *inputs, *extra])


def noise(number: int) -> bytes:
    """A PNG of some 50 KB that does not compress."""
    import random

    data = random.Random(number).randbytes(130 * 130 * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (130, 130), data).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()

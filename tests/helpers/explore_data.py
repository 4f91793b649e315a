"""A small dataset with everything hostile in it, and benchmark runs, for the explorer's tests."""

import io
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from eval_tools import KIT, paint_into, verdict, write_run
from PIL import Image

from echo4o.dataset_builder.shards import column_options
from echo4o.schema import Picture, Row, features

MARKUP = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
COLOURS = ("red", "green", "blue", "yellow")
BROKEN, BOMB, WIDE = "hostile-broken", "hostile-bomb", "hostile-wide"


def picture(colour: str, size: tuple[int, int] = (64, 48), kind: str = "PNG") -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


@lru_cache
def bomb() -> bytes:
    """A PNG file of 36 megapixels that takes little space."""
    file = io.BytesIO()
    Image.new("1", (6000, 6000)).save(file, "PNG", compress_level=zlib.Z_BEST_COMPRESSION)
    return file.getvalue()


def rows() -> Iterator[dict[str, object]]:
    """30 plain rows, 6 with references, 4 hostile ones, as the Parquet columns have them."""
    for number in range(30):
        level = ("easy", "medium", "hard")[number % 3]
        colour = COLOURS[number % 4]
        yield plain(
            f"plain-{number:05d}",
            f"A photo of {number} {colour} cubes, and a naïve vase.",
            picture(colour),
            category=level,
            constraints={"include": [{"class": "cube", "color": colour, "count": number + 1}]},
            requested_instruction="What was asked first." if number == 7 else None,
        )
    for number in range(6):
        count = 1 + number % 4
        yield Row(
            id=f"many-{number:05d}",
            task_type="ic",
            subset="multi_reference",
            category="object_object",
            instruction=f"Put {count} things together, number {number}.",
            input_images=tuple(Picture(data=picture(c), name="x.png") for c in COLOURS[:count]),
            output_image=Picture(data=picture("white", (200, 200), "JPEG"), name="y.jpg"),
            width=200,
            height=200,
            generator="model-x",
            license="mit",
            references=tuple(
                {"source": f"pool/{c}.png", "licence": "cc0"} for c in COLOURS[:count]
            ),
            provenance={"request_id": f"req_{number}", "parameters": {"quality": "high"}},
        ).to_dict()
    yield plain("hostile-markup", MARKUP, picture("black")) | {
        "category": '"><script>x</script>',
        "constraints": MARKUP,
        "provenance": '{"a": "<script>x</script>", "b": [[[[[{}]]]]]}',
        "generator": "${alert(1)} {{constructor}}",
        "references": "[1, null]",
    }
    yield plain(BROKEN, "A picture whose bytes are cut off.", picture("red")[:40])
    yield plain(BOMB, "A picture of 36 megapixels.", bomb())
    yield plain(WIDE, "word " * 1500, picture("red", (3000, 2)))


def plain(row_id: str, text: str, data: bytes, **more: object) -> dict[str, object]:
    """A row without references."""
    return Row(
        id=row_id,
        task_type="t2i",
        subset="instruction_following",
        instruction=text,
        output_image=Picture(data=data, name="z.png"),
        width=64,
        height=48,
        **more,  # type: ignore[arg-type]
    ).to_dict()


def write_dataset(folder: Path) -> Path:
    """Two shards of small row groups, as a release has them, and a preview that repeats rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = features().arrow_schema
    parts = {"instruction_following": [], "multi_reference": [], "preview": []}
    for row in rows():
        parts[str(row["subset"])].append(row)
        parts["preview"] += [row] if not parts["preview"] else []
    for name, part in parts.items():
        path = folder / "data" / name / "train-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        with pq.ParquetWriter(
            path, schema, write_page_index=True, **column_options(schema)
        ) as writer:
            writer.write_table(pa.Table.from_pylist(part, schema), row_group_size=7)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# test\n")
    return folder


def write_runs(folder: Path) -> Path:
    """Two runs of the kit's items: 24 verdicts each, one refused, and texts with markup."""
    items = KIT.items[:24]
    for name, right in (("good", 20), ("bad", 4)):
        pictures = paint_into(folder / name / "pictures" / f"{name}-model", items)
        verdicts = [verdict(item, place < right) for place, item in enumerate(items[:-1])]
        verdicts.append(verdict(items[-1], None, raw_reply=MARKUP, reason=MARKUP))
        write_run(folder / name, verdicts, pictures)
    return folder

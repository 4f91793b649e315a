"""The forms in which three trainers read rows.

- `omnigen2`: JSON lines with picture files beside them, and a data configuration.
- `blip3o`: webdataset tars of picture and text; rows with references cannot be used there.
- `bagel`: Parquet with `image_list` and `instruction_list` (rows with references) or with `image`
  and `captions`, and the row-group information that its loader asks for.

Picture bytes stay as they are; a row group is held in memory, nothing more.
"""

import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from echo4o.pictures import picture_facts
from echo4o.records import JsonValue, write_atomic
from echo4o.schema import Row

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS_PER_GROUP = 10
"""BAGEL's loader shuffles and splits by row group, so groups are small."""
GROUPS_PER_FILE = 10
ROWS_PER_TAR = 1_000


class Exporter(ABC):
    """Takes rows one at a time into a folder of its own."""

    def __init__(self, folder: Path, seen_as: str) -> None:
        """`seen_as` is the folder's path on the machine that trains."""
        self.folder = folder
        self.seen_as = seen_as.rstrip("/")

    def unusable(self, row: Row) -> str | None:
        """Why the trainer cannot use a row, None when it can."""
        return None

    @abstractmethod
    def add(self, row: Row) -> None:
        """Write one row."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is left and what describes the whole."""

    @abstractmethod
    def close(self) -> None:
        """Release open files, also after an error."""


class Omnigen2(Exporter):
    """`<subset>.jsonl` with the authors' four keys, pictures under images/, and data.yml."""

    def __init__(self, folder: Path, seen_as: str) -> None:
        super().__init__(folder, seen_as)
        self._files: dict[str, io.TextIOWrapper] = {}
        self._types: dict[str, str] = {}

    def add(self, row: Row) -> None:
        """Write the row's pictures and its line."""
        references = [
            self._picture(row, f"input_{number}", one.data)
            for number, one in enumerate(row.input_images)
        ]
        line: dict[str, JsonValue] = {"task_type": row.task_type, "instruction": row.instruction}
        if references:
            line["input_images"] = [*references]
        line["output_image"] = self._picture(row, "output", row.output_image.data)
        if row.subset not in self._files:
            path = self.folder / f"{row.subset}.jsonl"
            self._files[row.subset] = path.open("w", encoding="utf-8")
            self._types[row.subset] = row.task_type
        self._files[row.subset].write(json.dumps(line) + "\n")

    def finish(self) -> None:
        """Write data.yml, which lists the files."""
        self.close()
        entries = [
            # A JSON string is a YAML string, whatever is in it.
            f"  - path: {json.dumps(f'{self.seen_as}/{subset}.jsonl')}\n"
            f"    type: {self._types[subset]}\n"
            "    ratio: 1.0\n"
            for subset in sorted(self._files)
        ]
        write_atomic(self.folder / "data.yml", f"data:\n{''.join(entries)}")

    def close(self) -> None:
        """Close the JSON lines."""
        for file in self._files.values():
            file.close()

    def _picture(self, row: Row, role: str, data: bytes) -> str:
        name = f"images/{row.subset}/{row.id}.{role}.{picture_facts(data).extension}"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return f"{self.seen_as}/{name}"


class Blip3o(Exporter):
    """`<subset>-000000.tar` with `<key>.jpg` and `<key>.txt` side by side.

    The loader asks for the key `jpg`; decoders look at the bytes, whatever they are.
    """

    def __init__(self, folder: Path, seen_as: str) -> None:
        super().__init__(folder, seen_as)
        self._tars: dict[str, tarfile.TarFile] = {}
        self._counts: Counter[str] = Counter()

    def unusable(self, row: Row) -> str | None:
        """Rows with references."""
        return "it has references, and BLIP3-o trains on text alone" if row.input_images else None

    def add(self, row: Row) -> None:
        """Append picture and text to the subset's tar."""
        archive = self._archive(row.subset)
        # A dot would end the key of a webdataset sample.
        key = f"{self._counts[row.subset]:09d}_{row.id.replace('.', '-')}"
        _add_member(archive, f"{key}.jpg", row.output_image.data)
        _add_member(archive, f"{key}.txt", row.instruction.encode())
        self._counts[row.subset] += 1

    def finish(self) -> None:
        """Write the ends of the tars."""
        self.close()

    def close(self) -> None:
        """Close the tars."""
        for archive in self._tars.values():
            archive.close()

    def _archive(self, subset: str) -> tarfile.TarFile:
        number, position = divmod(self._counts[subset], ROWS_PER_TAR)
        if position == 0:
            if subset in self._tars:
                self._tars[subset].close()
            path = self.folder / f"{subset}-{number:06d}.tar"
            archive = tarfile.open(path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 (close)
            self._tars[subset] = archive
        return self._tars[subset]


class Bagel(Exporter):
    """`multi_ref/` and `t2i/` with Parquet, and `dataset_info.json` with what its loader asks."""

    def __init__(self, folder: Path, seen_as: str) -> None:
        super().__init__(folder, seen_as)
        self._writers: dict[str, _GroupWriter] = {}

    def add(self, row: Row) -> None:
        """Append the row to the Parquet files of its subset."""
        kind = "multi_ref" if row.input_images else "t2i"
        name = f"{kind}/{row.subset}"
        if name not in self._writers:
            self._writers[name] = _GroupWriter(self.folder / name, _bagel_schema(kind))
        pictures = [one.data for one in (*row.input_images, row.output_image)]
        # The loader reads the one string of `instruction_list[0]`, and a JSON object of captions.
        self._writers[name].add(
            {"image_list": pictures, "instruction_list": [[row.instruction]]}
            if kind == "multi_ref"
            else {"image": pictures[0], "captions": json.dumps({"caption": row.instruction})}
        )

    def finish(self) -> None:
        """Write the row-group information and dataset_info.json."""
        described: dict[str, JsonValue] = {}
        for name, writer in sorted(self._writers.items()):
            writer.close()
            info: dict[str, JsonValue] = {
                f"{self.seen_as}/{name}/{file}": {"num_row_groups": groups, "num_rows": rows}
                for file, (groups, rows) in writer.files.items()
            }
            path = self.folder / "parquet_info" / f"{name.replace('/', '_')}.json"
            write_atomic(path, json.dumps(info, indent=1) + "\n")
            described[name] = {
                "data_dir": f"{self.seen_as}/{name}",
                "num_files": len(writer.files),
                "num_total_samples": sum(rows for _, rows in writer.files.values()),
                "parquet_info_path": f"{self.seen_as}/parquet_info/{path.name}",
            }
        write_atomic(self.folder / "dataset_info.json", json.dumps(described, indent=1) + "\n")

    def close(self) -> None:
        """Close the Parquet files."""
        for writer in self._writers.values():
            writer.close()


class _GroupWriter:
    """Parquet files of so many row groups of so many rows."""

    def __init__(self, folder: Path, schema: "pa.Schema") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.files: dict[str, tuple[int, int]] = {}
        """File name -> row groups and rows."""
        self._folder = folder
        self._schema = schema
        self._group: list[dict[str, object]] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, object]) -> None:
        """Append one row."""
        self._group.append(row)
        if len(self._group) == ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left; calling it twice is harmless."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        if not self._group:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._writer is None:
            name = f"{len(self.files):05d}.parquet"
            self.files[name] = (0, 0)
            self._writer = pq.ParquetWriter(
                self._folder / name, self._schema, compression="none", use_dictionary=False
            )
        self._writer.write_table(pa.Table.from_pylist(self._group, schema=self._schema))
        name = next(reversed(self.files))
        groups, rows = self.files[name]
        self.files[name] = (groups + 1, rows + len(self._group))
        self._group = []
        if groups + 1 == GROUPS_PER_FILE:
            self._writer.close()
            self._writer = None


def _bagel_schema(kind: str) -> "pa.Schema":
    import pyarrow as pa

    if kind == "t2i":
        return pa.schema({"image": pa.binary(), "captions": pa.string()})
    lists = {"image_list": pa.list_(pa.binary())}
    return pa.schema({**lists, "instruction_list": pa.list_(pa.list_(pa.string()))})


def _add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o644
    archive.addfile(member, io.BytesIO(data))


FORMATS: dict[str, type[Exporter]] = {"omnigen2": Omnigen2, "blip3o": Blip3o, "bagel": Bagel}

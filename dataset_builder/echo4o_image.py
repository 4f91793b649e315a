"""`Echo4oImage`: a `datasets` builder over the authors' layout or a generated plan's folder.

Loading scripts are gone from `datasets`, so this is an ordinary class:
`Echo4oImage(config_name="multi_reference", data_dir=FOLDER).as_streaming_dataset("train")`.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import datasets
import pyarrow as pa

from echo4o.errors import Echo4oError
from echo4o.ledger import Ledger
from echo4o.records import Input
from echo4o.schema import CONFIGS, SUBSETS, Row, features

from .build import Harvest
from .generate import LEDGER_NAME
from .importing import Release, locate
from .layout import Key, find_subsets
from .plan import PLAN_NAME
from .pool import PicturePool
from .shards import MAX_GROUP_BYTES, MAX_GROUP_ROWS

_NAMES = tuple(name for name in CONFIGS if name != "preview")


class Echo4oImage(datasets.ArrowBasedBuilder):
    """Rows of one subset or of all; `data_dir` is a folder or the Hub id of the release."""

    BUILDER_CONFIGS = [datasets.BuilderConfig(name=name) for name in _NAMES]
    DEFAULT_CONFIG_NAME = "all"

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=features())

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        if self.config.data_dir is None:
            raise Echo4oError("Echo4oImage needs data_dir: a folder, or the Hub id of the release")
        folder, origin = locate(self.config.data_dir)
        wanted = SUBSETS if self.config.name == "all" else (self.config.name,)
        if not (folder / PLAN_NAME).is_file():
            present = find_subsets(folder)
            wanted = tuple(subset for subset in wanted if subset in present)
        # A list is what `datasets` spreads over processes and workers.
        arguments = {"folder": str(folder), "origin": origin.id, "subsets": list(wanted)}
        arguments["revision"] = origin.revision or ""
        return [datasets.SplitGenerator(datasets.Split.TRAIN, gen_kwargs=arguments)]

    def _generate_tables(
        self, folder: str, origin: str, subsets: list[str], revision: str
    ) -> Iterator[tuple[str, pa.Table]]:
        source = Input(kind="dataset", id=origin, revision=revision or None)
        for subset in subsets:
            rows = _rows(Path(folder), source, subset)
            for number, table in enumerate(_tables(rows)):
                yield f"{subset}-{number}", table


def _rows(folder: Path, source: Input, subset: str) -> Iterator[Row]:
    if (folder / PLAN_NAME).is_file():
        with Ledger(folder / LEDGER_NAME, read_only=True) as ledger:
            harvest = Harvest(folder, ledger, subset=subset)
            yield from harvest.rows(harvest.ready(), frozenset())
        return
    release = Release(folder, source=source, subsets=(subset,))
    with tempfile.TemporaryDirectory() as spill, PicturePool[Key](Path(spill)) as pool:
        yield from release.rows(pool)
    if release.ambiguous:
        raise Echo4oError(
            f"two different pictures are called {min(release.ambiguous).path}; `echo4o data import`"
            " leaves such rows out"
        )


def _tables(rows: Iterable[Row]) -> Iterator[pa.Table]:
    schema = features().arrow_schema
    batch: list[dict[str, object]] = []
    size = 0
    for row in rows:
        batch.append(row.to_dict())
        size += sum(len(one.data) for one in (*row.input_images, row.output_image))
        if size > MAX_GROUP_BYTES or len(batch) == MAX_GROUP_ROWS:
            yield pa.Table.from_pylist(batch, schema=schema)
            batch, size = [], 0
    if batch:
        yield pa.Table.from_pylist(batch, schema=schema)

"""`Echo4oImage`: a `datasets` builder over the authors' layout or a generated plan's folder.

Loading scripts are gone from `datasets`, so this is an ordinary class:
`Echo4oImage(config_name="multi_reference", data_dir=FOLDER).as_streaming_dataset("train")`.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa

from echo4o.errors import Echo4oError
from echo4o.ledger import Ledger
from echo4o.loading import cache_folder
from echo4o.schema import CONFIGS, SUBSETS, Row, features

from .batches import batches
from .build import Harvest
from .generate import LEDGER_NAME
from .importing import Release
from .layout import Key, find_parts
from .plan import PLAN_NAME
from .pool import PicturePool
from .sources import locate

_NAMES = tuple(name for name in CONFIGS if name != "preview")


class Echo4oImage(datasets.ArrowBasedBuilder):
    """Rows of one subset or of all; `data_dir` is a folder or the Hub id of the release."""

    BUILDER_CONFIGS = [datasets.BuilderConfig(name=name) for name in _NAMES]
    DEFAULT_CONFIG_NAME = "all"

    def __init__(
        self,
        cache_dir: str | None = None,
        config_name: str | None = None,
        data_dir: str | None = None,
        **options: object,
    ) -> None:
        """As the base class; what `data_dir` holds now is a part of the cache's name.

        The base class knows a folder by its path alone, and would answer for a new state with the
        old rows.
        """
        if data_dir is not None:
            options.setdefault("hash", _state(data_dir))
        super().__init__(cache_dir=cache_dir, config_name=config_name, data_dir=data_dir, **options)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=features())

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        if self.config.data_dir is None:
            raise Echo4oError("Echo4oImage needs data_dir: a folder, or the Hub id of the release")
        place = self.config.data_dir
        wanted = SUBSETS if self.config.name == "all" else (self.config.name,)
        revision = None
        if not _is_plan(place):
            source = locate(place)
            present = {part.subset for part in find_parts(source)}
            wanted = tuple(subset for subset in wanted if subset in present)
            if not wanted:
                has = ", ".join(sorted(present))
                raise Echo4oError(f"{place} has no rows of {self.config.name}; it has {has}")
            revision = source.facts.revision
        # A list is what `datasets` spreads over processes and workers.
        arguments = {"place": place, "subsets": list(wanted), "revision": revision}
        return [datasets.SplitGenerator(datasets.Split.TRAIN, gen_kwargs=arguments)]

    def _generate_tables(
        self, place: str, subsets: list[str], revision: str | None
    ) -> Iterator[tuple[str, pa.Table]]:
        for subset in subsets:
            rows = _rows(place, revision, subset)
            for number, batch in enumerate(batches(rows)):
                yield f"{subset}-{number}", pa.Table.from_batches([batch])


def _state(place: str) -> str:
    if Path(place).is_dir():
        return Path(cache_folder(Path(place))).name
    return locate(place).facts.revision or place


def _is_plan(place: str) -> bool:
    return (Path(place) / PLAN_NAME).is_file()


def _rows(place: str, revision: str | None, subset: str) -> Iterator[Row]:
    if _is_plan(place):
        with Ledger(Path(place) / LEDGER_NAME, read_only=True) as ledger:
            harvest = Harvest(Path(place), ledger, subset=subset)
            yield from harvest.rows(harvest.ready(), frozenset())
        return
    release = Release(locate(place, revision), subsets=(subset,))
    with tempfile.TemporaryDirectory() as spill, PicturePool[Key](Path(spill)) as pool:
        yield from release.rows(pool)
    if release.ambiguous:
        raise Echo4oError(
            f"two different pictures are called {min(release.ambiguous).path}; `echo4o data import`"
            " leaves such rows out"
        )

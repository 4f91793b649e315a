"""Looks at a built dataset, in a folder or on the Hub, as any stranger would: with `datasets`."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from echo4o.errors import Echo4oError
from echo4o.hub_errors import patiently
from echo4o.records import RunRecord, sha256_bytes, sha256_file
from echo4o.schema import CONFIGS, features

from .shards import MAX_SHARD_BYTES

_PICTURES = ("input_images", "output_image")


class Glimpse(NamedTuple):
    """What two copies of a dataset must have in common."""

    ids: str
    """SHA-256 of all ids in order."""
    rows: int
    first: str
    """SHA-256 of the first row's pictures."""


def configs_of(path: str, revision: str | None = None) -> list[str]:
    """Names of the configs that a folder or Hub id declares, `all` first.

    Raises:
        Echo4oError: there are none, or one is not of this dataset.
    """
    import datasets

    with _present(path) as present:
        names = datasets.get_dataset_config_names(path, revision=revision, **present)
    unknown = [name for name in names if name not in CONFIGS]
    if unknown or "all" not in names:
        raise Echo4oError(
            f"{path} declares the configs {', '.join(names)}; a dataset built by `echo4o data` "
            f"has {', '.join(CONFIGS)}"
        )
    return sorted(names, key=CONFIGS.index)


def stream(
    path: str, config: str, revision: str | None = None, columns: list[str] | None = None
) -> dict[str, Iterator[Mapping[str, object]]]:
    """Rows by split, read as they are needed; pictures stay encoded.

    Raises:
        Echo4oError: the dataset has no such config.
    """
    import datasets

    options: dict[str, object] = {} if columns is None else {"columns": columns}
    with _present(path) as present:
        options |= {"revision": revision, **present}
        try:
            loaded = datasets.load_dataset(path, config, streaming=True, **options)
        except ValueError as error:  # what `datasets` says of an unknown config
            raise Echo4oError(f"{path} ({config}) cannot be loaded: {error}") from error
    return {split: iter(rows.decode(False)) for split, rows in loaded.items()}


@contextlib.contextmanager
def _present(path: str) -> Iterator[dict[str, str]]:
    """Options with which `datasets` reads what is there now.

    When the Hub fails it answers from its cache instead, of whichever revision: an empty cache
    makes it tell the failure, which can be waited out.
    """
    from huggingface_hub import constants

    if Path(path).is_dir() or constants.HF_HUB_OFFLINE:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="echo4o-empty-") as empty:
        yield {"cache_dir": empty}


def text_columns() -> list[str]:
    """Every column but the pictures."""
    return [name for name in features() if name not in _PICTURES]


def pinned(path: str, revision: str | None) -> str | None:
    """The commit of a Hub id; a folder has none.

    Raises:
        NotOnHubError: there is no such repository or revision.
        Echo4oError: it is neither a built dataset nor a Hub id.
    """
    from huggingface_hub import constants

    from echo4o.hub import resolve

    if Path(path).is_dir():
        if not (Path(path) / "README.md").is_file():
            raise Echo4oError(
                f"{path} is no built dataset; run `echo4o data build` or `data import`"
            )
        return revision
    if "/" not in path:
        raise Echo4oError(f"{path!r} is neither a folder here nor a Hub id (ORG/NAME)")
    if constants.HF_HUB_OFFLINE:
        return revision
    # Ours tells of a missing network in seconds, `datasets` in half a minute.
    return resolve(path, "dataset", revision)


def glimpse(path: str, config: str, revision: str | None = None) -> dict[str, Glimpse]:
    """Ids, their number and the first row's pictures, by split."""
    found = {}
    for split, rows in stream(path, config, revision, ["id"]).items():
        ids = [str(row["id"]) for row in rows]
        first = sha256_bytes(_first_pictures(path, config, revision, split))
        found[split] = Glimpse(sha256_bytes("\n".join(ids).encode()), len(ids), first)
    return found


def _first_pictures(path: str, config: str, revision: str | None, split: str) -> bytes:
    """The first row's pictures in one.

    Not through a stream that is left unread: at the end of the program pyarrow (26) waits for ever
    for what it still reads ahead (apache/arrow, issue 45214).
    """
    import datasets
    import fsspec
    import pyarrow.parquet as pq

    with _present(path) as present:
        opened = datasets.load_dataset_builder(path, config, revision=revision, **present)
    files = opened.config.data_files
    with fsspec.open(files[split][0], "rb") as file:
        group = pq.ParquetFile(file).read_row_group(0, columns=[*_PICTURES], use_threads=False)
    first = group.slice(0, 1).to_pylist()[0]
    cells = [*first["input_images"], first["output_image"]]
    return b"".join(cell["bytes"] for cell in cells)


def check_folder(folder: Path) -> dict[str, dict[str, Glimpse]]:
    """Refuse a folder that would not load from the Hub; the glimpses of its configs otherwise.

    Raises:
        Echo4oError: no dataset, a script that breaks loading, a shard that is too large, or files
            that are not those of the record.
    """
    if not (folder / "README.md").is_file() or not (folder / "data").is_dir():
        raise Echo4oError(f"{folder} is no built dataset; run `echo4o data build` or `data import`")
    scripts = sorted(path.name for path in folder.glob("*.py"))
    if scripts:
        # `datasets` takes a root <name>.py for a loading script and refuses the whole repository.
        raise Echo4oError(f"{folder} holds {scripts[0]}, which breaks load_dataset; move it away")
    for path in sorted(folder.rglob("*.parquet")):
        if path.stat().st_size > MAX_SHARD_BYTES * 10 // 9:
            raise Echo4oError(f"{path} has more than 500 MB; build the dataset again")
    check_hashes(folder)
    return {config: glimpse(str(folder), config) for config in configs_of(str(folder))}


def check_hashes(folder: Path) -> None:
    """Hold every file of a built dataset against its record.

    Not the card, which may be worded anew after the build (`echo4o card render`).

    Raises:
        Echo4oError: a file was changed or lost since, or a Parquet file joined.
    """
    from tqdm import tqdm

    recorded = {n: one for n, one in RunRecord.load(folder).files.items() if n != "README.md"}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")}
    again = "build or import the dataset again, or restore the file from a copy"
    if strange := sorted(found - recorded.keys()):
        raise Echo4oError(f"{folder} holds {strange[0]}, which its record does not name; {again}")
    with tqdm(desc="compare with the record", total=len(recorded), delay=1.0) as bar:
        for name, digest in recorded.items():
            path = folder / name
            if not path.is_file():
                raise Echo4oError(f"{folder} lacks {name}, which its record names; {again}")
            if sha256_file(path) != digest:
                raise Echo4oError(f"{path} was changed after the dataset was built; {again}")
            bar.update()


def compare(wanted: Mapping[str, Mapping[str, Glimpse]], repo_id: str, revision: str) -> None:
    """Load every config of a Hub revision and hold it against the folder's.

    Raises:
        Echo4oError: a config is missing or holds something else.
    """
    # `datasets` has some patience with the Hub, but none with a connection that is cut.
    found = patiently(f"read {repo_id}", partial(configs_of, repo_id, revision))
    if set(found) != set(wanted):
        raise Echo4oError(f"{repo_id} has the configs {found}, the folder has {sorted(wanted)}")
    for config, splits in wanted.items():
        if patiently(f"read {repo_id}", partial(glimpse, repo_id, config, revision)) != splits:
            raise Echo4oError(
                f"config {config} of {repo_id} at {revision[:12]} loads other rows than the folder"
            )

"""`echo4o.load_dataset`: the dataset from anywhere - a local folder first, then the Hub."""

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import Echo4oError
from .hub_errors import patiently
from .schema import CONFIGS, DATASET_NAME

if TYPE_CHECKING:
    from datasets import (
        Dataset,
        DatasetBuilder,
        DatasetDict,
        IterableDataset,
        IterableDatasetDict,
    )

ENVIRONMENT_VARIABLE = "ECHO4O_DATASET"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def source(path: str | None = None) -> str:
    """Where the dataset is read from: `path`, else $ECHO4O_DATASET, else `./echo-4o-image`.

    Raises:
        Echo4oError: none of them is there; no Hub id is assumed.
    """
    named = path or os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return named
    if Path(DATASET_NAME).is_dir():
        return DATASET_NAME
    raise Echo4oError(
        f"no dataset is named and there is no folder ./{DATASET_NAME}; give a folder or a Hub id "
        f"(ORG/NAME) as `path`, or in ${ENVIRONMENT_VARIABLE}"
    )


def cache_folder(folder: Path) -> str:
    """A cache of its own for each state of a local folder.

    `datasets` (5.2) tells local folders apart by their bare name and README alone: without this a
    rebuilt folder, or another one of the same name, would be answered with the old rows.
    """
    from datasets import config

    state = hashlib.sha256(str(folder.resolve()).encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        facts = file.stat()
        state.update(f"{file.relative_to(folder)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return str(Path(config.HF_DATASETS_CACHE) / "folders" / state.hexdigest()[:16])


def builder(
    path: str, config: str | None, revision: str | None = None, **options: Any
) -> "DatasetBuilder":
    """What `datasets.load_dataset_builder` opens, but no other revision than the one named.

    When the Hub fails, `datasets` (5.2) answers from its cache with whatever was loaded last.

    Args:
        path: A folder or a Hub id.
        config: Name of a config; None takes the default one.
        revision: Commit, branch or tag of a Hub id.
        options: As `datasets.load_dataset_builder` takes them.

    Raises:
        httpx.ReadError: the Hub failed; `hub_errors.patiently` waits it out.
        Echo4oError: in offline mode the cache holds another commit than the one named.
    """
    import datasets
    from datasets.packaged_modules.cache.cache import Cache
    from huggingface_hub import constants
    from huggingface_hub.utils import httpx

    opened = datasets.load_dataset_builder(path, config, revision=revision, **options)
    if isinstance(opened, Cache) and revision is not None:
        if not constants.HF_HUB_OFFLINE:
            raise httpx.ReadError(f"the Hub did not answer for {path}")
        if _COMMIT.fullmatch(revision) and opened.hash != revision:
            raise Echo4oError(
                f"the cache answers for {path} with commit {str(opened.hash)[:12]} instead of "
                f"{revision[:12]}; unset HF_HUB_OFFLINE, or name that one"
            )
    return opened


def load_dataset(
    config: str = "all",
    *,
    path: str | None = None,
    split: str | None = None,
    streaming: bool = False,
    revision: str | None = None,
    columns: list[str] | None = None,
    token: str | None = None,
) -> "Dataset | DatasetDict | IterableDataset | IterableDatasetDict":
    """Load one config as `datasets.load_dataset` does, but never another revision than `revision`.

    Args:
        config: `all`, `surreal_fantasy`, `multi_reference`, `instruction_following`, `preview`.
        path: Folder of a built dataset or a Hub id; None looks at $ECHO4O_DATASET, then at
            `./echo-4o-image`.
        split: `train` or `validation`; None gives a dictionary of all splits.
        streaming: Read rows over the network as they are needed.
        revision: Commit, branch or tag of a Hub id.
        columns: Only these columns.
        token: Hub token; None uses the stored one.

    Raises:
        ValueError: there is no such config.
        Echo4oError: no dataset is named, and none is found; the Hub does not answer for `revision`.
    """
    if config not in CONFIGS:
        raise ValueError(f"`config` must be one of {', '.join(CONFIGS)}; got {config!r}")
    place = source(path)
    options: dict[str, Any] = {} if columns is None else {"columns": columns}
    options["cache_dir"] = cache_folder(Path(place)) if Path(place).is_dir() else None
    opened = patiently(
        f"load {place}",
        lambda: builder(place, config, revision, token=token, **options),
    )
    if streaming:
        return opened.as_streaming_dataset(split=split)
    patiently(f"load {place}", opened.download_and_prepare)
    return opened.as_dataset(split=split)

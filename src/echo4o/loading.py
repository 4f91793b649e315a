"""`echo4o.load_dataset`: the dataset from anywhere - a local folder first, then the Hub."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .schema import CONFIGS, DATASET_NAME

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

ENVIRONMENT_VARIABLE = "ECHO4O_DATASET"
HUB_ID = "echo4o/echo-4o-image"
"""Used when no local folder is found and $ECHO4O_DATASET is not set."""


def source(path: str | None = None) -> str:
    """Where the dataset is read from: `path`, else $ECHO4O_DATASET, `./echo-4o-image`, the Hub."""
    named = path or os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return named
    return DATASET_NAME if Path(DATASET_NAME).is_dir() else HUB_ID


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
    """Load one config of the dataset with `datasets.load_dataset`.

    Args:
        config: `all`, `surreal_fantasy`, `multi_reference`, `instruction_following`, `preview`.
        path: Folder of a built dataset or a Hub id; None looks at $ECHO4O_DATASET, then at
            `./echo-4o-image`, then uses the configured Hub id.
        split: `train` or `validation`; None gives a dictionary of all splits.
        streaming: Read rows over the network as they are needed.
        revision: Commit, branch or tag of a Hub id.
        columns: Only these columns.
        token: Hub token; None uses the stored one.

    Raises:
        ValueError: there is no such config.
    """
    if config not in CONFIGS:
        raise ValueError(f"`config` must be one of {', '.join(CONFIGS)}; got {config!r}")
    import datasets

    options = {} if columns is None else {"columns": columns}
    return datasets.load_dataset(
        source(path),
        config,
        split=split,
        streaming=streaming,
        revision=revision,
        token=token,
        **options,
    )

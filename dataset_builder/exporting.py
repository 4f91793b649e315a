"""`data export`: streams a built dataset, from a folder or the Hub, into a trainer's own form."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from echo4o.errors import Echo4oError
from echo4o.records import Input, RunRecord, sha256_file
from echo4o.schema import Row, check_row

from .folder import staged, swap
from .trainer_forms import FORMATS, Exporter

_MARK = "export.record.json"


@dataclass(slots=True)
class Exported:
    """What was written."""

    folder: Path
    rows: Counter[str] = field(default_factory=Counter)
    """By subset."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that the trainer cannot use, by reason."""


def export(
    dataset: str,
    format_name: str,
    out: Path,
    *,
    config: str = "all",
    split: str = "train",
    revision: str | None = None,
    seen_as: str | None = None,
    progress: bool = False,
) -> Exported:
    """Write the rows of one config and split of a dataset folder or Hub id for a trainer.

    `seen_as` is the path of `out` on the machine that trains; None takes its path here. The folder
    appears whole or not at all; an earlier export in it is replaced.

    Raises:
        Echo4oError: the dataset or `split` is not there, `out` holds other files, or the trainer
            can use no row at all.
    """
    from tqdm import tqdm

    from .look import pinned, stream

    if out.exists() and (out.is_file() or (any(out.iterdir()) and not (out / _MARK).is_file())):
        raise Echo4oError(f"{out} holds something else; give an empty or a new folder")
    revision = pinned(dataset, revision)
    splits = stream(dataset, config, revision)
    if split not in splits:
        raise Echo4oError(f"{dataset} ({config}) has no split {split!r}; it has {sorted(splits)}")
    with staged(out) as staging:
        exporter = FORMATS[format_name](staging, seen_as or str(out.resolve()))
        rows = tqdm(splits[split], desc=f"export {format_name}", disable=not progress)
        done = _write(exporter, rows, out)
        if not done.rows:
            raise Echo4oError(
                f"not a single row of {dataset} can be exported for {format_name}: "
                f"{dict(done.left_out)}"
            )
        _record(dataset, revision, format_name, config, split, done, staging).save(staging / _MARK)
        swap(staging, out)
    return done


def _write(exporter: Exporter, rows: Iterable[Mapping[str, object]], out: Path) -> Exported:
    done = Exported(folder=out)
    try:
        for record in rows:
            row = Row.from_dict(record)
            check_row(row)
            reason = exporter.unusable(row)
            if reason is not None:
                done.left_out[reason] += 1
                continue
            exporter.add(row)
            done.rows[row.subset] += 1
        exporter.finish()
    finally:
        exporter.close()
    return done


def _record(
    dataset: str,
    revision: str | None,
    format_name: str,
    config: str,
    split: str,
    done: Exported,
    staging: Path,
) -> RunRecord:
    local = Path(dataset)
    name = local.name if local.is_dir() else dataset
    # Pictures are many, and their hashes stand in the dataset's own rows.
    files = {
        path.relative_to(staging).as_posix(): sha256_file(path)
        for path in sorted(staging.rglob("*"))
        if path.is_file() and "images" not in path.relative_to(staging).parts
    }
    return RunRecord(
        name=f"export-{format_name}",
        command="echo4o data export",
        inputs=(Input(kind="dataset", id=name, revision=revision),),
        parameters={"format": format_name, "config": config, "split": split},
        metrics={"rows": dict(sorted(done.rows.items())), "left_out": dict(done.left_out)},
        files=files,
    )

"""Whether what was published can be used: rows decode, scores follow, cards say what records say.

Everything is read from folders whose files have been held against the manifest before. Foreign
code, that of a Space, runs only in a child process that knows no token.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cli import explain, run_verb
from ..maker import maker
from ..manifest import Difference
from ..records import RunRecord, sha256_bytes
from ..schema import CONFIGS
from .card_facts import compare_card
from .stage import SCORES
from .table import Table

_RUN = "run.json"
_RECORDS = ("record.json", "statistics.json", "card.json")
_ENDS = (".low", ".high")
_MOST_SHIFT = 0.1
"""By which another version may work out an interval's end otherwise, as a share of the scale."""


def check_dataset(folder: Path, name: str, table: Table, *, rows: int, made_by: str) -> None:
    """Load every config; decode sampled rows, with what must stand beside a picture.

    Args:
        folder: The downloaded repo.
        name: What the table calls it.
        table: Gets the rows.
        rows: About how many to decode from each split of each config.
        made_by: Which echo4o worded its card.
    """
    import datasets
    import pyarrow.parquet as pq

    try:
        configs = datasets.get_dataset_config_names(str(folder))
    except Exception as error:  # whatever a foreign folder makes the library raise
        table.bad(name, "load_dataset", sentence(error), "a dataset")
        return
    _check_card(folder, name, table, made_by, "data", "card", str(folder))
    counts = json.loads((folder / "statistics.json").read_bytes())
    rights = RunRecord.load(folder).parameters.get("rights")
    signed = isinstance(rights, dict) and rights.get("licences")
    for config in sorted(configs, key=lambda one: CONFIGS.index(one) if one in CONFIGS else 99):
        check = f"load_dataset {config}"
        try:
            files = datasets.load_dataset_builder(str(folder), config).config.data_files
            found = sum(pq.read_metadata(one).num_rows for split in files.values() for one in split)
            wanted = counts["rows"] if config == "all" else counts["by_subset"].get(config)
            if config == "preview":
                wanted = _load_whole(folder, config)
            table.add(name, f"{check}: rows", found, wanted)
            problems: list[Difference] = []
            seen = 0
            for parts in files.values():
                for place, row in _sampled(parts, rows):
                    problems += _row_problems(row, place, is_preview=config == "preview")
                    if not (row.get("license") or signed):
                        problems.append(Difference(f"{place} license", "none", "a licence"))
                    seen += 1
        except Exception as error:
            table.bad(name, check, sentence(error), "rows that load")
            continue
        table.differ(
            name, f"{check}: rows decode, provenance, licence", problems, fine=f"{seen} rows"
        )


def check_items(folder: Path, name: str, table: Table) -> None:
    """Load a benchmark's items and count them."""
    import datasets

    try:
        wanted = json.loads((folder / "record.json").read_bytes())["metrics"]["items"]
        with tempfile.TemporaryDirectory() as cache:
            found = len(datasets.load_dataset(str(folder), split="test", cache_dir=cache))
    except Exception as error:
        table.bad(name, "load_dataset", sentence(error), "items")
        return
    table.add(name, "load_dataset: items", found, wanted)


def check_results(folder: Path, name: str, table: Table, *, made_by: str) -> list[dict[str, Any]]:
    """Score every run again from its verdicts; returns what the runs are and their scores."""
    try:
        found = json.loads(_said("eval", "rescore", str(folder), "--json"))
    except Exception as error:
        table.bad(name, "rescore", sentence(error), "runs with verdicts")
        return []
    differences = [Difference(**one) for one in found["differences"]]
    runs = list(found["runs"])
    fine = f"{len(runs)} runs, every score as stored"
    if made_by != maker():
        kept = [one for one in differences if not _is_another_interval(one)]
        if len(kept) < len(differences):
            fine += f"; {len(differences) - len(kept)} ends of intervals differ a little"
        differences = kept
    table.differ(name, "rescore", differences, fine=fine)
    return runs


def _is_another_interval(one: Difference) -> bool:
    """An end of an interval, or a whole score, that another version works out otherwise."""
    if one.found == "None":  # it knew fewer scores
        return True
    try:
        shift = abs(float(one.found) - float(one.expected))
    except ValueError:
        return False
    scale = 1 if max(abs(float(one.found)), abs(float(one.expected))) <= 1 else 10
    return one.place.endswith(_ENDS) and shift <= _MOST_SHIFT * scale


def check_model_card(folder: Path, name: str, repo: str, table: Table, *, made_by: str) -> None:
    """Render the card again from the records and scores beside it."""
    scores = sorted(path.parent for path in folder.glob(f"{SCORES}/*/{_RUN}"))
    words = ["model", str(folder), "--repo", repo, "--out", "-"]
    words += [word for one in scores for word in ("--eval", str(one))]
    _check_card(folder, name, table, made_by, "card", "render", *words)


def _check_card(
    folder: Path, name: str, table: Table, made_by: str, noun: str, verb: str, *words: str
) -> None:
    try:
        wanted = _said(noun, verb, *words)
        found = (folder / "README.md").read_text(encoding="utf-8")
    except Exception as error:
        table.bad(name, "card", sentence(error), "a card that its records give")
        return
    lines = found.splitlines()
    differences = [
        Difference(f"README.md line {number + 1}", a or "nothing", b or "nothing")
        for number, (a, b) in enumerate(_pairs(lines, wanted.splitlines()))
        if a != b
    ]
    fine = f"{len(lines)} lines, as the records give"
    if differences and made_by != maker():
        differences = compare_card(found, wanted, _records(folder))
        fine = f"every figure and id is in the records (worded by {made_by or 'an older echo4o'})"
    table.differ(name, "card", differences[:5], fine=fine)


def _records(folder: Path) -> Iterator[Any]:
    files = [folder / name for name in _RECORDS] + sorted(folder.glob(f"{SCORES}/*/{_RUN}"))
    for file in files:
        if file.is_file():
            yield json.loads(file.read_bytes())


def check_scores(
    folder: Path, name: str, runs: Sequence[Mapping[str, Any]], table: Table, *, made_by: str
) -> list[str]:
    """Hold the scores behind a model's card against those that follow from the verdicts.

    Returns:
        The names of the runs that they are of.
    """
    names = []
    for file in sorted(folder.glob(f"{SCORES}/*/{_RUN}")):
        place = file.relative_to(folder).as_posix()
        try:
            told = json.loads(file.read_bytes())
            same = [
                run
                for run in runs
                if (run["task"], run["judge"], run["protocol"], run["started"])
                == (told["task"], told["judge"]["model"], told["protocol"], told["started"])
            ]
            stored = told["scores"]
        except (ValueError, KeyError, TypeError) as error:
            table.bad(name, place, repr(error), "the scores of a run")
            continue
        if not same:
            table.bad(name, place, "no such run in the results", "its verdicts in the results")
            continue
        wanted = json.loads(json.dumps(same[0]["scores"]))
        if made_by != maker():
            stored, wanted = _without_ends(stored), _without_ends(wanted)
            wanted = {key: one for key, one in wanted.items() if key in stored}
        table.add(name, f"{place} against the verdicts", _short(stored), _short(wanted))
        names.append(Path(same[0]["place"]).parent.name)
    return names


def _row_problems(row: Mapping[str, Any], place: str, *, is_preview: bool) -> Iterator[Difference]:
    from PIL import Image

    pictures = [row["output_image"]["bytes"], *(one["bytes"] for one in row["input_images"])]
    for data in pictures:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
    said = json.loads(row.get("provenance") or "{}").get("sha256") or {}
    wanted = [said.get("output_image"), *said.get("input_images", [])]
    if wanted[0] is None:
        yield Difference(f"{place} provenance", "no hash", "the hash of the picture")
    elif not is_preview:  # whose pictures are small copies
        found = [sha256_bytes(data) for data in pictures]
        if found != wanted:
            yield Difference(f"{place} pictures", str(found)[:80], str(wanted)[:80])


def _load_whole(folder: Path, config: str) -> int:
    """Rows of a small config, loaded with all that `datasets` does."""
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        loaded = datasets.load_dataset(str(folder), config, cache_dir=cache)
        return sum(len(split) for split in loaded.values())


def _sampled(files: Sequence[str], most: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows spread over Parquet files, with the pictures' own bytes.

    Of each file a few row groups are read, so that a dataset of any size takes seconds.
    """
    import pyarrow.parquet as pq

    chosen = files[:: max(1, len(files) // most)][:most]
    for file in chosen:
        parquet = pq.ParquetFile(file)
        groups = range(parquet.num_row_groups)
        share = max(1, most // len(chosen))
        for group in groups[:: max(1, len(groups) // share)][:share]:
            rows = parquet.read_row_group(group, use_threads=False)
            count = max(1, share // len(groups))
            for number in range(0, rows.num_rows, max(1, rows.num_rows // count))[:count]:
                place = f"{Path(file).name} row group {group} row {number}"
                yield place, rows.slice(number, 1).to_pylist()[0]


def _said(noun: str, verb: str, *words: str) -> str:
    """What a verb prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run_verb(noun, verb, list(words))
    return out.getvalue()


def sentence(error: BaseException) -> str:
    """What an error says, in one line."""
    return explain(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _without_ends(value: Any) -> Any:
    """Scores without what another version may work out otherwise."""
    if isinstance(value, Mapping):
        kept = {key: one for key, one in value.items() if f".{key}" not in _ENDS}
        return {key: _without_ends(one) for key, one in kept.items()}
    return value


def _short(scores: object) -> str:
    """Scores as one line that differs whenever they do."""
    text = json.dumps(_rounded(scores), sort_keys=True)
    overall = scores.get("overall", {}) if isinstance(scores, Mapping) else {}
    return f"overall {overall.get('score')}, all {sha256_bytes(text.encode())[:12]}"


def _rounded(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def _pairs(found: list[str], wanted: list[str]) -> Iterator[tuple[str, str]]:
    for number in range(max(len(found), len(wanted))):
        yield (
            found[number] if number < len(found) else "",
            wanted[number] if number < len(wanted) else "",
        )

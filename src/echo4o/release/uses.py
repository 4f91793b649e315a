"""Whether what was published can be used: rows decode, scores follow, pictures come again.

Everything is read from folders whose files have been held against the manifest before. Foreign
code, that of a Space, runs only in a child process that knows no token.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..cli import explain, run_verb
from ..manifest import Difference
from ..models.endpoint import HANDLER
from ..models.pictures import PictureRecord, read_record
from ..records import RunRecord, sha256_bytes
from ..schema import CONFIGS
from .stage import SCORES
from .table import Table

if TYPE_CHECKING:
    from ..models.bagel.pipeline import Echo4oPipeline

_TOLERANCE = 2
"""Grey levels: a batch and its singles differ by one."""
_MOST_STEPS = 1000
_RUN = "run.json"


def check_dataset(folder: Path, name: str, table: Table, *, rows: int) -> None:
    """Load every config; decode sampled rows, with what must stand beside a picture.

    Args:
        folder: The downloaded repo.
        name: What the table calls it.
        table: Gets the rows.
        rows: About how many to decode from each split of each config.
    """
    import datasets
    import pyarrow.parquet as pq

    try:
        configs = datasets.get_dataset_config_names(str(folder))
    except Exception as error:  # whatever a foreign folder makes the library raise
        table.bad(name, "load_dataset", _sentence(error), "a dataset")
        return
    _check_card(folder, name, table, "data", "card", str(folder))
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
            table.bad(name, check, _sentence(error), "rows that load")
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
        table.bad(name, "load_dataset", _sentence(error), "items")
        return
    table.add(name, "load_dataset: items", found, wanted)


def check_results(folder: Path, name: str, table: Table) -> list[dict[str, Any]]:
    """Score every run again from its verdicts; returns what the runs are and their scores."""
    try:
        found = json.loads(_said("eval", "rescore", str(folder), "--json"))
    except Exception as error:
        table.bad(name, "rescore", _sentence(error), "runs with verdicts")
        return []
    differences = [Difference(**one) for one in found["differences"]]
    runs = list(found["runs"])
    table.differ(name, "rescore", differences, fine=f"{len(runs)} runs, every score as stored")
    return runs


def check_model_card(folder: Path, name: str, repo: str, table: Table) -> None:
    """Render the card again from the records and scores beside it."""
    scores = sorted(path.parent for path in folder.glob(f"{SCORES}/*/{_RUN}"))
    words = ["model", str(folder), "--repo", repo, "--out", "-"]
    words += [word for one in scores for word in ("--eval", str(one))]
    _check_card(folder, name, table, "card", "render", *words)


def _check_card(folder: Path, name: str, table: Table, noun: str, verb: str, *words: str) -> None:
    try:
        wanted = _said(noun, verb, *words).splitlines()
        found = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    except Exception as error:
        table.bad(name, "card", _sentence(error), "a card that its records give")
        return
    differences = [
        Difference(f"README.md line {number + 1}", a or "nothing", b or "nothing")
        for number, (a, b) in enumerate(_pairs(found, wanted))
        if a != b
    ]
    table.differ(name, "card", differences[:5], fine=f"{len(found)} lines, as the records give")


def check_scores(
    folder: Path, name: str, runs: Sequence[Mapping[str, Any]], table: Table
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
        table.add(name, f"{place} against the verdicts", _short(stored), _short(wanted))
        names.append(Path(same[0]["place"]).parent.name)
    return names


def check_model(folder: Path, name: str, table: Table) -> "Echo4oPipeline | None":
    """Load a model as its card says; its handler must be ours, which the package's tests load."""
    if (folder / "handler.py").is_file():
        handler = (folder / "handler.py").read_text(encoding="utf-8")
        table.add(
            name, "handler.py", sha256_bytes(handler.encode()), sha256_bytes(HANDLER.encode())
        )
    try:
        from echo4o import Echo4oPipeline

        pipe = Echo4oPipeline.from_pretrained(str(folder))
    except Exception as error:
        table.bad(name, "from_pretrained", _sentence(error), "a model that loads")
        return None
    pipe.set_progress_bar_config(disable=True)
    count = sum(one.numel() for one in pipe.model.parameters())
    table.good(name, "from_pretrained", f"{count:,} parameters", "a model that loads")
    return pipe


def check_pictures(
    pipe: "Echo4oPipeline",
    results: Path,
    runs: Sequence[str],
    name: str,
    table: Table,
    *,
    most: int,
) -> None:
    """Make the pictures behind a model's scores again from the seeds that they carry.

    Args:
        pipe: The published model.
        results: The results dataset.
        runs: Names of the runs.
        name: What the table calls the model.
        table: Gets the row.
        most: Pictures of each run.
    """
    differences, seen = [], 0
    for place, data in _judged_pictures(results, runs, most):
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "picture.png"
            file.write_bytes(data)
            try:
                record = read_record(file)
                distance = _distance(pipe, record, file)
            except Exception as error:
                said = _sentence(error).replace(str(file), "it")
                differences.append(Difference(place, said, "a picture with its record"))
                continue
        seen += 1
        if distance > _TOLERANCE:
            found = f"differs by {distance} of 255"
            differences.append(Difference(place, found, f"at most {_TOLERANCE} of 255"))
    if not seen and not differences:
        table.bad(name, "pictures again", "no picture is stored", "the pictures that were judged")
        return
    table.differ(name, "pictures again", differences, fine=f"{seen} pictures from their seeds")


def _judged_pictures(results: Path, runs: Sequence[str], most: int) -> Iterator[tuple[str, bytes]]:
    """Pictures of some runs, spread over each."""
    import pyarrow.parquet as pq

    for run in runs:
        path = results / "data/verdicts" / f"{run}.parquet"
        columns = ["number", "sample", "picture_sha256", "image"]
        rows = [row for row in pq.read_table(path, columns=columns).to_pylist() if row["image"]]
        for row in rows[:: max(1, len(rows) // most)][:most]:
            place = f"{run} item {row['number']} sample {row['sample']}"
            yield place, row["image"]["bytes"]


def _distance(pipe: "Echo4oPipeline", record: PictureRecord, file: Path) -> int:
    """Grey levels by which a picture differs from the same request made now."""
    import torch
    from PIL import Image, ImageChops

    said, seed = record.parameters, record.seed
    wanted = {"num_inference_steps": said.get("steps"), "guidance_scale": said.get("guidance")}
    if said.get("size"):
        wanted["width"], wanted["height"] = said["size"]
    options = {key: value for key, value in wanted.items() if value is not None}
    numbers = all(isinstance(one, int | float) and 0 <= one < 1e5 for one in options.values())
    if seed is None or not numbers or options.get("num_inference_steps", 1) > _MOST_STEPS:
        raise ValueError(f"its record cannot be repeated: seed {seed!r}, {options!r}")
    generator = torch.Generator("cpu").manual_seed(seed)
    made = pipe([record.prompt], generator=[generator], **options)
    with Image.open(file) as opened:
        old = opened.convert("RGB")
    new = cast("list[Image.Image]", cast(Any, made).images)[0].convert("RGB")
    if old.size != new.size:
        return 255
    extrema = cast("list[tuple[int, int]]", ImageChops.difference(old, new).getextrema())
    return max(high for _, high in extrema)


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


def _sentence(error: BaseException) -> str:
    return explain(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


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

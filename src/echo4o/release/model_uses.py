"""Whether a published model can be used: it loads, its handler answers, its pictures come again."""

import ast
import base64
import importlib.util
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..manifest import Difference
from ..models.endpoint import HANDLER
from ..models.kinds import KINDS, open_pipeline, pipeline_class
from ..models.pictures import PictureRecord, read_record
from ..records import sha256_bytes
from .table import Table
from .uses import sentence

if TYPE_CHECKING:
    from ..models.bagel.pipeline import Echo4oPipeline

_TOLERANCE = 2
"""Grey levels: a batch and its singles differ by one."""
_MOST_STEPS = 1000
_REQUEST = {"inputs": "a red ring", "parameters": {"num_inference_steps": 2, "seed": 1}}
_SIDE = 64


def check_model(folder: Path, name: str, table: Table) -> Any:
    """Load a model as its card says, and serve one request as Inference Endpoints would.

    Returns:
        The pipeline of its kind; None when something is wrong.
    """
    foreign = list(_foreign_code(folder))
    if not table.differ(name, "code in the repo", foreign, fine="only ours"):
        return None
    try:
        kind = pipeline_class(str(folder))
        pipe = open_pipeline(kind, str(folder), revision=None, dtype=None)
    except Exception as error:
        table.bad(name, "from_pretrained", sentence(error), "a model that loads")
        return None
    pipe.set_progress_bar_config(disable=True)
    count = sum(one.numel() for one in getattr(pipe, KINDS[kind].main).parameters())
    told = f"{kind}, {count:,} parameters"
    table.good(name, "from_pretrained", told, "a model that loads")
    _check_handler(folder, name, kind, table)
    return pipe


def check_twin(folder: Path, name: str, pipe: "Echo4oPipeline", table: Table) -> None:
    """Load the repo in the authors' layout; every weight must be that of the model.

    Args:
        folder: The downloaded repo.
        name: What the table calls it.
        pipe: The released model.
        table: Gets the rows.
    """
    import torch

    try:
        from echo4o import Echo4oPipeline

        twin = Echo4oPipeline.from_pretrained(str(folder))
    except Exception as error:
        table.bad(name, "from_pretrained", sentence(error), "a model that loads")
        return
    differences = []
    for part, ours, theirs in (("model", pipe.model, twin.model), ("vae", pipe.vae, twin.vae)):
        wanted, found = ours.state_dict(), theirs.state_dict()
        for key in sorted(wanted.keys() | found.keys()):
            one, other = wanted.get(key), found.get(key)
            same = one is not None and other is not None and torch.equal(one, other.to(one.dtype))
            if not same:
                differences.append(Difference(f"{part}.{key}", "other values", "the model's"))
    count = sum(one.numel() for one in twin.model.parameters())
    fine = f"{count:,} parameters, each the model's"
    table.differ(name, "authors' layout", differences[:5], fine=fine)


def _foreign_code(folder: Path) -> Iterator[Difference]:
    """What a loader that trusts the repo would run, beside lines that import the package."""
    for path in sorted(folder.rglob("*.py")):
        if not _only_imports_us(path):
            place = path.relative_to(folder).as_posix()
            yield Difference(place, "a program", "lines that import echo4o")
    for path in sorted(folder.rglob("*.json")):
        if b'"auto_map"' in path.read_bytes():
            place = path.relative_to(folder).as_posix()
            yield Difference(place, "an `auto_map`, which loads code", "none")


def _only_imports_us(path: Path) -> bool:
    try:
        lines = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError):
        return False
    return all(
        isinstance(one, ast.ImportFrom)
        and one.level == 0
        and (one.module or "").split(".")[0] == "echo4o"
        or isinstance(one, ast.Expr)
        and isinstance(one.value, ast.Constant)
        for one in lines
    )


def _check_handler(folder: Path, name: str, kind: str, table: Table) -> None:
    """Its code must be ours, so it may run here: load it and send one request."""
    file = folder / "handler.py"
    if not file.is_file():
        return
    found = sha256_bytes(file.read_bytes())
    if not table.add(name, "handler.py", found, sha256_bytes(HANDLER.encode())):
        return
    try:
        spec = importlib.util.spec_from_file_location("handler", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        options = dict(cast(dict[str, Any], _REQUEST["parameters"]))
        if is_sized := "height" in KINDS[kind].settings:
            options |= {"height": _SIDE, "width": _SIDE}
        reply = module.EndpointHandler(str(folder))({**_REQUEST, "parameters": options})
        picture = _size_of(base64.b64decode(reply["image"]))
    except Exception as error:  # whatever a damaged model makes it raise
        table.bad(name, "handler.py answers", sentence(error), "a picture")
        return
    table.add(name, "handler.py answers", picture, (_SIDE, _SIDE) if is_sized else picture)


def _size_of(data: bytes) -> tuple[int, int]:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return picture.size


def check_pictures(
    pipe: Any,
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
                said = sentence(error).replace(str(file), "it")
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


def _distance(pipe: Any, record: PictureRecord, file: Path) -> int:
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
    new = cast("list[Image.Image]", made.images)[0].convert("RGB")
    if old.size != new.size:
        return 255
    extrema = cast("list[tuple[int, int]]", ImageChops.difference(old, new).getextrema())
    return max(high for _, high in extrema)

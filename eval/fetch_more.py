"""Gets the items of GenEval, DPG-Bench and OmniContext; what each one's `eval fetch` does.

GenEval's prompts and OmniContext's judge wording come from the pinned commit of Echo-4o's authors,
hashes checked; OmniContext's items with their references from the dataset of its authors, at the
commit of the day, which is kept beside them.
"""

import ast
import csv
import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from echo4o.errors import Echo4oError
from echo4o.hub_errors import patiently
from echo4o.hub_reading import resolve
from echo4o.loading import builder
from echo4o.pictures import picture_facts
from echo4o.records import write_atomic

from .fetch import get_file
from .wording import COMMIT, ITEM_FILES, REPOSITORY, WordingError, data_folder, wording_file

CONTEXT_DATASET = "OmniGen2/OmniContext"
_CONTEXT_SCRIPT = "omnicontext/prompt_generator.py"
_CONTEXT_SCRIPT_SHA256 = "a8f2976f9ceff9f0ae7d80f604dd272d491f846ab434fa033530c797583505a1"
TEXT_HASHES = {
    "prompt_following": "a1c5830be940042b0e1451a86d9f922e9aa9f06fefa7f478c68a14fb54cc09c3",
    "prompt_following_scene": "b399ff1d4636ee295fed4a88eb46a44d401d5c1705ff58223eb0ab4982af98ea",
    "subject_consistency": "332c3091688e24a784f1bebeaf30c3babdea8fb4f51337f6d5cc25f1ced627ce",
    "subject_consistency_scene": "4c96267c4ea27f1323a0bc4be5f0602b1edb476c3f21134f66efd1cbb9d1ab45",
}
"""SHA-256 of the authors' four texts, `{instruction}` where an item's goes."""
_MOST_PARTS = 3
_MOST_TEXTS = 40


def fetch_geneval(origin: str | None) -> list[str]:
    """Get the 553 short and the 553 rewritten prompts."""
    lines = []
    for name in ("geneval", "geneval_rewritten"):
        file = ITEM_FILES[name]
        assert file.sha256 is not None
        data = get_file(origin, file.path, file.sha256)
        path = data_folder() / file.name
        write_atomic(path, data)
        count = sum(bool(line.strip()) for line in data.splitlines())
        lines.append(f"{name:20}{count:4d} items  {path}")
    return lines


def fetch_dpg(origin: str | None) -> list[str]:
    """Take over the questions file of DPG-Bench from a folder; nobody published a hash of it."""
    name = Path(ITEM_FILES["dpg_bench"].name).name
    if origin is None:
        return [
            f"{'dpg_bench':20}not fetched: {name} lies in the repository TencentQQGYLab/ELLA "
            "(Apache-2.0); download it and give its folder with --from, or the file with --items"
        ]
    places = (Path(origin) / name, Path(origin) / "dpg_bench" / name)
    source = next((path for path in places if path.is_file()), None)
    if source is None:
        raise WordingError(f"there is no {name} in {origin}; give the folder that holds it")
    data = source.read_bytes()
    path = data_folder() / ITEM_FILES["dpg_bench"].name
    write_atomic(path, data)
    try:
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
        count = len({row.get("item_id") for row in rows})
    except (UnicodeDecodeError, csv.Error) as error:
        raise WordingError(f"{source} is no CSV file ({error}); download it again") from error
    digest = hashlib.sha256(data).hexdigest()
    return [f"{'dpg_bench':20}{count:4d} items  {path}", f"{'':20}SHA-256 {digest[:16]}"]


def fetch_context(origin: str | None) -> list[str]:
    """Get OmniContext's judge wording, and its items with their references.

    With a folder, only the wording is read from there; the items come from the Hub in any case.
    """
    script = get_file(origin, _CONTEXT_SCRIPT, _CONTEXT_SCRIPT_SHA256)
    texts = find_texts(script.decode("utf-8", errors="replace"), TEXT_HASHES)
    facts = {
        "benchmark": "omnicontext",
        "source": f"{REPOSITORY}@{COMMIT} {_CONTEXT_SCRIPT}",
        "licence": "Apache-2.0",
        "user": texts,
    }
    wording = wording_file("omnicontext")
    write_atomic(wording, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    path, count = fetch_context_items()
    return [f"{'omnicontext':20}{count:4d} items  {path}", f"{'':20}wording     {wording}"]


def find_texts(script: str, wanted: Mapping[str, str]) -> dict[str, str]:
    """Return texts that a script puts together from its own constants; nothing of it is run.

    Args:
        script: Python source.
        wanted: SHA-256 of each text, by name; whatever else the script holds is ignored.

    Raises:
        WordingError: it is no Python, or no sum of up to three of its texts has a wanted hash.
    """
    try:
        tree = ast.parse(script)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise WordingError(f"the authors' script is not readable Python ({error})") from error
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    pieces = list(dict.fromkeys(one for one in constants if isinstance(one, str)))
    pieces = sorted(pieces, key=len, reverse=True)[:_MOST_TEXTS]
    names = {digest: name for name, digest in wanted.items()}
    found: dict[str, str] = {}
    for size in range(1, _MOST_PARTS + 1):
        for parts in itertools.permutations(pieces, size):
            text = "".join(parts).replace("<instruction>", "{instruction}")
            name = names.get(hashlib.sha256(text.encode()).hexdigest())
            if name is not None:
                found[name] = text
        if len(found) == len(wanted):
            return found
    missing = next(name for name in wanted if name not in found)
    raise WordingError(
        f"the authors' script does not hold the text {missing} in a form that can be read; write "
        "to the project, or use --protocol kit for our own wording"
    )


def fetch_context_items(repo: str = CONTEXT_DATASET) -> tuple[Path, int]:
    """Write items and references of a dataset into the data folder; what is there is kept.

    Raises:
        Echo4oError: the dataset has other columns.
    """
    commit = resolve(repo, "dataset", None)
    path = data_folder() / ITEM_FILES["omnicontext"].name
    rows = [json.dumps(row, ensure_ascii=False) for row in _context_rows(repo, commit, path.parent)]
    write_atomic(path.parent / "source.json", json.dumps({"repo": repo, "commit": commit}) + "\n")
    write_atomic(path, "\n".join(rows) + "\n")
    return path, len(rows)


def _context_rows(repo: str, commit: str, folder: Path) -> Iterator[dict[str, Any]]:
    from datasets import Image, List

    opened = patiently(f"open {repo}", lambda: builder(repo, None, commit))
    data = opened.as_streaming_dataset(split="train")
    columns = list(data.features or {})
    needed = ("key", "task_type", "instruction", "instruction_language", "input_images")
    missing = [name for name in needed if name not in columns]
    if missing:
        raise Echo4oError(
            f"the dataset {repo} has no column {missing[0]}, only {', '.join(columns)}; items are "
            f"read from one with {', '.join(needed)}"
        )
    data = data.select_columns(list(needed)).cast_column("input_images", List(Image(decode=False)))
    for row in tqdm(data, desc="items", unit="item"):
        files = []
        for picture in row["input_images"]:
            content = picture["bytes"]
            if not content:
                raise Echo4oError(f"item {row['key']} of {repo} has a reference without a picture")
            name = f"references/{hashlib.sha256(content).hexdigest()[:24]}"
            file = f"{name}.{picture_facts(content).extension}"
            if not (folder / file).is_file():
                write_atomic(folder / file, content)
            files.append(file)
        yield {**row, "input_images": files}

"""The authors' items and judge wording as files of this machine; they are data, never part of us.

`echo4o eval fetch` fills the folder. Where a wording was never fetched, asking for it is an error
that names the command; nothing else is used in its place.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from echo4o.errors import Echo4oError

COMMIT = "28f36d76558e5f53b9deceda78bf025ef0d0ea24"
"""Of the authors' repository; everything is taken from there."""
REPOSITORY = "yejy53/Echo-4o"
_HOLE = re.compile(r"\{(\w+)\}")


class WordingError(Echo4oError):
    """Items or wording of the authors that are not here, or are not what they should be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What belongs to one task in the authors' repository."""

    items: str
    """Name of the items file, under `test_scripts/`."""
    items_sha256: str
    script: str
    """Name of the script that holds the judge wording, under `test_scripts/`."""
    script_sha256: str
    holes: tuple[str, ...]
    """What is filled into the wording, in order."""


SOURCES = {
    "geneval_plus_plus": Source(
        items="Geneval++.jsonl",
        items_sha256="9c1216a3f6fe2d99e4ffd63f3a6dba71f3dd7ab30a7c09cb41f03629b35d3e8f",
        script="Eval-gpt-4.1-geneval++.py",
        script_sha256="59329c7db829f4ee9837a33d90b2e111297752348217401c362407b20bdd6f83",
        holes=("instruction", "checklist"),
    ),
    "imagine_bench": Source(
        items="Imagine.jsonl",
        items_sha256="e22e33dd5e2722b9fedfb7ecddeb56841ec6ea93b3f0246a04d8dd374ab5a19e",
        script="Eval-gpt-4.1-Imagine.py",
        script_sha256="0dd6a1214c6b1fa9007d915bcf5cc7c3cf4a900db5b3de3c8d83c20af0d844d3",
        holes=("instruction", "note"),
    ),
}


@dataclass(frozen=True, slots=True)
class ItemFile:
    """Items of a task whose wording is no system and user text in the authors' script."""

    name: str
    """Under the data folder."""
    sha256: str | None
    """None where nobody published one; it stands in every result."""
    path: str = ""
    """In the authors' repository; empty where it is elsewhere."""


_GENEVAL = "eval/gen/geneval/prompts"
ITEM_FILES = {
    "geneval": ItemFile(
        "geneval/evaluation_metadata.jsonl",
        "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
        f"{_GENEVAL}/evaluation_metadata.jsonl",
    ),
    "geneval_rewritten": ItemFile(
        "geneval/evaluation_metadata_long.jsonl",
        "09472cc9c24e225417b1d5df27e688e5f2a0fcac9ec772f33d9debe4e5d49f27",
        f"{_GENEVAL}/evaluation_metadata_long.jsonl",
    ),
    "dpg_bench": ItemFile("dpg_bench/dpg_bench.csv", None),
    "omnicontext": ItemFile("omnicontext/items.jsonl", None),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """The authors' words to a judge."""

    system: str
    """The judge's task."""
    user: str
    """The question; `{instruction}` and the like stand where an item's texts go."""

    def fill(self, texts: Mapping[str, str]) -> str:
        """Return the question about one item; braces inside its texts stay as they are."""
        return _HOLE.sub(lambda hole: texts.get(hole[1], hole[0]), self.user)

    @property
    def version(self) -> str:
        """Short hash, kept with every result."""
        return hashlib.sha256(f"{self.system}\0{self.user}".encode()).hexdigest()[:12]


def data_folder() -> Path:
    """Return where fetched data lies: $ECHO4O_BENCHMARKS, else a folder in the user's cache."""
    if chosen := os.environ.get("ECHO4O_BENCHMARKS"):
        return Path(chosen)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "echo4o" / "benchmarks" / COMMIT[:12]


def wording_file(task: str) -> Path:
    """Return where the wording of a task lies once it is fetched."""
    return data_folder() / "protocols" / f"{task}.json"


def load_wording(task: str) -> Wording:
    """Return the authors' wording of a task.

    Raises:
        WordingError: it was never fetched, or the file is damaged.
    """
    path = wording_file(task)
    try:
        value = json.loads(path.read_bytes())
        wording = Wording(system=value["system"], user=value["user"])
    except FileNotFoundError as error:
        raise WordingError(
            f"the judge wording of the authors of {task} is not on this machine ({path}); get it "
            f"with `echo4o eval fetch {task}`, or use --protocol kit for our own wording"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise WordingError(f"{path} is damaged ({error!r}); run `echo4o eval fetch`") from error
    missing = [hole for hole in SOURCES[task].holes if "{" + hole + "}" not in wording.user]
    if missing:
        raise WordingError(f"{path} has no place for {missing[0]}; run `echo4o eval fetch`")
    return wording


def authors_items(task: str) -> Path:
    """Return the authors' items file of a task, its hash checked.

    Raises:
        WordingError: it was never fetched, or it is not the file of the pinned commit.
    """
    if task in SOURCES:
        name, wanted = SOURCES[task].items, str(SOURCES[task].items_sha256)
    else:
        name, wanted = ITEM_FILES[task].name, ITEM_FILES[task].sha256 or ""
    path = data_folder() / name
    if not path.is_file():
        raise WordingError(
            f"the items of the authors of {task} are not on this machine ({path}); get them with "
            f"`echo4o eval fetch {task.removesuffix('_rewritten')}`, or use --items kit for our own"
        )
    if not wanted:
        return path
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wanted:
        raise WordingError(
            f"{path} has SHA-256 {found[:12]}, not {wanted[:12]} as in commit "
            f"{COMMIT[:12]}; run `echo4o eval fetch {task}`, or give it as --items {path}"
        )
    return path

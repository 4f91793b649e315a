"""Facts of a metric from its folder: the front matter and page of its README, and its module.

The module is read as text and never run.
"""

import ast
import json
import re
from pathlib import Path
from typing import Literal, NamedTuple, cast

from .facts import MetricFacts
from .gather import page_facts
from .render import CardError, front_matter


def metric_facts(folder: Path, *, repo_id: str | None = None) -> MetricFacts:
    """Facts of a metric folder: its front matter and page, and its module, which is not run.

    Raises:
        CardError: there is no module in it, or none that can be read.
        GatherError: the front matter says too little.
    """
    text = (folder / "README.md").read_text(encoding="utf-8")
    matter, page = front_matter(text), text.split("---\n", 2)[2]
    name = _module_name(folder)
    told = _module_facts(folder / f"{name}.py")
    opening, *parts = re.split(r"^## ", page, flags=re.M)
    example = re.search(r"^```python\n(.*?)^```", opening, re.M | re.S)
    about = opening.partition("```")[0].partition("\n\n")[2].strip()
    sections = [part.partition("\n") for part in parts]
    kept = tuple((head.strip(), body.strip()) for head, _, body in sections if head != "Citation")
    load = f"evaluate.load({json.dumps(repo_id or name)})"
    snippet = re.sub(r"evaluate\.load\([^)]*\)", load, example[1].strip()) if example else None
    return MetricFacts(
        name=name,
        repo_id=repo_id,
        **page_facts(matter),
        about=about or None,
        example=snippet,
        asks=told.asks,
        is_local_possible="local:" in told.inputs,
        sections=kept,
        citation=told.citation,
    )


class _Module(NamedTuple):
    """What the source of an `evaluate` module says."""

    citation: str | None
    inputs: str
    asks: Literal["judge", "detector"] | None


def _module_name(folder: Path) -> str:
    """The module beside `app.py`; the folder of a download may be called anything."""
    found = [
        path.stem
        for path in sorted(folder.glob("*.py"))
        if "evaluate.Metric" in path.read_text(encoding="utf-8")
    ]
    if len(found) != 1:
        raise CardError(f"{folder} holds {len(found)} `evaluate` modules; a metric has one")
    return found[0]


def _module_facts(path: Path) -> _Module:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise CardError(f"{path.name} is no Python module: {error}") from None
    texts, asks = dict[str, str](), None
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            target = node.targets[0]
            if isinstance(target, ast.Name) and isinstance(node.value.value, str):
                texts[target.id] = node.value.value
        elif isinstance(node, ast.FunctionDef) and node.name == "_compute":
            names = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
            asks = next((one for one in ("judge", "detector") if one in names), None)
    citation = texts.get("_CITATION", "").strip() or None
    return _Module(citation, texts.get("_INPUTS", ""), cast(Literal["judge", "detector"], asks))

"""Cards as Markdown: front matter through huggingface_hub's classes, text through templates.

Every value that a template prints is made harmless first, unless a filter has done so already.
"""

import json
import re
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from echo4o.errors import Echo4oError, printable
from echo4o.records import JsonValue

from .facts import DatasetFacts, MetricFacts, ModelFacts, PageFacts, ScoreFact, SpaceFacts

if TYPE_CHECKING:
    from huggingface_hub import CardData
    from jinja2 import Environment

PAPER = "2508.09987"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))
_PIPELINE_TAGS = {"bagel": "any-to-any", "omnigen2": "image-to-image", "blip3o": "text-to-image"}
_MARKUP = {ord(c): f"\\{c}" for c in "\\`*_[]{}|#~!$"} | {ord("<"): "&lt;", ord(">"): "&gt;"}


class CardError(Echo4oError):
    """A card's front matter is missing or is not YAML."""


class Safe(str):
    """Text that may stand in a card as it is."""

    __slots__ = ()


def render_dataset_card(facts: DatasetFacts) -> str:
    """The README.md of a dataset repository.

    Args:
        facts: What is known; `configs` must be the entries that `load_dataset` shall read.

    Returns:
        Front matter and text; the same facts always give the same bytes.
    """
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        pretty_name=_plain(facts.name),
        license=facts.license,
        language=["en"],
        task_categories=["text-to-image", "image-to-image"],
        size_categories=None if facts.rows is None else [_size(facts.rows)],
        tags=[_plain(tag) for tag in facts.tags] + [f"arxiv:{PAPER}"],
        configs=[dict(entry) for entry in facts.configs] or None,
    )
    return _card(data, "dataset.md.jinja", facts=facts)


def render_model_card(facts: ModelFacts) -> str:
    """The README.md of a model repository, with its scores in the metadata as well."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-to-image",
            dataset_type=_plain(score.task),
            dataset_name=_plain(f"{score.task} ({score.items_name})"),
            metric_type="accuracy" if score.scale == 1 else f"mean points of {score.scale:g}",
            metric_name=f"judged by {_plain(score.judge)}, protocol {_plain(score.protocol)}",
            metric_value=round(score.score, 4),
        )
        for score in facts.scores
        if score.tag == "overall"
    ]
    adapter = ["lora"] if facts.is_adapter else []
    data = ModelCardData(
        license=facts.license,
        language=["en"],
        library_name="echo4o",
        pipeline_tag=_PIPELINE_TAGS[facts.family],
        base_model=None if facts.base_model is None else _plain(facts.base_model.id),
        datasets=[_plain(one.id) for one in facts.datasets if "/" in one.id] or None,
        tags=["echo-4o", facts.family, *adapter, "text-to-image", f"arxiv:{PAPER}"],
        model_name=_plain(facts.name) if results else None,
        eval_results=results or None,
        **({"base_model_relation": "adapter"} if facts.is_adapter and facts.base_model else {}),
    )
    return _card(data, "model.md.jinja", facts=facts)


def render_space_card(facts: SpaceFacts) -> str:
    """The README.md of a Space, front matter complete."""
    data = _space_data(
        facts,
        suggested_hardware=facts.hardware,
        startup_duration_timeout=facts.startup,
        models=None if facts.model is None else [_plain(facts.model)],
        tags=[_plain(tag) for tag in facts.tags] or None,
    )
    return _card(data, "space.md.jinja", facts=facts)


def render_metric_card(facts: MetricFacts) -> str:
    """The README.md of a metric: a Space that `evaluate.load` takes as well."""
    data = _space_data(facts, pinned=False, tags=["evaluate", "metric", "text-to-image"])
    return _card(data, "metric.md.jinja", facts=facts)


def _space_data(facts: PageFacts, **more: Any) -> "CardData":
    from huggingface_hub import SpaceCardData

    return SpaceCardData(
        title=_plain(facts.title),
        emoji=facts.emoji,
        colorFrom=facts.color_from,
        colorTo=facts.color_to,
        sdk="gradio",
        sdk_version=facts.sdk_version,
        python_version=facts.python_version,
        app_file="app.py",
        license=facts.license,
        **more,
        short_description=None if facts.summary is None else _plain(facts.summary),
    )


def front_matter(card: str) -> dict[str, JsonValue]:
    """The YAML between the first two `---` lines.

    Raises:
        CardError: there is none, or it is not a YAML mapping.
    """
    parts = card.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        raise CardError("the card has no front matter: it must begin with a line `---`")
    try:
        matter = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise CardError(f"the front matter is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(matter, dict):
        raise CardError(f"the front matter must be a mapping, got {type(matter).__name__}")
    return matter


def harmless(value: object) -> str:
    """`value` as plain text in a paragraph or table cell: no markup, no HTML, one line."""
    if isinstance(value, Safe):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    text = _plain(str(value)).replace("&", "&amp;").translate(_MARKUP)
    # A bare address would be made a link.
    return text.replace("://", ":\u200b//").replace("www.", "www\u200b.")


def code(value: object) -> Safe:
    """`value` as inline code, whatever it contains."""
    text = _plain(str(value)).replace("|", "\u2502")
    fence = "`" * (1 + max((len(run) for run in _runs(text, "`")), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return Safe(f"{fence}{pad}{text}{pad}{fence}")


def literal(value: object) -> Safe:
    """`value` as a string literal for a Python snippet; a fence cannot be closed from inside."""
    return Safe(json.dumps(_plain(str(value))).replace("`", "\\u0060"))


def link(value: object) -> Safe:
    """An http(s) address as a link; anything else as code, so that it cannot be followed."""
    text = _plain(str(value))
    allowed = text.startswith(("https://", "http://")) and not set(text) & set(' <>"\\`')
    return Safe(f"<{text}>") if allowed else code(text)


def path(value: object) -> Safe:
    """A file inside the repository as a link target; quoting leaves no way out of the brackets."""
    return Safe(urllib.parse.quote(_plain(str(value)).lstrip("/").replace("..", ".")))


def interval(score: ScoreFact) -> Safe:
    """A score with its interval: a share in percent, points out of their scale."""
    if score.scale == 1:
        return Safe(f"{score.score:.1%} [{score.low:.1%}, {score.high:.1%}]")
    points = f"{score.score:.3f} [{score.low:.2f}, {score.high:.2f}]"
    return Safe(f"{points} of {score.scale:g}")


def _card(data: "CardData", template: str, **values: object) -> str:
    # sort_keys is the library's default of False: the order above is the order on the page.
    header = data.to_yaml(line_break="\n")
    body = _environment().get_template(template).render(values, paper=PAPER)
    body = re.sub(r"\n{3,}", "\n\n", body.strip())
    return f"---\n{header.strip()}\n---\n\n{body}\n"


def _environment() -> "Environment":
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        finalize=harmless,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown: `harmless` escapes, HTML and markup alike
    )
    made.filters.update(code=code, literal=literal, link=link, interval=interval, count=_count)
    made.filters.update(path=path, safe_block=Safe)
    return made


def _count(value: int) -> Safe:
    return Safe(f"{value:,}")


def _plain(text: str) -> str:
    """One line of printable characters, at most 2,000."""
    return printable(text)[:2_000]


def _runs(text: str, character: str) -> list[str]:
    kept = "".join(c if c == character else " " for c in text)
    return kept.split()


def _size(rows: int) -> str:
    return next((name for top, name in _SIZES if rows < top), "n>1M")

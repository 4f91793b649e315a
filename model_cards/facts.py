"""What a card can say, as typed facts. None or empty means "not known", and the card says so.

`gather.py` fills them from files; a caller may also fill them itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from echo4o.records import Input, JsonValue, RunRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Something that a model was built from."""

    name: str
    """Hub id or plain name."""
    role: str
    """What it does in the model, for example `image autoencoder`."""
    license: str | None = None
    """SPDX identifier."""
    sha256: str | None = None
    """Hash of the file that was used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreFact:
    """One score with its 95 % interval."""

    task: str
    """Benchmark, for example `geneval_plus_plus`."""
    tag: str
    """`overall`, or the part of the benchmark."""
    score: float
    """Share in [0, 1], or mean points up to `scale`."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    items: int
    """Items in the denominator."""
    judge: str
    """Model id of the judge."""
    protocol: str
    """How the judge was asked."""
    items_name: str = "kit"
    """Item set."""
    scale: float = 1.0
    """Best possible score: 1 for shares, 10 for points."""

    def __post_init__(self) -> None:
        # A mark that could not be read counts -1 under the authors' rules.
        least = 0 if self.scale == 1 else -1
        if not least <= self.low <= self.score <= self.high <= self.scale:
            raise ValueError(
                f"`{self.task}` {self.tag}: need {least} <= low <= score <= high <= "
                f"{self.scale:g}, got {self.low}, {self.score}, {self.high}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFacts:
    """Facts of a dataset card."""

    name: str
    """Name of the dataset, for example `echo-4o-image`."""
    repo_id: str | None = None
    """Hub id; without it the snippets load from a folder of that name."""
    origin: str | None = None
    """One sentence: where the rows come from."""
    is_of_paper: bool = True
    """Whether they are made as the paper does it."""
    license: str | None = None
    """Hub licence identifier of the pictures."""
    tags: tuple[str, ...] = ("synthetic",)
    """Hub tags."""
    rows: int | None = None
    """Rows of the config `all`, all splits."""
    by_subset: Mapping[str, int] = field(default_factory=dict)
    """Subset -> rows."""
    by_category: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Subset -> category -> rows."""
    about: Mapping[str, str] = field(default_factory=dict)
    """Subset -> what it holds, in a few words."""
    by_split: Mapping[str, int] = field(default_factory=dict)
    """Split -> rows."""
    row_format: int | None = None
    """Version of the row's fields."""
    most_previews: int = 300
    """Rows of the config `preview`, at most."""
    configs: tuple[Mapping[str, JsonValue], ...] = ()
    """`configs:` entries of the front matter, as the builder wrote them."""
    generators: Mapping[str, int] = field(default_factory=dict)
    """Generator id -> rows."""
    cost_usd: float | None = None
    """What the pictures cost."""
    checks: tuple[str, ...] = ()
    """What was checked and found, as lines of Markdown that we wrote."""
    signed: tuple[str, ...] = ()
    """The generator's terms and more as somebody signed it, as lines of Markdown that we wrote."""
    versions: tuple[str, ...] = ()
    """What changed since the first version, as lines of Markdown that we wrote."""
    pictures: tuple[str, ...] = ()
    """Example pictures, paths inside the repository."""
    limits: tuple[str, ...] = ()
    """Known limits, one sentence each."""
    contact: str | None = None
    """Address for take-down requests."""
    record: RunRecord | None = None
    """How it was built."""
    has_record: bool = False
    """Whether the repository holds that record although it is not given here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """Facts of a model card."""

    name: str
    """Name of the model, for example `echo-4o-tiny`."""
    repo_id: str | None = None
    """Hub id; without it the snippets load from a folder of that name."""
    license: str | None = None
    """Hub licence identifier of the weights."""
    family: Literal["bagel", "omnigen2", "blip3o"] = "bagel"
    """Architecture."""
    is_adapter: bool = False
    """Whether the repository holds an adapter that needs its base model."""
    base_model: Input | None = None
    """What training started from; None for random weights or when it is not known."""
    datasets: tuple[Input, ...] = ()
    """What it was trained on."""
    parts: tuple[Part, ...] = ()
    """The whole chain: language model, vision tower, autoencoder."""
    parameters: int | None = None
    """Number of parameters, without the autoencoder."""
    picture_side: int | None = None
    """Longest side in pixels that it was trained for."""
    scores: tuple[ScoreFact, ...] = ()
    """Benchmark scores."""
    pictures: tuple[str, ...] = ()
    """Example pictures, paths inside the repository."""
    limits: tuple[str, ...] = ()
    """Known limits, one sentence each."""
    contact: str | None = None
    """Address for take-down requests."""
    record: RunRecord | None = None
    """How it was trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageFacts:
    """What the Hub reads of any Space to list and build it."""

    title: str
    """Title on the Hub."""
    emoji: str
    """The Hub insists on one."""
    color_from: str
    """Thumbnail."""
    color_to: str
    """Thumbnail."""
    sdk_version: str
    """Gradio version."""
    python_version: str
    """Python of the Space."""
    license: str | None = None
    """Licence of the Space's code."""
    summary: str | None = None
    """At most 60 characters, shown on the Hub."""

    def __post_init__(self) -> None:
        if self.summary is not None and len(self.summary) > 60:
            raise ValueError(f"`summary` may have 60 characters, got {len(self.summary)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricFacts(PageFacts):
    """Facts of a metric: a Space that is also an `evaluate` module."""

    emoji: str = "\U0001f4cf"
    color_from: str = "blue"
    color_to: str = "gray"
    name: str
    """Of its module."""
    repo_id: str | None = None
    """Hub id; without it the snippet loads from a folder of that name."""
    about: str | None = None
    """What it measures, as Markdown that we wrote."""
    example: str | None = None
    """A snippet that computes it."""
    asks: Literal["judge", "detector"] | None = None
    """Who looks at the pictures."""
    is_local_possible: bool = False
    """Whether the judge may be a model of the reader's machine."""
    sections: tuple[tuple[str, str], ...] = ()
    """Heading and Markdown that we wrote: how to read the scores, limits."""
    citation: str | None = None
    """BibTeX of the benchmark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpaceFacts(PageFacts):
    """Facts of a Space card."""

    emoji: str = "\U0001f317"
    color_from: str = "indigo"
    color_to: str = "yellow"
    hardware: str | None = None
    """Suggested hardware."""
    tags: tuple[str, ...] = ()
    """Hub tags."""
    model: str | None = None
    """Hub id that it loads."""
    model_revision: str | None = None
    """Commit or tag of that model."""
    startup: str = "1h"
    """How long the Hub waits for it to start."""
    page: str | None = None
    """What its folder says about it, as Markdown that we wrote; None for what facts give."""

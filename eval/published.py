"""Scores that others published, with their source: beside a report's own, never among them.

Nobody here has repeated any of them. They were judged by models that are being retired, mostly on
one picture per item, without error bars.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

_RADAR = "Echo-4o (arXiv 2508.09987), radar figure"
_MIND_BRUSH = "Mind-Brush, table 4"
_TAGS = (
    "color_attr",
    "counting",
    "color_count_attr",
    "color_spatial_attr",
    "spatial_count_attr",
    "size_spatial_attr",
    "multi_object_count_attr",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One row of somebody's table."""

    model: str
    overall: float
    """On the task's scale, as printed there."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Scores by tag or group, as printed there."""
    source: str
    """Where it stands."""


def _row(model: str, overall: float, *parts: float) -> Published:
    return Published(
        model=model,
        overall=overall,
        parts=dict(zip(_TAGS, parts, strict=True)),
        source=_MIND_BRUSH,
    )


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "geneval_plus_plus": (
        Published(model="Echo-4o", overall=0.679, source=_RADAR),
        Published(model="BAGEL", overall=0.37, source=_RADAR),
        Published(model="OmniGen2", overall=0.33, source=_RADAR),
        Published(model="BLIP3-o", overall=0.31, source=_RADAR),
        _row("GPT-4o", 0.739, 0.900, 0.675, 0.725, 0.625, 0.600, 0.800, 0.850),
        _row("Qwen-Image", 0.668, 0.875, 0.725, 0.725, 0.600, 0.475, 0.725, 0.550),
        _row("BAGEL", 0.371, 0.325, 0.600, 0.250, 0.325, 0.250, 0.475, 0.375),
        _row("FLUX.1-dev", 0.325, 0.400, 0.600, 0.250, 0.250, 0.075, 0.400, 0.300),
        _row("T2I-R1", 0.311, 0.675, 0.325, 0.200, 0.350, 0.075, 0.250, 0.300),
        _row("Janus-Pro-7B", 0.246, 0.450, 0.300, 0.125, 0.300, 0.075, 0.350, 0.125),
    ),
    "imagine_bench": (
        Published(model="Echo-4o", overall=7.80, source=_RADAR),
        Published(model="BLIP3-o", overall=6.51, source=_RADAR),
        Published(model="OmniGen2", overall=6.22, source=_RADAR),
        Published(
            model="BAGEL",
            overall=6.20,
            parts={
                "Attribute shift": 5.37,
                "Hybridization": 6.50,
                "Spatiotemporal": 6.93,
                "Multi-Object": 6.41,
            },
            source=f"{_RADAR}; Mind-Brush, table 5",
        ),
    ),
}
"""By task; the published reading of Imagine-Bench is `paper`, multi-object group included."""

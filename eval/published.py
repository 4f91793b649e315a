"""Scores that others published, with their source: beside a report's own, never among them.

Nobody here has repeated any of them. They were judged by models that are being retired, mostly on
one picture per item, without error bars. Where a source prints no parts, none are given.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

_RADAR = "Echo-4o (arXiv 2508.09987), radar figure"
_AFTER = "Echo-4o, with Echo-4o-Image added"
_MIND_BRUSH = "Mind-Brush, tables 4 and 5"
_GVU = "GvU"
_ONE_PAPER = "one follower's table, not cross-checked"
_TAGS = (
    "color_attr",
    "counting",
    "color_count_attr",
    "color_spatial_attr",
    "spatial_count_attr",
    "size_spatial_attr",
    "multi_object_count_attr",
)
_GROUPS = ("Attribute shift", "Spatiotemporal", "Hybridization", "Multi-Object")


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


def _row(model: str, overall: float, *parts: float | None, source: str) -> Published:
    """A row; `parts` in the order of the tags (seven) or groups (four), None where not printed."""
    names = _TAGS if len(parts) == len(_TAGS) else _GROUPS[: len(parts)]
    printed = {name: part for name, part in zip(names, parts, strict=True) if part is not None}
    return Published(model=model, overall=overall, parts=printed, source=source)


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "geneval_plus_plus": (
        _row("Echo-4o", 0.679, source=_RADAR),
        _row("BAGEL", 0.37, source=_RADAR),
        _row("OmniGen2", 0.33, source=_RADAR),
        _row("BLIP3-o", 0.31, source=_RADAR),
        _row("OmniGen2 + Echo-4o-Image", 0.47, source=_AFTER),
        _row("BLIP3-o + Echo-4o-Image", 0.44, source=_AFTER),
        _row("Echo-4o", 0.679, None, 0.575, None, None, None, None, 0.625, source="R3"),
        _row("GPT-4o", 0.739, 0.900, 0.675, 0.725, 0.625, 0.600, 0.800, 0.850, source=_MIND_BRUSH),
        _row(
            "Qwen-Image", 0.668, 0.875, 0.725, 0.725, 0.600, 0.475, 0.725, 0.550, source=_MIND_BRUSH
        ),
        _row("BAGEL", 0.371, 0.325, 0.600, 0.250, 0.325, 0.250, 0.475, 0.375, source=_MIND_BRUSH),
        _row(
            "FLUX.1-dev", 0.325, 0.400, 0.600, 0.250, 0.250, 0.075, 0.400, 0.300, source=_MIND_BRUSH
        ),
        _row("FLUX.1-dev", 0.314, 0.350, 0.625, None, 0.275, 0.200, 0.375, 0.225, source=_GVU),
        _row("T2I-R1", 0.311, 0.675, 0.325, 0.200, 0.350, 0.075, 0.250, 0.300, source=_MIND_BRUSH),
        _row(
            "Janus-Pro-7B",
            0.246,
            *(0.450, 0.300, 0.125, 0.300, 0.075, 0.350, 0.125),
            source=_MIND_BRUSH,
        ),
        _row("X-Omni", 0.282, 0.225, 0.500, None, 0.325, 0.150, 0.475, 0.275, source=_GVU),
        _row(
            "PromptEnhancer",
            0.382,
            *(0.500, 0.625, 0.225, 0.375, 0.125, 0.450, 0.375),
            source=_ONE_PAPER,
        ),
        _row(
            "ReflectionFlow",
            0.361,
            *(0.400, 0.625, 0.275, 0.275, 0.200, 0.425, 0.325),
            source=_ONE_PAPER,
        ),
        _row(
            "GenAgent (FLUX)",
            0.725,
            *(0.775, 0.775, 0.650, 0.800, 0.600, 0.725, 0.750),
            source=_ONE_PAPER,
        ),
        _row(
            "Mind-Brush (Qwen-Image)",
            0.782,
            *(0.775, 0.700, 0.775, 0.750, 0.850, 0.775, 0.850),
            source=_ONE_PAPER,
        ),
        _row("UAE", 0.475, None, None, 0.550, None, 0.450, None, None, source="UAE"),
        _row("R3", 0.689, None, 0.725, None, None, None, None, 0.800, source="R3"),
        _row("DraCo (BAGEL)", 0.40, source="DraCo (arXiv 2512.05112)"),
    ),
    "imagine_bench": (
        _row("Echo-4o", 7.80, source=_RADAR),
        _row("BLIP3-o", 6.51, source=_RADAR),
        _row("OmniGen2", 6.22, source=_RADAR),
        _row("OmniGen2 + Echo-4o-Image", 7.01, source=_AFTER),
        _row("BLIP3-o + Echo-4o-Image", 7.37, source=_AFTER),
        _row("BAGEL", 6.20, 5.37, 6.93, 6.50, 6.41, source=f"{_RADAR}; {_MIND_BRUSH}"),
        _row("GPT-4o", 8.56, 8.54, 9.18, 8.57, 7.98, source=_ONE_PAPER),
        _row("Mind-Brush", 7.862, 7.416, 8.167, 8.557, 7.533, source=_ONE_PAPER),
        _row("GenAgent", 7.794, 7.613, 7.547, 8.343, 7.763, source=_ONE_PAPER),
        _row("CoF-T2I", 7.468, source=_ONE_PAPER),
        _row("Qwen-Image", 7.329, 6.771, 7.193, 8.130, 7.500, source=_ONE_PAPER),
        _row("T2I-R1", 6.78, 5.85, 7.70, 7.36, 6.68, source=_ONE_PAPER),
        _row("PromptEnhancer", 6.281, 5.489, 6.213, 7.327, 6.493, source=_ONE_PAPER),
        _row("Janus-Pro-7B", 6.22, 5.30, 7.28, 6.73, 6.04, source=_ONE_PAPER),
        _row("FLUX.1-dev", 6.072, 5.298, 6.350, 7.053, 5.973, source=_ONE_PAPER),
        _row("Wan2.1-T2V-14B", 5.939, source="CoF-T2I, its base"),
    ),
}
"""By task; the published reading of Imagine-Bench is `paper`, multi-object group included."""

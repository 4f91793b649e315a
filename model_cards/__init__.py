"""Cards rendered from records only: what a record does not say is left out or named as missing.

A leaf: the other spokes may import it, it imports none of them.
"""

from .facts import DatasetFacts, MetricFacts, ModelFacts, Part, ScoreFact, SpaceFacts
from .render import (
    render_dataset_card,
    render_metric_card,
    render_model_card,
    render_space_card,
)

__all__ = [
    "DatasetFacts",
    "MetricFacts",
    "ModelFacts",
    "Part",
    "ScoreFact",
    "SpaceFacts",
    "render_dataset_card",
    "render_metric_card",
    "render_model_card",
    "render_space_card",
]

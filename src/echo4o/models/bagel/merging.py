"""Completing a checkpoint with tensors of another one; nothing that it has is changed.

Fine-tuning without pictures as input writes checkpoints without the vision tower; the base model
they started from has it.
"""

import logging
from pathlib import Path

from ..checkpoint import CheckpointError, check_tensors
from . import assembly, weights
from .checkpoint import Located, locate
from .configuration import BagelConfig
from .inspection import read_facts
from .reading import read_model

logger = logging.getLogger(__name__)

_OF_VISION = ("vision_config", "vit_transform", "vit_max_num_patch_per_side")


def complete(located: Located, base: str | Path) -> assembly.Components:
    """All components of a checkpoint, with the tensors it lacks taken from a base model.

    They take the type of the checkpoint; its own are kept bit for bit.

    Raises:
        CheckpointError: nothing is missing, or what is missing does not fit or is not in the base.
    """
    own, _, config = read_facts(located)
    others, _, base_config = read_facts(locate(base))
    config = _with_vision_of(config, base_config)
    expected = weights.expected_tensors(config)
    missing = [name for name in expected if name not in own]
    if not missing:
        raise CheckpointError(f"{located.folder} lacks no tensor; leave the base out")
    taken = {name: others[name] for name in missing if name in others}
    check_tensors({**own, **taken}, expected, located.folder, "choose a base that has all of them")
    logger.info("taking %d of %d tensors from %s", len(taken), len(expected), base)
    model = read_model({**own, **taken}, config, dtype=weights.main_dtype(own))
    return assembly.Components(model.eval(), *assembly.load_rest(located))


def _with_vision_of(config: BagelConfig, base: BagelConfig) -> BagelConfig:
    """The base knows the vision tower best: a checkpoint without it may lack its settings too."""
    if not base.visual_und:
        return config
    values = {name: getattr(base, name) for name in _OF_VISION}
    return BagelConfig.from_dict(config.to_dict() | values | {"visual_und": True})

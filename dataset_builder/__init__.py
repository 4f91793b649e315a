"""From an idea, or from the authors' release, to a dataset that `load_dataset` loads."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .build import build as build
    from .echo4o_image import Echo4oImage as Echo4oImage
    from .generate import Api as Api
    from .generate import Settings as Settings
    from .generate import generate as generate
    from .importing import import_release as import_release
    from .shapes import plan_shapes as plan_shapes

_HOME = {
    "Api": "generate",
    "Echo4oImage": "echo4o_image",
    "Settings": "generate",
    "build": "build",
    "generate": "generate",
    "import_release": "importing",
    "plan_shapes": "shapes",
}
__all__ = [
    "Api",
    "Echo4oImage",
    "Settings",
    "build",
    "generate",
    "import_release",
    "plan_shapes",
]


def __getattr__(name: str) -> object:
    """Import the module that holds `name` (PEP 562), so that the command line starts fast."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

"""Echo4o: from prompts to a verified Hub release of a synthetic-image dataset and its model.

Names are loaded on first use, so that `import echo4o` needs neither torch nor datasets.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import Echo4oError as Echo4oError
    from .loading import load_dataset as load_dataset
    from .models.bagel.pipeline import Echo4oPipeline as Echo4oPipeline
    from .records import RunRecord as RunRecord
    from .schema import Row as Row

__version__ = "0.1.0"

_HOME = {
    "Echo4oError": "echo4o.errors",
    "Echo4oPipeline": "echo4o.models.bagel.pipeline",
    "Row": "echo4o.schema",
    "RunRecord": "echo4o.records",
    "load_dataset": "echo4o.loading",
}
__all__ = ["Echo4oError", "Echo4oPipeline", "Row", "RunRecord", "__version__", "load_dataset"]


def __getattr__(name: str) -> object:
    """Import the module that holds `name` (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'echo4o' has no attribute {name!r}; it has {__all__}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """List the public names without loading them."""
    return __all__

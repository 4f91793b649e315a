"""What the training loop asks of a model family; the loop knows no model.

A family says how rows become a batch, what the loss is, which parameter groups exist and how the
model is saved. BAGEL (bagel.py) is the first.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch import nn
from torch.nn import Parameter

from .feed import Loaded
from .loss import Counts, LossSums
from .order import Visit


class Batch(Protocol):
    """A collated pack on its device, with all its random draws made."""

    @property
    def counts(self) -> Counts:
        """Tokens that carry a loss."""

    @property
    def tokens(self) -> int:
        """All tokens, after dropout."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of its rows, for error messages."""

    @property
    def flops(self) -> float:
        """Operations of its forward and backward."""

    def losses(self) -> LossSums:
        """Forward of the pack."""


class Family(Protocol):
    """One kind of model with the rows it is trained on."""

    @property
    def model(self) -> nn.Module:
        """Trained in place."""

    @property
    def subsets(self) -> tuple[str, ...]:
        """Names that losses are told apart by."""

    def prepare(self) -> list[int]:
        """Do once what would otherwise be done at every use of a row; returns the usable rows."""

    def length(self, row: int) -> int | None:
        """Tokens of a row with markers and nothing dropped, None when the row cannot be used."""

    @property
    def all_ready(self) -> bool:
        """Whether `load` only hands out what `prepare` made."""

    def load(self, visit: Visit) -> Loaded[Any]:
        """Read a row; needs no model and may be called in other processes."""

    def collate(self, loaded: Sequence[Loaded[Any]]) -> Batch | None:
        """Encode, drop, pack; rows that fail are skipped and counted, None when all do."""

    def groups(self) -> Mapping[str, Mapping[str, Parameter]]:
        """Group -> parameter name -> parameter, of all that can be trained."""

    def pictures(self, prompts: Sequence[str]) -> list[Image.Image]:
        """Draw fixed prompts with fixed noise."""

    def save(self, artefact: str, folder: Path) -> None:
        """Write one of `config.artefacts`; a model has its frozen parts too."""

"""What a call may cost at most, what it should cost, and what it did cost.

Prices are data: `prices.json` beside this file holds the sandbox's, and a file named by
ECHO4O_PRICES adds or replaces models. Provider prices change, so none are built in.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Self

from .errors import Echo4oError

ENVIRONMENT_VARIABLE = "ECHO4O_PRICES"
BUILT_IN = Path(__file__).with_name("prices.json")
_PER = 1_000_000
_TOLD = 8
"""So many models an error names."""
_NEEDED = ("input_text", "input_image", "output")


class PriceError(Echo4oError):
    """A price table that cannot be read, or a model that is not in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """Price and token rules of one model; all prices in USD per million tokens."""

    input_text: float
    """Text tokens sent."""
    input_image: float
    """Tokens of the pictures sent."""
    output: float
    """Tokens received, of text or of a picture."""
    batch_factor: float = 1.0
    """Share of the price that the Batch API charges, in (0, 1]."""
    output_max_tokens: int = 4096
    """Longest text reply when a request names no `max_tokens`."""
    output_patch: int = 16
    """Pixels per side of the patch that costs one output token at factor 1."""
    quality_factor: Mapping[str, float] = field(default_factory=dict)
    """Output tokens per patch by quality; a quality that is missing counts as the largest."""
    image_tokens: Mapping[str, int] = field(default_factory=dict)
    """Exact output tokens by "WIDTHxHEIGHT/quality", where a provider publishes such a table."""
    input_patch: int = 32
    """Pixels per side of the patch that costs one input token."""
    input_image_max_tokens: int = 1536
    """Tokens of the largest picture sent; larger ones are scaled down by the provider."""

    def __post_init__(self) -> None:
        numbers = {
            "input_text": self.input_text,
            "input_image": self.input_image,
            "output": self.output,
        }
        for name, value in numbers.items():
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f"`{name}` must be a price of 0 or more, got {value!r}")
        if not (isinstance(self.batch_factor, int | float) and 0 < self.batch_factor <= 1):
            raise ValueError(f"`batch_factor` must be in (0, 1], got {self.batch_factor!r}")
        for name in ("output_patch", "input_patch", "output_max_tokens", "input_image_max_tokens"):
            if not (isinstance(value := getattr(self, name), int) and value >= 1):
                raise ValueError(f"`{name}` must be a whole number of 1 or more, got {value!r}")
        for name in ("quality_factor", "image_tokens"):
            self._check_table(name, getattr(self, name))

    def _check_table(self, name: str, table: object) -> None:
        if not isinstance(table, Mapping):
            raise ValueError(f"`{name}` must be an object with numbers, got {table!r}")
        for key, value in table.items():
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f"`{name}` of {key!r} must be 0 or more, got {value!r}")

    @property
    def is_free(self) -> bool:
        """True when nothing this model does costs money."""
        return self.input_text == self.input_image == self.output == 0

    def output_image_tokens(self, size: str, quality: str) -> int:
        """Output tokens of one picture; `size` is "WIDTHxHEIGHT", or "auto" for the largest."""
        exact = self.image_tokens.get(f"{size}/{quality}")
        if exact is not None:
            return exact
        width, height = (1536, 1024) if size == "auto" else parse_size(size)
        patches = math.ceil(width / self.output_patch) * math.ceil(height / self.output_patch)
        largest = max(self.quality_factor.values(), default=1.0)
        return math.ceil(patches * self.quality_factor.get(quality, largest))

    def input_image_tokens(self, width: int, height: int) -> int:
        """Input tokens of one picture that is sent, in pixels."""
        patches = math.ceil(width / self.input_patch) * math.ceil(height / self.input_patch)
        return min(patches, self.input_image_max_tokens)

    def cost(self, *, text: float, images: float, output: float) -> float:
        """Price in USD of these token counts."""
        total = text * self.input_text + images * self.input_image + output * self.output
        return total / _PER


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceTable:
    """Prices by model."""

    models: Mapping[str, Price]
    source: Path
    """The file a user edits to add a model."""

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Built-in prices, with those of `path` (else of $ECHO4O_PRICES) on top.

        Raises:
            PriceError: the file is missing, is no JSON, or has a key or value that makes no sense.
        """
        models = _read(BUILT_IN)
        named = os.environ.get(ENVIRONMENT_VARIABLE)
        extra = path if path is not None else (Path(named) if named else None)
        if extra is None:
            return cls(models=models, source=BUILT_IN)
        return cls(models=models | _read(extra), source=extra)

    def price(self, model: str) -> Price:
        """The price of a model.

        Raises:
            PriceError: it is not in the table.
        """
        if model in self.models:
            return self.models[model]
        where = (
            f"add it to a price file like {self.source} and name that file in "
            f"{ENVIRONMENT_VARIABLE}"
            if self.source == BUILT_IN
            else f"add it to {self.source}"
        )
        known = ", ".join(sorted(self.models)[:_TOLD])
        raise PriceError(
            f"there is no price for model {model!r}, so no budget could be kept (there are prices "
            f"for {known}); {where} (prices of 0 for a model that costs nothing)"
        )


def text_tokens(text: str) -> int:
    """Expected tokens of a text: one per four bytes of UTF-8, rounded up."""
    return math.ceil(len(text.encode()) / 4)


def parse_size(size: str) -> tuple[int, int]:
    """Width and height of "WIDTHxHEIGHT" in pixels."""
    width, separator, height = size.partition("x")
    if not (separator and width.isdecimal() and height.isdecimal() and int(width) * int(height)):
        raise ValueError(f'`size` must be "WIDTHxHEIGHT" in pixels or "auto", got {size!r}')
    return int(width), int(height)


def _read(path: Path) -> dict[str, Price]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PriceError(f"the price table {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise PriceError(f"the price table {path} is no JSON: {error}") from error
    models = document.get("models") if isinstance(document, dict) else None
    if not isinstance(models, dict):
        raise PriceError(f'the price table {path} needs an object "models"')
    known = {item.name for item in fields(Price)}
    prices = {}
    for name, entry in models.items():
        unknown = set(entry) - known if isinstance(entry, dict) else {"(no object)"}
        if unknown:
            raise PriceError(
                f"the price table {path}: model {name!r} has unknown {sorted(unknown)}; "
                f"known are {sorted(known)}"
            )
        if missing := [f"`{one}`" for one in _NEEDED if one not in entry]:
            raise PriceError(
                f"the price table {path}: model {name!r} needs {' and '.join(missing)}, in USD for "
                f"a million tokens; it has {sorted(entry)}"
            )
        try:
            prices[name] = Price(**entry)
        except (TypeError, ValueError) as error:
            raise PriceError(f"the price table {path}: model {name!r}: {error}") from error
    return prices

"""What a plan will cost, before anything is spent: calls, tokens, money, hours."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache

from echo4o.client import PriceTable
from echo4o.records import JsonValue

from .generate import Settings
from .plan import Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Rate limits of the account, None where there is none."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    """Of everything sent and received."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"--{name.replace('_', '-')} must be above 0, got {value}")


@dataclass(kw_only=True, slots=True)
class Estimate:
    """Sums over the calls of a plan."""

    model: str
    limits: Limits
    batch_factor: float
    calls: int = 0
    text_tokens: int = 0
    picture_tokens: int = 0
    """Of references that are sent."""
    output_tokens: int = 0
    usd: float = 0.0
    by_subset: dict[str, float] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Everything sent and received."""
        return self.text_tokens + self.picture_tokens + self.output_tokens

    @property
    def hours(self) -> float | None:
        """Shortest time that the rate limits allow, None without limits."""
        minutes = [
            count / limit
            for count, limit in (
                (self.calls, self.limits.requests_per_minute),
                (self.tokens, self.limits.tokens_per_minute),
            )
            if limit is not None
        ]
        return max(minutes) / 60 if minutes else None

    def lines(self) -> Iterator[str]:
        """The estimate in words."""
        yield f"{self.calls} calls of {self.model}, about {self.usd:.2f} USD"
        yield (
            f"tokens: {self.text_tokens} of text and {self.picture_tokens} of references sent, "
            f"{self.output_tokens} received"
        )
        for subset, usd in sorted(self.by_subset.items()):
            yield f"  {subset}: {usd:.2f} USD"
        if self.batch_factor < 1:
            yield f"with the Batch API: about {self.usd * self.batch_factor:.2f} USD"
        if self.hours is None:
            yield "hours: give --requests-per-minute or --tokens-per-minute of your account"
        else:
            yield f"at least {self.hours:.1f} hours at these rate limits"

    def to_dict(self) -> dict[str, JsonValue]:
        """The estimate for a record."""
        return {**asdict(self), "tokens": self.tokens, "hours": self.hours}


class Estimator:
    """Adds up plan entries one at a time; a reference must come before the rows that need it."""

    def __init__(
        self, settings: Settings, prices: PriceTable, limits: Limits | None = None
    ) -> None:
        price = prices.price(settings.model)
        self.total = Estimate(
            model=settings.model, limits=limits or Limits(), batch_factor=price.batch_factor
        )
        self._settings = settings
        self._prices = prices
        self._sizes: dict[str, tuple[int, int]] = {}

    def add(self, entry: Entry) -> None:
        """Count the call for an entry; given references cost nothing by themselves."""
        if entry.kind == "reference":
            self._sizes[entry.id] = _size(entry.source, self._settings.size)
            if entry.source is not None:
                return
        stand_ins = [_blank_picture(*self._sizes[name]) for name in entry.references]
        expected = self._settings.request(entry, stand_ins).estimate(self._prices)
        total = self.total
        total.calls += 1
        total.text_tokens += expected.text
        total.picture_tokens += expected.images
        total.output_tokens += expected.output
        total.usd += expected.cost_usd
        earlier = total.by_subset.get(entry.subset, 0.0)
        total.by_subset[entry.subset] = earlier + expected.cost_usd


def _size(source: Mapping[str, JsonValue] | None, made: str) -> tuple[int, int]:
    from echo4o.prices import parse_size

    if source is not None:
        return int(str(source["width"])), int(str(source["height"]))
    return (1024, 1024) if made == "auto" else parse_size(made)


@lru_cache(maxsize=64)
def _blank_picture(width: int, height: int) -> bytes:
    """A stand-in of the right size for a reference that is not made yet."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()

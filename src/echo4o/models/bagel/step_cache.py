"""Skipping denoising steps without training: velocities between exact steps are extrapolated.

The idea is TaylorSeer's (arXiv 2503.06923), applied to what the model returns rather than to its
layers: nothing is computed on a skipped step and next to nothing is kept. Each guidance branch is
extrapolated by itself, so that every step combines the branches it asks for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCache:
    """Which steps are computed, and how the others are made."""

    interval: int = 3
    """Every so many steps one is computed; 1 computes all."""
    order: int = 1
    """Degree of the polynomial in flow time: 0 repeats, 1 draws a line through two exact steps."""
    exact_first: int = 3
    """Steps at the start that are computed; they decide what the picture shows."""
    exact_last: int = 1
    """Steps at the end that are computed; they decide its details."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        for name, least in (("interval", 1), ("order", 0), ("exact_first", 1), ("exact_last", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}")

    def is_exact(self, step: int, steps: int) -> bool:
        """Whether this step of so many is computed."""
        if step < self.exact_first or step >= steps - self.exact_last:
            return True
        return (step - self.exact_first) % self.interval == self.interval - 1


class Forecast:
    """Exact or extrapolated velocities of the branches of one run."""

    def __init__(self, settings: StepCache, steps: int) -> None:
        self.settings, self.steps = settings, steps
        self._step = 0
        self._known: list[tuple[float, dict[str, Tensor]]] = []

    def __call__(
        self, branches: Sequence[str], time: float, compute: Callable[[], Sequence[Tensor]]
    ) -> Sequence[Tensor]:
        """The velocities of the named branches at the next step, which is at flow time `time`."""
        exact = self.settings.is_exact(self._step, self.steps)
        self._step += 1
        # A branch that guidance did not need before has nothing to be extrapolated from.
        if exact or not self._known or not set(branches) <= self._known[-1][1].keys():
            values = compute()
            self._known.append((time, dict(zip(branches, values, strict=True))))
            del self._known[: -self.settings.order - 1]
            return values
        return [self._extrapolated(name, time) for name in branches]

    def _extrapolated(self, name: str, time: float) -> Tensor:
        """The Lagrange polynomial through the known velocities of one branch."""
        points = [(at, values[name]) for at, values in self._known if name in values]
        total = None
        for at, value in points:
            weight = 1.0
            for other, _ in points:
                if other != at:
                    weight *= (time - other) / (at - other)
            total = value * weight if total is None else total.add_(value, alpha=weight)
        assert total is not None
        return total


class StepCacheMixin:
    """Switches of a pipeline; off by default."""

    step_cache: StepCache | None = None
    """How the pictures that follow are made, None: all their steps are computed."""

    def enable_cache(self, settings: StepCache | None = None) -> None:
        """Compute only some steps of the pictures that follow and extrapolate the others.

        Pictures change a little: `benchmarks/results/inference.json` has error and speed-up.
        """
        self.step_cache = settings or StepCache()

    def disable_cache(self) -> None:
        """Compute all steps again."""
        self.step_cache = None

"""How long a job takes: counted from what is computed, corrected by what was measured.

Two uses: the seconds on the button, and the GPU time that is reserved on ZeroGPU.
"""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from engine import Job

    from echo4o import Echo4oPipeline

GPU_RATE, CPU_RATE = 2e14, 1e11
"""Operations per second that are assumed before anything was measured."""
STEP_SECONDS = 0.008
"""Of a step that computes next to nothing."""
PLAN_TOKENS = 400
"""Longest plan in think mode."""
PLAN_SHARE = 0.6
"""Length of a usual plan, as a share of its limit."""
TOKEN_SECONDS = 0.004
LATEST = 0.4
"""Weight of the latest measurement."""
LEAST_RESERVED, MOST_RESERVED = 20, 240


class Work(NamedTuple):
    """What a job computes."""

    steps: int
    """Exact ones, of all pictures."""
    operations: float
    tokens: int
    """Written by the model as its plan."""


class CostModel:
    """Seconds of jobs on this machine."""

    def __init__(self, parameters: int = 0, rate: float = CPU_RATE) -> None:
        self._parameters, self._rate = parameters, rate
        self._slowness = 1.0
        self._known = 0

    @classmethod
    def of(cls, pipeline: "Echo4oPipeline") -> "CostModel":
        """Of a loaded model."""
        on_gpu = pipeline.model.device.type == "cuda"
        return cls(pipeline.model.num_parameters(), GPU_RATE if on_gpu else CPU_RATE)

    def seconds(self, job: "Job", unit: int) -> float:
        """How long a job will probably take."""
        return self._counted(self._work(job, unit)) * self._slowness

    def reserved(self, job: "Job", unit: int) -> int:
        """GPU seconds to ask for: more than expected, within what ZeroGPU gives."""
        return int(min(max(1.6 * self.seconds(job, unit) + 10, LEAST_RESERVED), MOST_RESERVED))

    def learn(self, job: "Job", unit: int, seconds: float) -> None:
        """Remember how long a job took."""
        found = seconds / self._counted(self._work(job, unit))
        # The first job also pays for what happens once; it counts until there is a second.
        weight = 1.0 if self._known < 2 else LATEST
        self._slowness += weight * (found - self._slowness)
        self._known += 1

    def _counted(self, work: Work) -> float:
        per_token = max(TOKEN_SECONDS, 100 * self._parameters / self._rate)
        return (
            work.operations / self._rate + work.steps * STEP_SECONDS + work.tokens * per_token + 0.1
        )

    def _work(self, job: "Job", unit: int) -> Work:
        from echo4o.models.bagel.step_cache import StepCache

        settings, count = job.settings, len(job.seeds)
        cache = StepCache() if settings.fast else StepCache(interval=1)
        exact = sum(cache.is_exact(step, settings.steps) for step in range(settings.steps))
        branches = 1 + (settings.guidance > 1) * (1 + bool(job.references))
        tokens = settings.width * settings.height / unit**2
        # Half of the weights belong to the expert that paints.
        per_step = branches * tokens * self._parameters
        plan = int(PLAN_TOKENS * PLAN_SHARE) * count if settings.think else 0
        return Work(exact * count, exact * count * per_step, plan)

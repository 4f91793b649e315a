"""The denoising loop of one group of equally large pictures, with its guidance branches."""

from collections.abc import Callable, Sequence

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from ...sampler import Guidance
from .conditioning import Branches
from .generation import Target, predict_velocity, prepare_target
from .modeling import BagelForUnifiedGeneration
from .step_cache import Forecast, StepCache

StepEnd = Callable[[int, Tensor, Tensor], Tensor]
"""Called after each step with its number, the scheduler's timestep and the latents."""


class GuidedVelocity:
    """The guided velocity of B pictures; branches that cannot matter are never run.

    Rows of the step are ordered by branch, so that running fewer branches is a view on the same
    caches. A branch whose context equals the full one takes its velocity.
    """

    def __init__(
        self,
        model: BagelForUnifiedGeneration,
        branches: Sequence[Branches],
        grid: tuple[int, int],
        guidance: Guidance,
        times: Sequence[float],
        step_cache: StepCache | None = None,
    ) -> None:
        self.model, self.guidance, self.count = model, guidance, len(branches)
        self._forecast = Forecast(step_cache or StepCache(interval=1), len(times))
        wanted = [guidance.branches(time) for time in times]
        self.has_text = any(text for text, _ in wanted) and not all(
            b.text.same_as(b.cond) for b in branches
        )
        self.has_image = any(image for _, image in wanted) and not all(
            b.image.same_as(b.cond) for b in branches
        )
        contexts = [b.cond for b in branches]
        contexts += [b.text for b in branches if self.has_text]
        contexts += [b.image for b in branches if self.has_image]
        self._whole = prepare_target(model, contexts, *grid)
        self._parts: dict[int, Target] = {}

    def __call__(self, latents_BNP: Tensor, time: float) -> Tensor:
        """The guided velocity (B, N, P) in fp32 at flow time `time`, that of the next step."""
        text, image = self.guidance.branches(time)
        run_text, run_image = text and self.has_text, image and self.has_image
        names = ["cond"] + ["text"] * run_text + ["image"] * run_image
        velocities = self._forecast(names, time, lambda: self._run(latents_BNP, time, len(names)))
        cond = velocities[0]
        v_text = velocities[1] if run_text else cond
        v_image = velocities[-1] if run_image else cond
        return self.guidance.combine(cond, v_text if text else None, v_image if image else None)

    def _run(self, latents_BNP: Tensor, time: float, number: int) -> Sequence[Tensor]:
        """Compute the velocities of the first branches."""
        if number not in self._parts:
            self._parts[number] = self._whole.first_rows(number * self.count)
        rows = predict_velocity(self.model, latents_BNP, time, self._parts[number])
        return rows.chunk(number)


def denoise(
    velocity: Callable[[Tensor, float], Tensor],
    scheduler: FlowMatchEulerDiscreteScheduler,
    latents_BNP: Tensor,
    step_end: StepEnd,
) -> Tensor:
    """Run all steps of a scheduler whose timesteps are set; the state stays fp32."""
    latents_BNP = latents_BNP.to(torch.float32)
    for step, timestep in enumerate(scheduler.timesteps):
        predicted = velocity(latents_BNP, float(scheduler.sigmas[step]))
        latents_BNP = scheduler.step(predicted, timestep, latents_BNP, return_dict=False)[0]
        latents_BNP = step_end(step, timestep, latents_BNP)
    return latents_BNP

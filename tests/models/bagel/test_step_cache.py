"""Skipped steps: what is computed, how exact the rest is, and that guidance is never lost."""

import pytest
import torch

from echo4o.models.bagel.step_cache import Forecast, StepCache
from echo4o.sampler import Guidance

SIZE = {"height": 64, "width": 64, "num_inference_steps": 12, "output_type": "latent"}


@pytest.fixture
def rows_of_calls(pipe):
    """Rows (one per branch) of every forward of the velocity head, in tokens of 16 per row."""
    calls: list[int] = []
    hook = pipe.model.llm2vae.register_forward_hook(lambda m, a, out: calls.append(len(out) // 16))
    yield calls
    hook.remove()
    pipe.disable_cache()


def make(pipe, **more):
    seed = torch.Generator().manual_seed(3)
    return pipe("a cat", generator=seed, **SIZE | more).images[0]


def test_it_is_off_by_default_and_exact_with_an_interval_of_one(pipe, rows_of_calls):
    exact = make(pipe)
    assert len(rows_of_calls) == 12
    pipe.enable_cache(StepCache(interval=1))
    assert torch.equal(make(pipe), exact)
    pipe.disable_cache()
    assert torch.equal(make(pipe), exact)


def test_it_skips_steps_and_stays_close(pipe, rows_of_calls):
    exact = make(pipe)
    rows_of_calls.clear()
    pipe.enable_cache()
    close = make(pipe)
    assert len(rows_of_calls) == 6, "steps 0, 1, 2, 5, 8 and 11"
    assert 0 < (close - exact).norm() / exact.norm() < 0.02
    pipe.enable_cache(StepCache(order=0))
    coarse = make(pipe)
    assert (close - exact).norm() < 0.5 * (coarse - exact).norm()


def test_guidance_acts_on_skipped_steps(pipe, rows_of_calls, monkeypatch):
    pipe.enable_cache(StepCache(interval=6, exact_first=2))
    guided, combine = [], Guidance.combine

    def watched(self, cond, text, image):
        combined = combine(self, cond, text, image)
        guided.append(float((combined - cond).norm() / cond.norm()))
        return combined

    monkeypatch.setattr(Guidance, "combine", watched)
    make(pipe, guidance_interval=(0.0, 1.0), guidance_renorm="none")
    assert rows_of_calls == [2, 2, 2, 2]
    assert len(guided) == 12
    assert min(guided) > 0.05, "a step was not guided"


def test_a_branch_that_begins_in_the_middle_is_computed_first(pipe, rows_of_calls):
    pipe.enable_cache(StepCache(interval=6, exact_first=1, exact_last=0))
    make(pipe, guidance_interval=(0.0, 0.8))
    assert rows_of_calls[0] == 1
    assert 2 in rows_of_calls, "the context without text was never run"


def test_a_polynomial_of_its_degree_is_continued_exactly():
    for order in (0, 1, 2):
        forecast = Forecast(StepCache(interval=9, order=order, exact_first=3, exact_last=0), 12)
        exact = 0
        for step in range(6):
            time = 1 - 0.07 * step - 0.01 * step**2
            value = torch.tensor([1.0 + 2 * time**order])
            got = forecast(["cond"], time, lambda v=value: [v])[0]
            exact += got is value
            torch.testing.assert_close(got, value, rtol=0, atol=1e-5)
        assert exact == 3


@pytest.mark.parametrize(
    "values", [{"interval": 0}, {"order": -1}, {"exact_first": 0}, {"exact_last": -1}]
)
def test_nonsense_is_refused(values):
    with pytest.raises(ValueError, match="must be at least"):
        StepCache(**values)

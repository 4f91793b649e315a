"""Guidance and time: closed formulas, checked on small numbers."""

import pytest
import torch

from echo4o.sampler import Guidance, initial_noise, noised, shift_times, sigma_grid


def test_the_grid_runs_from_noise_to_the_last_step_before_the_picture():
    assert sigma_grid(4) == [1.0, 0.75, 0.5, 0.25]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sigma_grid(0)


def test_shifting_keeps_the_ends():
    times = shift_times(torch.tensor([0.0, 0.5, 1.0]), 3.0)
    assert times.tolist() == [0.0, 0.75, 1.0]


def test_noising_is_a_straight_line():
    clean, noise = torch.zeros(2, 1), torch.ones(2, 1)
    assert noised(clean, noise, torch.tensor([[0.25], [1.0]])).flatten().tolist() == [0.25, 1.0]


@pytest.mark.parametrize(
    ("time", "branches"), [(0.4, (False, False)), (0.41, (True, True)), (1.0, (True, True))]
)
def test_the_interval_is_open_below_and_closed_above(time, branches):
    assert Guidance(text_scale=4, image_scale=2, interval=(0.4, 1.0)).branches(time) == branches


def test_a_bound_is_a_time_however_it_is_stored():
    times = torch.linspace(1, 0, 11)[:-1].tolist()  # 1.0, 0.9, ... in 32 bits
    below = Guidance(text_scale=4, interval=(0.0, 0.4))
    above = Guidance(text_scale=4, interval=(0.4, 1.0))
    assert [below.branches(time)[0] for time in times] == [False] * 6 + [True] * 4
    assert [above.branches(time)[0] for time in times] == [True] * 6 + [False] * 4


def test_without_text_guidance_the_image_branch_is_not_run():
    assert Guidance(text_scale=1, image_scale=2).branches(0.9) == (False, False)
    assert Guidance(text_scale=2, image_scale=1).branches(0.9) == (True, False)


def vectors(*values: float) -> torch.Tensor:
    """One picture with one token per value pair."""
    return torch.tensor(values).view(1, -1, 2)


def test_no_renormalisation_extrapolates():
    guide = Guidance(text_scale=3, image_scale=2, renorm="none")
    cond, text, image = vectors(1.0, 0.0), vectors(0.5, 0.0), vectors(0.0, 1.0)
    # text: 0.5 + 3 * 0.5 = 2; image: 0 + 2 * 2 = 4 and 1 + 2 * (0 - 1) = -1
    assert guide.combine(cond, text, image).flatten().tolist() == [4.0, -1.0]


def test_global_renormalisation_keeps_the_length_of_each_picture():
    guide = Guidance(text_scale=3, renorm="global")
    cond = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    text = cond * 0.1
    both = guide.combine(cond, text, None)
    torch.testing.assert_close(both.flatten(1).norm(dim=1), cond.flatten(1).norm(dim=1))
    alone = guide.combine(cond[1:], text[1:], None)
    assert torch.equal(both[1:], alone)


def test_channel_renormalisation_works_per_token_and_never_lengthens():
    guide = Guidance(text_scale=2, renorm="channel")
    cond, text = vectors(3.0, 4.0, 1.0, 0.0), vectors(0.0, 0.0, 1.8, 0.0)
    guided = guide.combine(cond, text, None)
    assert guided.norm(dim=-1).flatten().tolist() == pytest.approx([5.0, 0.2])


def test_text_channel_leaves_the_image_guidance_alone():
    guide = Guidance(text_scale=2, image_scale=3, renorm="text_channel")
    guided = guide.combine(vectors(1.0, 0.0), vectors(0.0, 0.0), vectors(0.0, 0.0))
    assert guided.flatten().tolist() == pytest.approx([3.0, 0.0])


def test_the_lower_limit_of_the_factor():
    guide = Guidance(text_scale=4, renorm="global", renorm_min=0.7)
    guided = guide.combine(vectors(1.0, 0.0), vectors(0.0, 0.0), None)
    assert guided.flatten().tolist() == pytest.approx([2.8, 0.0])


def test_noise_follows_each_generator():
    def draw(*seeds: int) -> torch.Tensor:
        return initial_noise((3, 4), [torch.Generator().manual_seed(seed) for seed in seeds])

    assert torch.equal(draw(1, 2)[1], draw(2)[0])
    shared = torch.Generator().manual_seed(1)
    both = initial_noise((3, 4), [shared, shared])
    assert not torch.equal(both[0], both[1])

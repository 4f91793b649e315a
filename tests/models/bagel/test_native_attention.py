"""The compiled attention: against PyTorch in fp64, in a picture, and where it cannot be had.

On a machine without AVX-512 or a compiler every test asks for the words that say so.
"""

import re
from contextlib import contextmanager

import pytest
import torch
from tiny_pipeline import make_pipeline
from torch.nn import functional as F

from echo4o.errors import Echo4oError
from echo4o.models.bagel.native_attention import attend, compiled, missing, native_attention

SIZES = {"height": 96, "width": 96, "num_inference_steps": 2, "output_type": "latent"}


@contextmanager
def where_it_can_be_had():
    """Expects an error that names what this machine lacks."""
    if (lacking := missing()) is None:
        yield
    else:
        with pytest.raises(Echo4oError, match=re.escape(lacking)):
            yield


def heads(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize(
    ("queries", "keys", "head_size", "scale"),
    [
        (258, 308, 32, 1.0),  # the last tile of rows and the last panel of keys are not full
        (9, 1349, 32, 1.0),  # several blocks of keys
        (64, 48, 64, 1.0),
        (1, 1, 16, 1.0),
        (33, 1400, 16, 60.0),  # scores of some thousands: all weights but one are zero
    ],
)
def test_it_is_as_exact_as_pytorch(queries, keys, head_size, scale):
    query = heads(2, queries, 6, head_size, scale=scale).transpose(1, 2)
    key = heads(2, 3, keys + 7, head_size, scale=scale, seed=1)[:, :, 3 : keys + 3]
    value = heads(2, 3, keys, head_size, seed=2)
    with where_it_can_be_had():
        ours = attend(query, key, value, head_size**-0.5)
        groups = {"enable_gqa": True}
        exact = F.scaled_dot_product_attention(
            query.double(), key.double(), value.double(), **groups
        )
        stock = F.scaled_dot_product_attention(query, key, value, **groups)
        off = (ours.transpose(1, 2) - exact).abs().max()
        assert off <= 2 * (stock - exact).abs().max() + 2e-6


@torch.no_grad()
def test_threads_change_no_bit():
    query, key = heads(1, 4, 100, 32), heads(1, 2, 700, 32, seed=1)
    before = torch.get_num_threads()
    with where_it_can_be_had():
        try:
            made = []
            for threads in (1, 3):
                torch.set_num_threads(threads)
                made.append(attend(query, key, key, 0.2))
        finally:
            torch.set_num_threads(before)
        assert torch.equal(*made)


def drawn(pipe) -> torch.Tensor:
    return pipe("a hat", generator=torch.Generator().manual_seed(1), **SIZES).images[0]


def test_a_picture_is_the_same_and_was_made_with_it():
    pipe = make_pipeline(num_attention_heads=2, num_key_value_heads=1)
    stock = drawn(pipe)
    pipe.model.set_attn_implementation("native")
    before = compiled.cache_info()
    with where_it_can_be_had():
        torch.testing.assert_close(drawn(pipe), stock, rtol=0, atol=1e-5)
        after = compiled.cache_info()
        assert after.hits + after.misses > before.hits + before.misses


def test_what_it_is_not_for_goes_to_pytorch():
    module = torch.nn.Module()
    query, key = heads(1, 4, 70, 16).requires_grad_(), heads(1, 2, 70, 16, seed=1)
    mask = torch.zeros(70, 70).fill_diagonal_(float("-inf"))
    exact = F.scaled_dot_product_attention(query, key, key, mask, enable_gqa=True)
    ours, _ = native_attention(module, query, key, key, mask, 0.25)
    torch.testing.assert_close(ours.transpose(1, 2), exact)
    ours, _ = native_attention(module, query, key, key, None, 0.25)
    ours.sum().backward()  # the compiled function knows no gradients
    assert query.grad is not None
    with torch.no_grad():
        halves = (x.to(torch.bfloat16) for x in (query, key, key))
        assert native_attention(module, *halves, None, 0.25)[0].dtype == torch.bfloat16


def test_a_compiler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler --fast")
    words = missing() or "with no-such-compiler: .*; name another compiler in CXX"
    with pytest.raises(Echo4oError, match=words):
        compiled(80)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Echo4oError, match='needs a .*, or use "sdpa"'):
        compiled(80)

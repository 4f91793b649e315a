"""The compiled kernels: against PyTorch in fp64, in a picture, and where they cannot be had.

On a machine without AVX-512 or a compiler the kernels are absent, and that is what is tested.
"""

import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from tiny_pipeline import make_pipeline
from torch import nn
from torch.nn import functional as F

from echo4o.models import native
from echo4o.models.autoencoder import Convolution, ResidualBlock, channels_last, tune
from echo4o.models.bagel.conditioning import Conditioner
from echo4o.models.bagel.functional import Linear

HERE = native.missing() is None
SIZES = {"height": 96, "width": 96, "num_inference_steps": 2, "output_type": "np"}


def drawn(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_they_are_there_unless_something_is_missing():
    assert (native.kernels() is not None) == HERE


@torch.no_grad()
@pytest.mark.parametrize(
    ("queries", "keys", "head_size", "scale"),
    [
        (258, 308, 32, 1.0),  # the last tile of rows and the last panel of keys are not full
        (9, 1349, 32, 1.0),  # several blocks of keys
        (64, 48, 64, 1.0),
        (1, 1, 48, 1.0),
        (33, 1400, 16, 60.0),  # scores of some thousands: all weights but one are zero
        (70, 70, 256, 1.0),
    ],
)
def test_attention_is_as_exact_as_pytorch(queries, keys, head_size, scale):
    if not HERE:
        return
    query = drawn(2, queries, 6, head_size, scale=scale).transpose(1, 2)
    key = drawn(2, 3, keys + 7, head_size, scale=scale, seed=1)[:, :, 3 : keys + 3]
    value = drawn(2, 3, keys, head_size, seed=2)
    ours = native.attend(query, key, value, head_size**-0.5).transpose(1, 2)
    groups = {"enable_gqa": True}
    exact = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), **groups)
    stock = F.scaled_dot_product_attention(query, key, value, **groups)
    assert (ours - exact).abs().max() <= 2 * (stock - exact).abs().max() + 2e-6


@torch.no_grad()
@pytest.mark.parametrize(
    ("tokens", "width", "inner", "scale"),
    [(768, 256, 704, 1.0), (67, 64, 48, 1.0), (64, 1024, 16, 1.0), (65, 16, 16, 300.0)],
)
def test_gates_are_as_exact_as_pytorch(tokens, width, inner, scale):
    if not HERE:
        return
    x, gate, up = (
        drawn(width, tokens, scale=scale).t(),
        drawn(inner, width),
        drawn(inner, width, seed=1),
    )
    exact = F.silu(x.double() @ gate.double().t()) * (x.double() @ up.double().t())
    stock = F.silu(x @ gate.t()) * (x @ up.t())
    ours = native.gated(x, gate, up)
    assert ours.shape == (tokens, inner)
    assert (ours - exact).abs().max() <= 3 * (stock - exact).abs().max() + 1e-5 * exact.abs().max()


@torch.no_grad()
@pytest.mark.parametrize(
    ("count", "channels", "out", "height", "width"),
    [(1, 32, 32, 64, 48), (2, 16, 64, 9, 7), (1, 48, 32, 1, 1), (1, 512, 32, 2, 33)],
)
def test_convolutions_are_as_exact_as_pytorch(count, channels, out, height, width):
    if not HERE:
        return
    weight, bias = drawn(out, channels, 3, 3), drawn(out, seed=1)
    x = channels_last(drawn(count, channels, height, width, seed=2))
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    stock = F.conv2d(x, weight, bias, padding=1)
    for kept in (weight, channels_last(weight)):
        ours = native.convolve(x, kept, bias)
        assert ours.is_contiguous(memory_format=torch.channels_last)
        assert (ours - exact).abs().max() <= 2 * (stock - exact).abs().max() + 1e-5


@torch.no_grad()
def test_only_plain_convolutions_are_tuned():
    plain = nn.Conv2d(16, 32, 3, padding=1)
    others = [
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.Conv2d(16, 32, 3),
        nn.Conv2d(16, 32, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(16, 32, 3, padding=1, groups=2),
        nn.Conv2d(16, 32, 1),
    ]
    tune(nn.Sequential(plain, *others))
    assert type(plain) is Convolution
    assert {type(one) for one in others} == {nn.Conv2d}
    x = channels_last(drawn(1, 16, 8, 8))
    with torch.enable_grad():
        plain(x).sum().backward()  # the compiled function knows no gradients
    assert plain.weight.grad is not None
    assert native.can_convolve(x, plain.weight, plain.bias) == HERE
    assert not native.can_convolve(x.contiguous(), plain.weight, plain.bias)
    assert not native.can_convolve(x.half(), plain.weight.half(), plain.bias.half())


@torch.no_grad()
def test_a_tuned_autoencoder_is_the_same():
    vae = make_pipeline().vae
    stock = type(vae).from_config(vae.config)
    stock.load_state_dict(vae.state_dict())
    assert sum(type(part) is ResidualBlock for part in vae.modules()) > 8
    assert not any(type(part) is ResidualBlock for part in stock.modules())
    picture, latent = drawn(1, 3, 64, 40), drawn(1, 16, 9, 5)
    # One picture in this order may have any step between pictures.
    odd = picture[0].permute(1, 2, 0).contiguous().permute(2, 0, 1)[None]
    assert odd.stride(0) != 3 * 64 * 40
    made = stock(picture).sample
    for given in (channels_last(picture), channels_last(odd), picture):
        torch.testing.assert_close(vae(given).sample, made, rtol=1e-4, atol=1e-4)
    ours, theirs = (one.decode(channels_last(latent)).sample for one in (vae, stock.eval()))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with torch.enable_grad():
        vae.decode(latent).sample.sum().backward()
    assert all(part.grad is not None for part in vae.decoder.parameters())


@torch.no_grad()
@pytest.mark.parametrize("groups", [8, 32])
@pytest.mark.parametrize("with_kernels", [True, False])
def test_even_pictures_keep_their_digits(with_kernels, groups, monkeypatch):
    """PyTorch's own norm is up to 4 off on some of these when they are channels last."""
    if not with_kernels:
        monkeypatch.setattr(native, "kernels", lambda: None)
    norm = nn.GroupNorm(groups, 32, eps=1e-6)
    norm.weight.copy_(drawn(32, scale=2.0))
    norm.bias.copy_(drawn(32, seed=1))
    exact = nn.GroupNorm(groups, 32, eps=1e-6).double()
    exact.load_state_dict(norm.state_dict())
    tune(nn.Sequential(norm))
    # In the other order PyTorch's mean is rounded.
    near = {"rtol": 1e-4, "atol": 2e-4 if with_kernels and HERE else 5e-2}
    for size in ((40, 37), (1, 1)):
        even = drawn(2, 32, 1, 1, scale=30.0).expand(-1, -1, *size)
        border = even.clone()
        border[:, :, 0] += 0.01
        alone = border[0].permute(1, 2, 0).contiguous().permute(2, 0, 1)[None]  # an odd step
        given = [even, border, drawn(2, 32, *size) + 100]
        for one in given if size == (1, 1) else [*given, alone]:
            x = one.contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(norm(x), exact(x.double()).float(), **near)
            active = F.silu(exact(x.double())).float()
            torch.testing.assert_close(norm.normalised(x, activated=True), active, **near)
    conditioner = Conditioner(*(getattr(make_pipeline(), n) for n in ("model", "vae", "tokenizer")))
    vae = conditioner.vae
    flat = torch.full((64, 64, 3), 0.3).permute(2, 0, 1)
    noise, given = torch.zeros(1, 16, 8, 8), []
    vae.encoder.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].stride()))
    ours = conditioner.encode_picture(flat, noise)
    assert given == [(3 * 64 * 64, 64 * 64, 64, 1)]
    mean = deepcopy(vae).double().encode(flat[None].double()).latent_dist.mean
    wanted = vae.config.scaling_factor * (mean - vae.config.shift_factor)
    torch.testing.assert_close(ours, wanted[0].float(), rtol=0, atol=3e-5)


@torch.no_grad()
def test_neither_threads_nor_company_change_a_bit():
    if not HERE:
        return
    query, key = drawn(1, 4, 100, 32), drawn(1, 2, 700, 32, seed=1)
    x, gate = drawn(100, 64), drawn(96, 64, seed=1)
    large = drawn(1, 50, 50, 16).permute(0, 3, 1, 2)  # several chunks of pixels
    picture, weight = channels_last(drawn(2, 16, 20, 20)), drawn(32, 16, 3, 3, seed=1)
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            made.append(
                (
                    native.attend(query, key, key, 0.2),
                    native.gated(x, gate, gate),
                    native.convolve(picture, weight, weight[:, 0, 0, 0]),
                    native.normalise(large, *large[0, :, 0, :2].T, 4, 1e-6, activated=True),
                )
            )
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*made, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(native.gated(x[3:70], gate, gate), made[0][1][3:70])
    alone = native.convolve(picture[1:], weight, weight[:, 0, 0, 0])
    assert torch.equal(alone, made[0][2][1:])


def test_a_picture_is_the_same_and_was_made_with_them(monkeypatch):
    pipe = make_pipeline(num_attention_heads=2, num_key_value_heads=1)

    def picture() -> np.ndarray:
        generator = torch.Generator().manual_seed(1)
        return pipe("a hat", generator=generator, num_images_per_prompt=4, **SIZES).images[0]

    ran = []
    run = native._run
    monkeypatch.setattr(native, "_run", lambda name, *given: (ran.append(name), run(name, *given)))
    ours = picture()
    assert set(ran) == ({"attend", "gated", "convolve", "normalise"} if HERE else set())
    monkeypatch.setattr(native, "kernels", lambda: None)
    ran.clear()
    np.testing.assert_allclose(ours, picture(), rtol=0, atol=1e-5)
    assert not ran


def test_what_they_are_not_for_goes_to_pytorch():
    query, key = drawn(1, 4, 70, 16), drawn(1, 2, 70, 16, seed=1)
    assert not native.can_attend(query, key, key)  # a gradient may be wanted
    with torch.no_grad():
        assert native.can_attend(query, key, key) == HERE
        assert not native.can_attend(query[:, :, :2], key, key)
        assert not native.can_attend(query[..., :8], key[..., :8], key[..., :8])
        assert not native.can_attend(*(x.to(torch.bfloat16) for x in (query, key, key)))
        assert not native.can_attend(*(x.to("meta") for x in (query, key, key)))


class Adapted(Linear):
    def forward(self, x):
        return super().forward(x) + 1


@torch.no_grad()
def test_a_gate_with_an_adapter_or_a_hook_is_asked_itself():
    block = make_pipeline().model.language_model.model.layers[0].mlp
    tokens, gate, up = drawn(80, 32), block.gate_proj.weight, block.up_proj.weight
    block.up_proj.__class__ = Adapted
    inner = F.silu(tokens @ gate.t()) * (tokens @ up.t() + 1)
    torch.testing.assert_close(block(tokens), block.down_proj(inner), rtol=1e-4, atol=1e-5)
    block.up_proj.__class__ = Linear
    block.gate_proj.register_forward_hook(lambda module, given, out: 2 * out)
    inner = F.silu(2 * (tokens @ gate.t())) * (tokens @ up.t())
    torch.testing.assert_close(block(tokens), block.down_proj(inner), rtol=1e-4, atol=1e-5)
    assert native.can_gate(tokens, gate, up) == HERE
    assert not native.can_gate(tokens, nn.Parameter(gate.bfloat16()), up)


@pytest.fixture
def had(tmp_path, monkeypatch, caplog):
    """Whether a process that starts now gets them, and what it says; nothing is kept so far."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caplog.set_level("INFO", native.__name__)

    def look() -> tuple[bool, str]:
        caplog.clear()
        return native.kernels.__wrapped__() is not None, caplog.text

    return look


def test_they_are_compiled_once_and_kept(had, tmp_path):
    assert had() == (HERE, had()[1])
    files = list(tmp_path.rglob("*.so"))
    assert len(files) == HERE
    for file in files:
        assert file.parent.stat().st_mode & 0o777 == 0o700
        made = file.stat().st_mtime_ns
        had()
        assert file.stat().st_mtime_ns == made


def test_without_a_compiler_or_when_told_so_pytorch_computes(had, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", f"{sys.executable} -c \"exit('broken')\"")
    there, said = had()
    assert not there
    assert not HERE or "could not be compiled, PyTorch's are used: broken" in said
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not had()[0]
    monkeypatch.setenv("ECHO4O_NATIVE", "0")
    assert not had()[0]
    assert "a value of ECHO4O_NATIVE that is not 0; PyTorch's are used" in had()[1]
    assert not list(tmp_path.rglob("*.so"))
    assert not list(tmp_path.glob("echo4o/*"))


def test_a_cache_that_cannot_be_written_to_is_done_without(had, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert had()[0] == HERE

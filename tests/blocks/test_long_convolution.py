"""FFT convolutions against their definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m2_goldens import close, golden
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from blocks.convolution import fft
from blocks.convolution.direct import bidirectional_convolution_direct, causal_convolution_direct
from blocks.convolution.fft import bidirectional_convolution, causal_convolution, fft_length
from blocks.convolution.long import LongConvolution
from blocks.convolution.short import ShortConvolution
from blocks.cost import fft_flops
from blocks.errors import ConfigError

TOKENS = [1, 2, 3, 17, 64, 65]


def randn(*shape: int, grad: bool = True) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def same_with_gradients(fast: Callable[..., Tensor], slow: Callable[..., Tensor], *inputs: Tensor) -> None:
    a, b = fast(*inputs), slow(*inputs)
    close(a, b, 1e-12)
    g = torch.randn_like(a)
    for x, y in zip(torch.autograd.grad(a, inputs, g), torch.autograd.grad(b, inputs, g), strict=True):
        close(x, y, 1e-12)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("taps", ["one", "shorter", "equal", "longer"])
def test_the_causal_transform_and_its_gradients_equal_the_direct_sum(tokens: int, taps: str) -> None:
    size = {"one": 1, "shorter": max(1, tokens // 2), "equal": tokens, "longer": tokens + 5}[taps]
    same_with_gradients(causal_convolution, causal_convolution_direct, randn(2, 3, tokens), randn(3, size))


@pytest.mark.parametrize("tokens", TOKENS)
def test_the_bidirectional_transform_and_its_gradients_equal_the_direct_sum(tokens: int) -> None:
    same_with_gradients(
        bidirectional_convolution,
        bidirectional_convolution_direct,
        randn(2, 3, tokens),
        randn(3, tokens),
        randn(3, tokens + 2),
    )


def test_the_direct_sum_equals_two_nested_loops() -> None:
    u, k, r = randn(1, 1, 5), randn(1, 5), randn(1, 5)
    for t in range(5):
        ahead = sum(k[0, t - s] * u[0, 0, s] for s in range(t + 1))
        behind = sum(r[0, s - t - 1] * u[0, 0, s] for s in range(t + 1, 5))
        close(causal_convolution_direct(u, k)[0, 0, t], torch.as_tensor(ahead), 1e-14)
        close(bidirectional_convolution_direct(u, k, r)[0, 0, t], torch.as_tensor(ahead + behind), 1e-14)


def test_both_transforms_equal_the_released_one() -> None:
    g = golden("fftconv_ref")
    skip = g["in.u"] * g["in.D"]
    close(causal_convolution(g["in.u"], g["in.k"]) + skip, g["out.causal_nogelu"])


def test_gradients_survive_a_numeric_check() -> None:
    u, k = randn(2, 3, 5), randn(3, 4)
    assert torch.autograd.gradcheck(causal_convolution, (u, k))


@settings(deadline=None, max_examples=20)
@given(d=st.integers(1, 4), b=st.integers(1, 3), tokens=st.integers(1, 40), for_taps=st.booleans())
def test_the_registered_flops_are_those_of_the_transforms_and_products_inside(
    d: int, b: int, tokens: int, for_taps: bool
) -> None:
    def transform(x: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
        real = out_val if x.is_complex() else x
        return fft_flops(real.shape[-1], real.numel() // real.shape[-1])

    def product(*_: Any, out_val: Tensor, **__: Any) -> int:
        return 6 * out_val.numel()

    transform._get_raw = product._get_raw = True  # type: ignore[attr-defined]
    aten = torch.ops.aten
    inside = {aten._fft_r2c: transform, aten._fft_c2r: transform, aten.mul_: product, aten.mul: product}
    u, k, length = randn(d, b, tokens, grad=False), randn(d, tokens, grad=False), fft_length(tokens)
    spectra, taps = fft.spectra_of(u, k, length), tokens if for_taps else 0
    for operator, plain, inputs in (
        (fft._circular_convolution, fft.convolve_in_groups, (u, k, length, True)),
        (fft._circular_convolution_backward, fft.correlate_in_groups, (u, *spectra, length, taps)),
    ):
        with FlopCounterMode(display=False) as registered:
            operator(*inputs)  # type: ignore[operator]
        with FlopCounterMode(display=False, custom_mapping=inside) as counted:
            plain(*inputs)  # type: ignore[operator]
        assert registered.get_total_flops() == counted.get_total_flops() > 0


@settings(deadline=None, max_examples=15)
@given(size=st.integers(1, 7), tokens=st.integers(1, 40))
def test_channel_groups_do_not_change_a_single_bit(size: int, tokens: int) -> None:
    u, k = randn(2, 7, tokens), randn(7, tokens)
    whole = causal_convolution(u, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fft, "CHUNK_POINTS", size * 2 * fft_length(tokens))
        patch.setattr(torch, "get_num_threads", lambda: 1)
        grouped = causal_convolution(u, k)
    assert torch.equal(whole, grouped)


@settings(deadline=None, max_examples=25)
@given(tokens=st.integers(2, 65), data=st.data())
def test_the_future_never_reaches_the_past(tokens: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, tokens - 1), label="cut")
    u, k = randn(2, 3, tokens, grad=False), randn(3, tokens, grad=False)
    changed = u.clone()
    changed[..., cut:] = torch.randn_like(changed[..., cut:])
    close(causal_convolution(changed, k)[..., :cut], causal_convolution(u, k)[..., :cut], 1e-12)


@settings(deadline=None, max_examples=25)
@given(tokens=st.integers(2, 65), data=st.data())
def test_a_prefix_of_the_input_gives_the_prefix_of_the_output(tokens: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, tokens - 1), label="cut")
    u, k = randn(2, 3, tokens, grad=False), randn(3, tokens, grad=False)
    close(causal_convolution(u[..., :cut], k), causal_convolution(u, k)[..., :cut], 1e-12)


@settings(deadline=None, max_examples=25)
@given(tokens=st.integers(1, 5000))
def test_transform_lengths_are_even_smooth_and_never_wrap(tokens: int) -> None:
    length = fft_length(tokens)
    assert length >= 2 * tokens and length % 2 == 0
    for prime in (2, 3, 5):
        while length % prime == 0:
            length //= prime
    assert length == 1
    assert fft_length(tokens) <= 2 * tokens * 1.125 or tokens < 22


@settings(deadline=None, max_examples=40)
@given(tokens=st.integers(1, 150), taps=st.integers(1, 150))
def test_a_short_kernel_needs_a_shorter_transform_and_gives_the_same_sums(tokens: int, taps: int) -> None:
    assert tokens + min(taps, tokens) <= fft_length(tokens, taps) <= fft_length(tokens)
    same_with_gradients(causal_convolution, causal_convolution_direct, randn(2, 3, tokens), randn(3, taps))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_inputs_are_convolved_in_single_precision(dtype: torch.dtype) -> None:
    u, k = torch.randn(2, 3, 33, dtype=dtype), torch.randn(3, 33)
    y = causal_convolution(u, k)
    assert y.dtype == dtype
    # one rounding of the result to dtype, plus single-precision noise of the transform
    bound = torch.finfo(dtype).eps + 1e-5
    close(y.double(), causal_convolution_direct(u.double(), k.double()), bound)


def test_vmap_over_several_inputs_agrees_with_a_loop() -> None:
    u, k = randn(4, 2, 3, 9, grad=False), randn(3, 9, grad=False)
    mapped = torch.func.vmap(lambda v: causal_convolution(v, k))(u)
    close(mapped, torch.stack([causal_convolution(v, k) for v in u]), 1e-13)


def test_mismatched_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected u"):
        causal_convolution(torch.zeros(1, 3, 4), torch.zeros(2, 4))


def test_an_empty_batch_stays_empty() -> None:
    assert causal_convolution(torch.zeros(0, 3, 4), torch.zeros(3, 4)).shape == (0, 3, 4)


@settings(deadline=None, max_examples=20)
@given(tokens=st.integers(1, 9), taps=st.integers(1, 4), cut=st.integers(0, 9))
def test_the_short_convolution_is_its_formula_in_any_two_chunks(tokens: int, taps: int, cut: int) -> None:
    short, z = ShortConvolution(4, taps).double(), randn(4, 2, tokens, grad=False)
    expected = short.bias[:, None, None] + sum(
        short.weight[:, i, None, None] * torch.nn.functional.pad(z, (taps - 1 - i, 0))[..., :tokens]
        for i in range(taps)
    )
    close(short(z), expected, 1e-13)
    cut = min(cut, tokens)
    tail = z.new_zeros(2, 4, 0)
    outputs = []
    for part in (z[..., :cut], z[..., cut:]):
        if part.shape[-1]:
            outputs.append(short(part, tail))
            tail = short.next_tail(part, tail)
    close(torch.cat(outputs, dim=-1), expected, 1e-13)
    assert tail.shape == (2, 4, min(tokens, taps - 1))


@pytest.mark.parametrize("tokens, taps", [(1, 3), (2, 3), (7, 3), (5, 1)])
def test_gradients_of_the_short_convolution_survive_a_numeric_check(tokens: int, taps: int) -> None:
    short = ShortConvolution(3, taps).double()

    def apply(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(short, {"weight": weight, "bias": bias}, (z,))

    inputs = (randn(3, 2, tokens), randn(3, taps), randn(3))
    assert torch.autograd.gradcheck(apply, inputs)
    assert torch.autograd.gradgradcheck(apply, inputs)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_skip_multiplies_the_input_at_lag_zero(bidirectional: bool) -> None:
    long = LongConvolution(3, 16, order=8, emb=5, sine_frequency=10.0, bidirectional=bidirectional).double()
    u = randn(3, 2, 11, grad=False)
    y = long(u)
    with torch.no_grad():
        skip = long.skip.clone()
        long.skip.zero_()
    close(y, long(u) + skip[:, None, None] * u, 1e-12)

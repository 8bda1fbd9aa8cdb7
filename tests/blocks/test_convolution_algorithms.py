"""Every algorithm of the long convolution is the same function; which one runs is visible; low precision stays causal."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m2_goldens import close
from torch import Tensor

from arch_lab.accounting import count_forward
from blocks.convolution.algorithms import (
    ALGORITHMS,
    TRANSFORMS,
    Algorithm,
    algorithm_flops,
    choose,
    long_convolution,
)
from blocks.convolution.direct import (
    bidirectional_convolution_direct,
    causal_convolution_direct,
    direct_convolution,
    direct_flops,
    shifted_sum,
    shifted_sum_backward,
)
from blocks.convolution.fft import fft_length
from blocks.convolution.long import LongConvolution
from blocks.convolution.monarch_fft import factors, monarch_causal, monarch_dft_reference
from blocks.convolution.toeplitz import toeplitz_convolution
from blocks.dispatch import use_implementation
from blocks.errors import ConfigError

TOKENS = [1, 2, 3, 17, 64, 65, 131]  # around one chunk of 64, two of them, and primes
sizes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 140))


@pytest.fixture(autouse=True)
def by_rule() -> Iterator[None]:
    """No request from the environment: these tests are about the rule."""
    with use_implementation(""):
        yield


def randn(*shape: int, grad: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=grad)


def both(algorithm: Algorithm, inputs: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradients of the algorithm, and of the definition."""
    definition = causal_convolution_direct if len(inputs) == 2 else bidirectional_convolution_direct
    found = []
    gradient = torch.randn_like(inputs[0])
    for convolve in (partial(long_convolution, algorithm=algorithm), definition):
        y: Tensor = convolve(*inputs)  # type: ignore[operator]
        found.append([y, *torch.autograd.grad(y, inputs, gradient)])
    return found[0], found[1]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("taps", ["one", "shorter", "equal", "longer"])
def test_every_algorithm_and_its_gradients_equal_the_causal_sum(
    algorithm: Algorithm, tokens: int, taps: str
) -> None:
    size = {"one": 1, "shorter": max(1, tokens // 2), "equal": tokens, "longer": tokens + 5}[taps]
    for a, b in zip(
        *both(algorithm, (randn(2, 3, tokens, grad=True), randn(3, size, grad=True))), strict=True
    ):
        close(a, b, 1e-10)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("tokens", TOKENS)
def test_every_algorithm_and_its_gradients_equal_the_bidirectional_sum(
    algorithm: Algorithm, tokens: int
) -> None:
    inputs = (randn(2, 3, tokens, grad=True), randn(3, tokens, grad=True), randn(3, tokens + 2, grad=True))
    for a, b in zip(*both(algorithm, inputs), strict=True):
        close(a, b, 1e-10)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_single_precision_stays_within_its_rounding(algorithm: Algorithm) -> None:
    u, k = randn(2, 3, 777), randn(3, 777)
    y = long_convolution(u.float(), k.float(), algorithm=algorithm)
    # inputs round at 6e-8; a sum of 777 products, or 11 stages of butterflies, adds a few tens of such roundings at random signs
    close(y.double(), long_convolution(u, k), 2e-6)


@settings(deadline=None, max_examples=25)
@given(shape=sizes, taps=st.integers(1, 150), algorithm=st.sampled_from(ALGORITHMS), causal=st.booleans())
def test_stated_flops_are_those_of_the_counted_graph(
    shape: tuple[int, int, int], taps: int, algorithm: Algorithm, causal: bool
) -> None:
    batch, channels, tokens = shape
    u, k = torch.zeros(shape), torch.zeros(channels, taps)
    reverse = None if causal else torch.zeros(channels, taps - 1)  # its causal form has a zero at lag 0
    counted = count_forward(lambda: long_convolution(u, k, reverse, algorithm=algorithm))
    assert not counted.unknown
    stated = algorithm_flops(
        algorithm, batch=batch, channels=channels, tokens=tokens, taps=taps, causal=causal
    )
    assert counted.total == stated


@settings(deadline=None, max_examples=20)
@given(shape=sizes, taps=st.integers(1, 9), for_taps=st.booleans())
def test_the_direct_sum_registers_the_multiply_adds_of_its_loop(
    shape: tuple[int, int, int], taps: int, for_taps: bool
) -> None:
    """One multiply-add for every pair of a tap and a token it meets, counted one by one."""
    batch, channels, tokens = shape
    pairs = sum(max(0, tokens - lag) for lag in range(taps))
    assert direct_flops(rows=batch * channels, tokens=tokens, taps=taps) == 2 * batch * channels * pairs
    u, k = torch.zeros(channels, batch, tokens), torch.zeros(channels, min(taps, tokens))
    forward = count_forward(lambda: torch.ops.blocks.direct_convolution(u, k))
    backward = count_forward(lambda: torch.ops.blocks.direct_convolution_backward(u, u, k, for_taps))
    assert forward.matmul == 2 * batch * channels * pairs
    assert backward.matmul == (1 + for_taps) * forward.matmul


def test_the_direct_operators_are_the_sums_they_name() -> None:
    u, k, g = randn(3, 2, 9, grad=True), randn(3, 4, grad=True), randn(3, 2, 9)
    expected = torch.autograd.grad(shifted_sum(u, k), (u, k), g)
    for a, b in zip(shifted_sum_backward(g, u.detach(), k.detach(), True), expected, strict=True):
        close(a, b, 1e-13)
    assert torch.autograd.gradcheck(direct_convolution, (randn(2, 3, 5, grad=True), randn(3, 4, grad=True)))


@pytest.mark.parametrize("length", [2, 6, 30, 128, 270])
def test_two_monarch_factors_are_the_discrete_fourier_transform(length: int) -> None:
    x = randn(3, length)
    close(
        torch.view_as_real(monarch_dft_reference(x, *factors(length))),
        torch.view_as_real(torch.fft.fft(x)),
        1e-12,
    )


# --- causality in low precision ---------------------------------------------------------------------------------------


def leak(convolve: Any, dtype: torch.dtype) -> float:
    """How far the first half of the output moves when the second half of the input is replaced, relative to the output."""
    torch.manual_seed(0)
    u, k = torch.randn(4, 8, 512), torch.randn(8, 512)
    changed = torch.cat([u[..., :256], torch.randn(4, 8, 256)], dim=-1)
    a, b = (convolve(x.to(dtype), k.to(dtype))[..., :256].float() for x in (u, changed))
    return float((a - b).abs().max() / a.abs().max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("convolve", [toeplitz_convolution, direct_convolution])
def test_sums_without_a_transform_are_causal_to_the_last_bit(convolve: Any, dtype: torch.dtype) -> None:
    assert leak(convolve, dtype) == 0
    if convolve is toeplitz_convolution:
        assert leak(partial(convolve, precision=dtype), torch.float32) == 0


@settings(deadline=None, max_examples=20)
@given(tokens=st.integers(2, 140), data=st.data(), narrow=st.booleans())
def test_no_bit_of_the_past_moves_at_any_length_and_no_gradient_comes_from_the_future(
    tokens: int, data: st.DataObject, narrow: bool
) -> None:
    cut = data.draw(st.integers(1, tokens - 1), label="cut")
    convolve = partial(toeplitz_convolution, precision=torch.bfloat16 if narrow else None)
    u, k = randn(2, 3, tokens, dtype=torch.float32, grad=True), randn(3, tokens, dtype=torch.float32)
    changed = torch.cat([u[..., :cut], 1e3 * torch.randn(2, 3, tokens - cut)], dim=-1)
    y = convolve(u, k)
    assert torch.equal(y[..., :cut], convolve(changed, k)[..., :cut])
    (gradient,) = torch.autograd.grad(y[..., cut - 1].sum(), u)
    assert not gradient[..., cut:].any() and gradient[..., :cut].any()


def test_a_transform_in_bfloat16_leaks_the_future_and_one_in_single_precision_hardly() -> None:
    narrow = leak(partial(monarch_causal, precision=torch.bfloat16), torch.float32)
    assert 1e-3 < narrow < 3e-2  # some roundings of 2^-9, the largest of 8192 outputs
    assert leak(partial(long_convolution, algorithm="fft"), torch.float32) < 3e-6


def test_low_precision_costs_the_block_toeplitz_sum_its_two_operand_roundings_only() -> None:
    u, k = randn(2, 3, 300), randn(3, 300)
    y = toeplitz_convolution(u.float(), k.float(), precision=torch.bfloat16)
    # two roundings of at most 2^-9 each, of random sign: 2^-9 · sqrt(2/3) in the mean of a long sum, twice that for the norm of a few rows
    assert (y.double() - causal_convolution_direct(u, k)).norm() < 2**-8 * causal_convolution_direct(
        u, k
    ).norm()


# --- the choice -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(1, 20000),
    batch=st.integers(1, 64),
    taps=st.integers(1, 20000),
    precision=st.sampled_from([torch.bfloat16, torch.float16, torch.float8_e4m3fn]),
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_no_size_makes_the_dispatch_take_a_transform_where_low_precision_must_be_causal(
    tokens: int, batch: int, taps: int, precision: torch.dtype, device: str
) -> None:
    choice = choose(batch=batch, tokens=tokens, taps=taps, causal=True, precision=precision, device=device)
    assert choice.implementation not in TRANSFORMS
    assert "causal" in choice.reason


@pytest.mark.parametrize("algorithm", TRANSFORMS)
def test_a_transform_that_is_asked_for_by_name_is_refused_where_it_would_leak(algorithm: Algorithm) -> None:
    with pytest.raises(ConfigError, match="rounding leaks the future"):
        long_convolution(randn(1, 2, 8), randn(2, 8), algorithm=algorithm, precision=torch.bfloat16)


def test_an_unknown_algorithm_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'toeplitz'"):
        long_convolution(randn(1, 2, 8), randn(2, 8), algorithm="toplitz")  # type: ignore[arg-type]


def test_what_cannot_round_says_so() -> None:
    with pytest.raises(ConfigError, match="float32 or wider"):
        long_convolution(randn(1, 2, 8), randn(2, 8), algorithm="direct", precision=torch.bfloat16)
    with pytest.raises(ConfigError, match="floating type"):
        choose(batch=1, tokens=1, taps=1, causal=True, precision=torch.int8)


@pytest.mark.parametrize("taps", [1, 40])
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("causal", [True, False])
def test_what_runs_is_what_was_chosen(taps: int, precision: torch.dtype | None, causal: bool) -> None:
    u, k = torch.randn(2, 3, 40), torch.randn(3, taps)
    reverse = None if causal else torch.randn(3, taps - 1)
    choice = choose(batch=2, tokens=40, taps=taps, causal=causal, precision=precision)
    named = long_convolution(u, k, reverse, algorithm=choice.implementation, precision=precision)
    assert torch.equal(long_convolution(u, k, reverse, precision=precision), named)
    assert count_forward(
        lambda: long_convolution(u, k, reverse, precision=precision)
    ).total == algorithm_flops(
        choice.implementation, batch=2, channels=3, tokens=40, taps=taps, causal=causal
    )


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("tokens", [3, 8, 65])
def test_the_canonical_cost_is_the_transforms_whatever_runs(tokens: int, bidirectional: bool) -> None:
    """Shapes alone are counted as FFTs; what a real device executes stands in the choice."""
    long = LongConvolution(4, 65, order=8, emb=5, sine_frequency=10.0, bidirectional=bidirectional)
    fft = algorithm_flops("fft", batch=2, channels=4, tokens=tokens, taps=tokens, causal=not bidirectional)
    assert 2 * long.cost(tokens).fft + long.cost(tokens).shared_fft == fft
    assert choose(batch=2, tokens=tokens, taps=tokens, causal=True, device="meta").implementation == "fft"
    assert (
        long.executed_flops(2, tokens)
        == count_forward(lambda: long(torch.zeros(4, 2, tokens))).total - long.cost(tokens).shared_matmul
    )


def test_transform_lengths_split_into_two_useful_digits() -> None:
    for tokens in (64, 1000, 4096):
        n1, n2 = factors(fft_length(tokens))
        assert n1 * n2 == fft_length(tokens) and n1 >= n2 > 1

"""The implicit filter against the released one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m2_goldens import close, golden, group, load, ours

from blocks.convolution.filter import FilterStart, ImplicitFilter, decay_rates
from blocks.convolution.long import LongConvolution
from blocks.errors import ConfigError
from blocks.groups import parameter_groups


def released(name: str) -> tuple[dict[str, torch.Tensor], LongConvolution]:
    g = golden(f"hyena_filter_{name}")
    long = LongConvolution(
        16, 32, order=8, emb=5, sine_frequency=10.0, bidirectional=name == "bidir"
    ).double()
    mapped = {ours(key, "filter."): value for key, value in group(g, "param.").items()}
    load(long, {key: value for key, value in mapped.items() if key is not None})
    return g, long


@pytest.mark.parametrize("name", ["causal", "bidir"])
def test_kernels_and_convolution_equal_the_released_ones(name: str) -> None:
    g, long = released(name)
    close(long.filter(32), g["out.k_fwd_1LD"][0])
    close(long.filter(20), g["out.k_fwd_L20_1LD"][0])
    if name == "bidir":
        close(long.filter(32, reverse=True), g["out.k_rev_1LD"][0])
    close(long(g["in.x_BHL"].transpose(0, 1)).transpose(0, 1), g["out.y_BHL"])


@pytest.mark.parametrize("name", ["causal", "bidir"])
def test_single_precision_stays_close_to_the_released_output(name: str) -> None:
    g, long = released(name)
    close(long.float()(g["in.x_BHL"].float().transpose(0, 1)).transpose(0, 1), g["out.y_BHL"], 1e-4)


def test_positions_frequency_and_decay_start_as_released() -> None:
    g, filter = golden("hyena_filter_causal"), ImplicitFilter(16, 32, order=8, emb=5)
    close(filter.positions.detach(), g["init.pos_emb.z"][0], 1e-6)
    close(filter.frequency.detach(), g["init.implicit_filter.1.freq"][0], 0)
    close(decay_rates(16), g["init.modulation.deltas"].flatten().abs(), 1e-6)


def test_maps_start_uniform_within_one_over_root_of_fan_in() -> None:
    torch.manual_seed(0)
    filter = ImplicitFilter(256, 8, order=128, emb=5)
    for layer in filter.ahead:
        bound = layer.in_features**-0.5
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(
            bound / 3**0.5, rel=0.08
        )  # smallest map: 640 numbers


def test_kernels_that_start_at_zero_still_learn() -> None:
    filter = ImplicitFilter(6, 16, emb=17, reverse=True, start="zero")
    for reverse, maps in ((False, filter.ahead), (True, filter.behind)):
        kernel = filter(16, reverse=reverse)
        assert not kernel.any()
        kernel.sum().backward()
        assert maps[-1].weight.grad.abs().min() > 0


@pytest.mark.parametrize(("start", "rates"), [("zero", {0.02}), ("released", {1.0})])
def test_every_parameter_of_a_filter_that_starts_at_zero_is_slow(
    start: FilterStart, rates: set[float]
) -> None:
    filter = ImplicitFilter(6, 16, reverse=True, start=start)
    assert {group.rate for group in parameter_groups(filter).values()} == rates


def test_fixed_positions_do_not_grow_with_the_length() -> None:
    sizes = [
        sum(p.numel() for p in ImplicitFilter(6, tokens, train_positions=False).parameters())
        for tokens in (16, 4096)
    ]
    assert sizes[0] == sizes[1]


@settings(deadline=None, max_examples=20)
@given(tokens=st.integers(1, 40), reverse=st.booleans())
def test_the_kernel_of_a_shorter_sequence_is_a_prefix(tokens: int, reverse: bool) -> None:
    filter = ImplicitFilter(3, 40, order=8, emb=7, reverse=True).double()
    close(filter(tokens, reverse=reverse), filter(40, reverse=reverse)[:tokens], 1e-13)


def test_bf16_parameters_still_give_a_single_precision_kernel() -> None:
    assert ImplicitFilter(3, 8).bfloat16()(8).dtype == torch.float32


def test_autocast_does_not_touch_the_kernel() -> None:
    filter = ImplicitFilter(3, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = filter(8)
    assert torch.equal(inside, filter(8))


@pytest.mark.parametrize("reverse", [False, True])
def test_shared_flops_are_what_the_counted_network_executes(reverse: bool) -> None:
    filter = ImplicitFilter(6, 16, order=8, emb=5, reverse=reverse)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        filter(13)
        if reverse:
            filter(13, reverse=True)
    assert filter.cost(13).forward(5) == counter.get_total_flops()


@pytest.mark.parametrize("tokens", [1, 2])
def test_the_shortest_maximum_lengths_give_finite_kernels(tokens: int) -> None:
    assert ImplicitFilter(4, tokens)(tokens).isfinite().all()


@pytest.mark.parametrize("emb", [1, 2, 4, -1])
def test_an_even_or_tiny_embedding_is_refused(emb: int) -> None:
    with pytest.raises(ConfigError, match="odd"):
        ImplicitFilter(4, 8, emb=emb)


def test_more_taps_than_positions_are_refused() -> None:
    with pytest.raises(ConfigError, match="exceed max_tokens = 8"):
        ImplicitFilter(4, 8)(9)

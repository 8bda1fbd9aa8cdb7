"""FLOPs of a timed call, utilisation, and what shorter lengths foresee."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from arch_lab.accounting import count_forward
from arch_lab.models import Decoder, Shape, on_meta, recipe
from arch_lab.models.decoder import DecoderConfig
from experiments.throughput.config import Group
from experiments.throughput.foresight import foreseen_peak, foreseen_seconds
from experiments.throughput.timing import flops_share
from experiments.throughput.work import canonical_flops, executed_flops, layer_counts

SHAPE = Shape(width=64, depth=3, ffn_width=128)


def config_of(name: str, tokens: int, **options: Any) -> Any:
    return recipe(name, options).config(SHAPE, vocabulary=32, max_tokens=tokens)


def call(level: str, mode: str, tokens: int, batch: int = 1) -> Group:
    return Group(level=level, mode=mode, compiled=False, tokens=tokens, batch=batch)


def test_utilisation_is_flops_per_second_over_the_measured_rate() -> None:
    assert flops_share(3e9, 0.5, 6e10) == pytest.approx(0.1)
    assert flops_share(None, 0.5, 6e10) is None


# --- canonical ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), [("gemma2", {"window": 8}), ("m2_gpt", {})])
def test_a_step_costs_three_times_the_forward_of_the_ledger(name: str, options: dict[str, Any]) -> None:
    config = config_of(name, 48, **options)
    with on_meta():
        cost = Decoder(config).cost(48).forward(2)
    assert canonical_flops(config, call("model", "forward", 48, batch=2)) == cost
    assert canonical_flops(config, call("model", "step", 48, batch=2)) == 3 * cost


def test_decoding_has_no_canonical_flops() -> None:
    assert canonical_flops(config_of("m2_gpt", 48), call("model", "decode", 48)) is None


def test_a_prefill_computes_one_row_of_logits() -> None:
    config = config_of("gemma3", 48, window=8)
    whole, prompt = (canonical_flops(config, call("model", mode, 48)) for mode in ("forward", "prefill"))
    assert whole is not None and prompt is not None
    assert whole - prompt == 47 * 2 * 32 * 64  # 47 products with a table of 32 x 64


def test_the_mean_mixer_weights_its_kinds_by_number() -> None:
    config = config_of("gemma3", 48, window=8, pattern="LLG")
    assert [count for _, count in layer_counts(config)] == [2, 1]
    with on_meta():
        costs = [layer.mixer.build().cost(48).forward() for layer in config.layers]
    assert costs[0] != costs[2]
    assert canonical_flops(config, call("mixer", "forward", 48)) == pytest.approx(sum(costs) / 3)


def test_a_layer_costs_more_than_its_mixer() -> None:
    config = config_of("gemma3", 48, window=8, pattern="LLG")
    mixer, layer = (canonical_flops(config, call(level, "forward", 48)) for level in ("mixer", "layer"))
    assert mixer is not None and layer is not None and layer > mixer


# --- executed -------------------------------------------------------------------------------------------


def excess(config: DecoderConfig, tokens: int) -> float:
    """Executed minus canonical FLOPs of a mixer."""
    group = call("mixer", "forward", tokens)
    return executed_flops(config, group) - canonical_flops(config, group)  # type: ignore[operator]


def test_a_convolution_on_a_transform_executes_its_canonical_forward() -> None:
    config, group = config_of("m2_gpt", 64), call("model", "forward", 64)
    assert executed_flops(config, group) == canonical_flops(config, group)


def test_a_convolution_on_a_transform_executes_less_than_its_canonical_step() -> None:
    config, group = config_of("m2_gpt", 64), call("model", "step", 64)
    step, canonical = executed_flops(config, group), canonical_flops(config, group)
    assert step is not None and canonical is not None and 0.9 * canonical < step < canonical


def test_a_capped_mask_executes_every_pair_and_tiles_fewer() -> None:
    """Below 256 keys Gemma 2 runs under a mask: T² pairs instead of T(T+1)/2; 4·H·C FLOPs each."""
    config = config_of("gemma2", 512, pattern="G")
    heads = config.layers[0].mixer.heads * config.layers[0].mixer.channels
    assert excess(config, 64) == 4 * heads * (64**2 - 64 * 65 // 2)
    assert 0 < excess(config, 512) < 4 * heads * (512**2 - 512 * 513 // 2) / 4


def test_a_masked_attention_written_out_is_counted_as_a_graph_of_products() -> None:
    """The witness: the same formula as plain matmuls, counted operator by operator, no attention recorded."""
    config = config_of("gemma2", 64, pattern="G")
    tokens, heads, channels = 64, config.layers[0].mixer.heads, config.layers[0].mixer.channels
    q, k = (torch.empty(heads, tokens, channels, device="meta") for _ in range(2))
    products = count_forward(lambda: (q @ k.mT) @ k).total
    allowed = 4 * heads * channels * tokens * (tokens + 1) // 2
    assert excess(config, tokens) == products - allowed


@pytest.mark.parametrize("options", [{"pattern": "G"}, {"pattern": "L", "window": 64}])
def test_what_a_fused_kernel_skips_is_not_guessed(options: dict[str, Any]) -> None:
    config = config_of("gemma3", 600, **options)
    assert executed_flops(config, call("model", "forward", 600)) is None


# --- foresight ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    tokens: int
    batch: int = 1
    flops: float | None = None
    call_seconds: float | None = None
    peak_bytes: int | None = None


def test_seconds_are_foreseen_in_proportion_to_the_flops() -> None:
    shorter = [Cell(64, flops=1e9, call_seconds=2.0), Cell(128, flops=4e9, call_seconds=6.0)]
    assert foreseen_seconds(shorter, Cell(256, flops=12e9)) == 18
    assert foreseen_seconds(shorter, Cell(256)) == 12  # decoding: in proportion to T
    assert foreseen_seconds([], Cell(256, flops=1e9)) is None


def test_memory_is_foreseen_as_it_grew() -> None:
    shorter = [Cell(tokens, peak_bytes=tokens**2) for tokens in (64, 128)]
    assert foreseen_peak(shorter, Cell(256)) == pytest.approx(256**2)
    assert foreseen_peak(shorter[:1], Cell(128, batch=3)) == 3 * 64**2 * 2
    assert foreseen_peak([], Cell(128)) is None

"""The arithmetic of a throughput study: ratios, crossovers with their spread, utilisation, FLOPs asked for and executed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from arch_lab.accounting import count_forward
from arch_lab.judge.crossover import BELOW, CROSSES, NONE, UNKNOWN, crossing, crossovers, ratios, words
from arch_lab.models import Decoder, Shape, on_meta, recipe
from arch_lab.throughput import timing
from arch_lab.throughput.work import asked, executed, kinds

SHAPE = Shape(width=64, depth=3, ffn_width=128)
PLACE = {"level": "model", "mode": "forward", "compiled": False}


def config_of(name: str, tokens: int, **options: Any) -> Any:
    return recipe(name, options).config(SHAPE, vocabulary=32, max_tokens=tokens)


def row(arm: str, tokens: int, *seconds: float) -> dict[str, Any]:
    return {**PLACE, "arm": arm, "tokens": tokens, "seconds": list(seconds)}


# --- crossovers -------------------------------------------------------------------------------------------------------


def test_a_power_law_crosses_where_it_is_one() -> None:
    """ratio = (T / 1000)^0.7 is a straight line on logarithmic axes, so interpolation finds 1000 exactly."""
    points = [(t, (t / 1000) ** 0.7) for t in (128, 512, 2048, 8192)]
    found = crossing(points)
    assert found.where == CROSSES and found.tokens == pytest.approx(1000)


@pytest.mark.parametrize(
    ("points", "where"),
    [
        ([(128, 1.2), (512, 3.0)], BELOW),
        ([(128, 0.5), (512, 0.9)], NONE),
        ([], UNKNOWN),
        ([(128, 1.5), (512, 0.9)], NONE),
    ],
)
def test_no_crossing_is_an_answer(points: list[tuple[int, float]], where: str) -> None:
    assert crossing(points).where == where and crossing(points).tokens is None


def test_of_several_crossings_the_last_one_counts() -> None:
    found = crossing([(100, 2.0), (200, 0.5), (400, 2.0)])
    assert found.tokens == pytest.approx(math.sqrt(200 * 400))


def test_a_ratio_is_taken_pair_by_pair_and_not_of_medians() -> None:
    """The machine slows down threefold between rounds; each pair still says 2."""
    (found,) = ratios([row("a", 64, 1, 3, 9), row("b", 64, 2, 6, 18)], subject="a")
    assert (found["ratio"], found["ratio_low"], found["ratio_high"], found["peer"]) == (2, 2, 2, "b")


def test_the_spread_of_a_crossover_is_that_of_its_quartiles() -> None:
    # at 100 tokens the ratio is 1/2 everywhere; at 400 it lies between 1 (the line then meets 1 at 400) and 8 (at 100·4^(1/4))
    peers = [row("peer", 100, 0.5, 0.5, 0.5), row("peer", 400, 1, 2, 8)]
    ours = [row("ours", t, 1, 1, 1) for t in (100, 400)]
    (found,) = crossovers(ratios([*peers, *ours], subject="ours"))
    assert found["tokens"] == pytest.approx(200)
    assert found["earliest"]["tokens"] == pytest.approx(100 * 4**0.25)
    assert found["latest"]["tokens"] == pytest.approx(400)
    assert words(found) == "200 tokens [141, 400]"


def test_words_say_below_none_and_how_sure() -> None:
    def said(*at: tuple[int, tuple[float, float, float]]) -> str:
        rows = [row("ours", t, 1, 1, 1) for t, _ in at] + [row("peer", t, *three) for t, three in at]
        return words(crossovers(ratios(rows, subject="ours"))[0])

    assert said((128, (2, 2, 2)), (512, (3, 3, 3))) == "below 128 tokens"
    assert said((128, (0.5, 2, 2)), (512, (3, 3, 3))).startswith("below 128 tokens [< 128, ")
    assert (
        said((128, (0.5, 0.5, 0.5)), (4096, (0.8, 0.8, 0.8))) == "none up to 4,096 tokens (ratio 0.80 there)"
    )
    assert said((128, (0.5, 0.5, 0.5)), (4096, (0.8, 0.9, 2))).endswith(", > 4,096]")


def test_levels_modes_and_compiled_cells_are_never_mixed() -> None:
    rows = [
        {**row(arm, 64, s, s, s), "level": level}
        for level, s in (("mixer", 1.0), ("model", 5.0))
        for arm in ("a", "b")
    ]
    rows[1]["seconds"] = [4.0] * 3  # b's mixer alone is slow
    found = {r["level"]: r["ratio"] for r in ratios(rows, subject="a")}
    assert found == {"mixer": 4, "model": 1}


def test_what_was_not_measured_has_no_ratio() -> None:
    assert ratios([row("a", 64, 1, 1, 1), row("b", 64)], subject="a") == []


# --- FLOPs and utilisation --------------------------------------------------------------------------------------------


def test_utilisation_is_flops_a_second_over_the_measured_rate() -> None:
    assert timing.share(3e9, 0.5, 6e10) == pytest.approx(0.1)
    assert timing.share(None, 0.5, 6e10) is None


@pytest.mark.parametrize(("name", "options"), [("gemma2", {"window": 8}), ("m2_gpt", {})])
def test_a_forward_asks_for_what_the_ledger_counts_and_a_step_for_three_times_that(
    name: str, options: dict[str, Any]
) -> None:
    config = config_of(name, 48, **options)
    with on_meta():
        cost = Decoder(config).cost(48).forward(2)
    sizes = {"level": "model", "tokens": 48, "batch": 2}
    assert asked(config, mode="forward", **sizes) == cost
    assert asked(config, mode="step", **sizes) == 3 * cost
    assert asked(config, mode="decode", **sizes) is None


def test_a_prefill_asks_for_one_row_of_logits() -> None:
    config = config_of("gemma3", 48, window=8)
    whole, prompt = (asked(config, level="model", mode=m, tokens=48, batch=1) for m in ("forward", "prefill"))
    assert whole is not None and prompt is not None
    assert whole - prompt == 47 * 2 * 32 * 64  # 47 products with a table of 32 x 64


def test_the_mean_mixer_and_the_mean_layer_weight_their_kinds_by_number() -> None:
    config = config_of("gemma3", 48, window=8, pattern="LLG")
    assert [count for _, count in kinds(config)] == [2, 1]
    mixer = asked(config, level="mixer", mode="forward", tokens=48, batch=1)
    with on_meta():
        parts = [layer.mixer.build().cost(48).forward() for layer in config.layers]
    assert mixer == pytest.approx(sum(parts) / 3) and parts[0] != parts[2]
    layer = asked(config, level="layer", mode="forward", tokens=48, batch=1)
    assert layer is not None and mixer is not None and layer > mixer


def test_a_convolution_on_a_transform_executes_what_it_asks_for_forward_and_less_than_three_times_that_in_a_step() -> (
    None
):
    config = config_of("m2_gpt", 64)
    sizes = {"level": "model", "tokens": 64, "batch": 1}
    assert executed(config, mode="forward", **sizes) == asked(config, mode="forward", **sizes)
    step, canonical = executed(config, mode="step", **sizes), asked(config, mode="step", **sizes)
    assert step is not None and canonical is not None and 0.9 * canonical < step < canonical


def test_a_capped_mask_executes_every_pair_and_tiles_fewer() -> None:
    """Below 256 keys Gemma 2 runs under a mask: T² pairs, where T(T+1)/2 are asked for; 4·H·C FLOPs each."""
    config = config_of("gemma2", 512, pattern="G")
    heads = config.layers[0].mixer.heads * config.layers[0].mixer.channels

    def extra(tokens: int) -> float:
        sizes = {"level": "mixer", "mode": "forward", "tokens": tokens, "batch": 1}
        return executed(config, **sizes) - asked(config, **sizes)  # type: ignore[operator]

    assert extra(64) == 4 * heads * (64**2 - 64 * 65 // 2)
    assert 0 < extra(512) < 4 * heads * (512**2 - 512 * 513 // 2) / 4


def test_a_masked_attention_written_out_is_counted_as_a_graph_of_products() -> None:
    """The witness: the same formula as plain matmuls, counted operator by operator, no attention recorded."""
    config = config_of("gemma2", 64, pattern="G")
    tokens, heads, channels = 64, config.layers[0].mixer.heads, config.layers[0].mixer.channels
    q, k = (torch.empty(heads, tokens, channels, device="meta") for _ in range(2))
    products = count_forward(lambda: (q @ k.mT) @ k).total
    allowed = 4 * heads * channels * tokens * (tokens + 1) // 2
    sizes = {"level": "mixer", "mode": "forward", "tokens": tokens, "batch": 1}
    assert executed(config, **sizes) - asked(config, **sizes) == products - allowed  # type: ignore[operator]


def test_what_a_fused_kernel_skips_is_not_guessed() -> None:
    for window in (None, 64):
        config = config_of("gemma3", 600, pattern="L" if window else "G", window=window or 512)
        assert executed(config, level="model", mode="forward", tokens=600, batch=1) is None


# --- foresight --------------------------------------------------------------------------------------------------------


def test_seconds_are_foreseen_in_proportion_to_the_flops() -> None:
    before = [
        {"tokens": 64, "flops": 1e9, "call_seconds": 2.0},
        {"tokens": 128, "flops": 4e9, "call_seconds": 6.0},
    ]
    assert timing.call_seconds(before, {"tokens": 256, "flops": 12e9}) == 18
    assert timing.call_seconds(before, {"tokens": 256, "flops": None}) == 12  # decoding: in proportion to T
    assert timing.call_seconds([], {"tokens": 256, "flops": 1e9}) is None


def test_memory_is_foreseen_as_it_grew() -> None:
    before = [{"tokens": t, "batch": 1, "peak_bytes": t**2} for t in (64, 128)]
    assert timing.peak_foreseen(before, {"tokens": 256, "batch": 1}) == pytest.approx(256**2)
    assert timing.peak_foreseen(before[:1], {"tokens": 128, "batch": 3}) == 3 * 64**2 * 2
    assert timing.peak_foreseen([], {"tokens": 128, "batch": 1}) is None

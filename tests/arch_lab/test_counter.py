"""Formula and counted graph: two witnesses that agree to the last FLOP, at odd and prime sizes too."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import blocks
from arch_lab.accounting import count_forward, count_training
from arch_lab.models import EncoderDecoder, Shape, architectures, on_meta, recipe
from blocks.contract import CrossMixer
from blocks.convolution.fft import convolve_in_groups, correlate_in_groups, fft_length
from blocks.convolution.filter import ImplicitFilter
from blocks.cost import fft_flops
from blocks.dispatch import use_implementation
from blocks.errors import ConfigError
from blocks.vision.patches import PatchEmbedding

ENTRIES = {e.name: e for e in blocks.entries() if e.block.__module__.startswith("blocks.")}
# custom ones are frames for one of the mixers above; what reads images is counted in test_image_architectures.py
ARCHITECTURES = [
    name
    for name in architectures()
    if not name.startswith("custom") and name not in architectures("image_classifier")
]

OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "width": st.integers(5, 24),
    "memory_width": st.integers(5, 24),
    "ffn_width": st.integers(5, 40),
    "in_features": st.integers(4, 40),
    "out_features": st.integers(4, 40),
    "vocabulary": st.integers(2, 50),
    "max_tokens": st.just(80),
    "blocks": st.integers(1, 4),
    "filter_order": st.integers(1, 9),
    "filter_emb": st.sampled_from([3, 5, 7]),
    "residual_long_conv": st.booleans(),
    "bias": st.booleans(),
    "final_softcap": st.sampled_from([None, 30.0]),
    "softcap": st.sampled_from([None, 50.0]),
    "causal": st.booleans(),
    "order": st.integers(2, 4),
    "base": st.sampled_from([None, 2, 5]),
    "members": st.sampled_from(["separate", "shared"]),
    "classes": st.integers(2, 9),
    "outputs": st.integers(1, 4),
    "entities": st.integers(1, 9),
    "entity_width": st.none() | st.integers(1, 9),
    "embedding_width": st.integers(1, 9),
    "hidden": st.none() | st.integers(1, 9),
    "slots": st.integers(2, 9),
    "patch": st.integers(1, 5),
    "channels": st.integers(1, 4),
    "yes": st.just(0),
    "no": st.just(1),
}
BATCHES, LENGTHS = st.integers(1, 3), st.integers(1, 70)


@st.composite
def built(draw: st.DrawFn, name: str) -> Any:
    """A block on the meta device with options drawn for it."""
    entry = ENTRIES[name]
    known = {f.name for f in fields(entry.config)}
    options = {key: draw(values) for key, values in OPTIONS.items() if key in known}
    if name in ("entity_library", "triplet"):
        options["hidden"] = None  # one dense layer, whose width is another option
    if "kv_heads" in known:
        options["kv_heads"] = draw(st.integers(1, 2))
        options["heads"] = options["kv_heads"] * draw(st.integers(1, 3))
        options["head_width"] = 2 * draw(st.integers(1, 5))
        span = "window" if options.get("causal", True) else "radius"
        if span in known:
            options[span] = draw(st.none() | st.integers(1, 40))
    elif "heads" in known:
        options["heads"] = draw(st.integers(1, 3))
        options["width"] = options["heads"] * draw(st.integers(1, 8))
    with on_meta():
        return blocks.build(name, **options)


def run(block: Any, batch: int, tokens: int) -> Tensor:
    if hasattr(block, "logits"):
        return block.logits(block(torch.zeros(batch, tokens, dtype=torch.long, device="meta")))
    if isinstance(block, PatchEmbedding):  # one row of patches
        side, channels = block.config.patch, block.config.channels
        return block(torch.empty(batch, channels, side, side * tokens, device="meta", requires_grad=True))
    width = next(
        getattr(block.config, name)
        for name in ("width", "in_features", "vocabulary")
        if hasattr(block.config, name)
    )
    x = torch.empty(batch, tokens, width, device="meta", requires_grad=True)
    if isinstance(block, CrossMixer):  # a memory of as many tokens, which is what cost(tokens) means
        return block(x, torch.empty(batch, tokens, block.memory_width, device="meta", requires_grad=True))
    return block(x)


@pytest.mark.parametrize("name", ENTRIES)
@given(data=st.data(), batch=BATCHES, tokens=LENGTHS)
@settings(max_examples=12)
def test_the_formula_of_every_block_is_what_its_graph_executes(
    name: str, data: st.DataObject, batch: int, tokens: int
) -> None:
    block = data.draw(built(name))
    counted, cost = count_forward(lambda: run(block, batch, tokens)), block.cost(tokens)
    assert counted.unknown == ()
    assert counted.matmul == batch * cost.matmul + cost.shared_matmul
    assert counted.fft == batch * cost.fft + cost.shared_fft


CONVOLUTIONS = {"m2_mixer", "gated_long_conv", "monarch_polynomial"}


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - CONVOLUTIONS))
@given(data=st.data(), batch=BATCHES, tokens=LENGTHS)
@settings(max_examples=6)
def test_forward_and_backward_of_a_block_of_matmuls_execute_three_times_the_forward(
    name: str, data: st.DataObject, batch: int, tokens: int
) -> None:
    block = data.draw(built(name))
    forward, training = (
        count(lambda: run(block, batch, tokens)) for count in (count_forward, count_training)
    )
    assert (training.matmul, training.fft, training.unknown) == (3 * forward.matmul, 0, ())


@pytest.mark.parametrize("name", sorted(CONVOLUTIONS))
@given(data=st.data(), batch=BATCHES, tokens=st.integers(1, 40))
@settings(max_examples=6)
def test_training_a_convolution_executes_less_than_the_canonical_three_forwards(
    name: str, data: st.DataObject, batch: int, tokens: int
) -> None:
    """Why: the backward uses spectra of the forward, and one for both gradients; the short convolution's is elementwise.

    The learned product's small inverses (solves of d³ a block) cost three of themselves backwards, not two.
    """
    block = data.draw(built(name))
    forward, training = (
        count(lambda: run(block, batch, tokens)) for count in (count_forward, count_training)
    )
    width, length = block.config.width, fft_length(tokens)
    inner = getattr(block, "body", block)
    short = 0 if name == "gated_long_conv" else batch * inner.short.cost(tokens).matmul
    inverses = block.product.inverse_flops(tokens) if name == "monarch_polynomial" else 0
    # positions that are not trained have no gradient
    fixed = [m for m in block.modules() if isinstance(m, ImplicitFilter) and not m.positions.requires_grad]
    firsts = [maps[0].weight for m in fixed for maps in (m.ahead, m.behind) if maps is not None]
    first_maps = sum(2 * tokens * weight.numel() for weight in firsts)
    assert training.matmul == 3 * forward.matmul - 2 * short + inverses - first_maps
    convolutions = 1 + (getattr(inner, "residual", None) is not None)
    transforms, products = 2 * width * batch + width, 12 * (length // 2 + 1) * width * batch
    assert training.fft - forward.fft == convolutions * (fft_flops(length, transforms) + products)
    assert training.fft <= 3 * forward.fft


@pytest.mark.parametrize("name", ARCHITECTURES)
@given(depth=st.integers(1, 7), batch=BATCHES, tokens=LENGTHS)
@settings(max_examples=5)
def test_the_formula_of_every_architecture_is_what_its_graph_executes(
    name: str, depth: int, batch: int, tokens: int
) -> None:
    options = (
        {"window": 11}
        if name in ("gemma2", "gemma3", "gemma4")
        else {"radius": 5}
        if name == "gemma_encoder"
        else {}
    )
    config = recipe(name, options).config(
        Shape(width=32, depth=depth, ffn_width=56), vocabulary=61, max_tokens=70
    )
    model, row = config.build("meta"), torch.zeros(batch, tokens, dtype=torch.long, device="meta")
    if isinstance(model, EncoderDecoder):  # a source of another length than the target
        counted, cost = (
            count_forward(lambda: model(torch.zeros_like(row[:, :11]), row)),
            model.pair_cost(min(tokens, 11), tokens),
        )
    else:
        counted, cost = count_forward(lambda: model(row)), model.cost(tokens)
    assert counted.unknown == ()
    assert counted.matmul == batch * cost.matmul + cost.shared_matmul
    assert counted.fft == batch * cost.fft + cost.shared_fft
    assert counted.total == cost.forward(batch)


# --- attention ------------------------------------------------------------------------------------------------------


@given(tokens=st.integers(1, 40), window=st.none() | st.integers(1, 50))
def test_attention_is_charged_for_the_pairs_a_loop_over_the_rule_finds(
    tokens: int, window: int | None
) -> None:
    with on_meta():
        block = blocks.build("gemma2_attention", width=8, heads=2, head_width=4, window=window)
    counted = count_forward(lambda: block(torch.empty(1, tokens, 8, device="meta")))
    pairs = sum(1 for q in range(tokens) for k in range(q + 1) if window is None or k > q - window)
    projections = sum(2 * tokens * m.weight.numel() for m in (block.query, block.key, block.value, block.out))
    assert counted.matmul == projections + 4 * 2 * 4 * pairs


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_plain_causal_attention_is_charged_for_half_on_any_device(device: str) -> None:
    q = torch.zeros(2, 4, 9, 8, device=device)
    k = torch.zeros(2, 2, 9, 8, device=device)
    counted = count_forward(lambda: F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True))
    assert counted.matmul == 4 * 2 * 4 * 8 * (9 * 10 // 2)


def test_a_mask_with_values_is_counted_and_one_without_is_charged_in_full() -> None:
    q, mask = torch.zeros(1, 3, 6, 4), torch.ones(6, 6).tril().triu(-1).bool()
    assert count_forward(lambda: F.scaled_dot_product_attention(q, q, q, mask)).matmul == 4 * 3 * 4 * 11
    q, mask = q.to("meta"), mask.to("meta")
    assert count_forward(lambda: F.scaled_dot_product_attention(q, q, q, mask)).matmul == 4 * 3 * 4 * 36


def test_counting_changes_no_output_and_leaves_no_recorder_behind() -> None:
    from blocks.attention.core import attention_recorder

    block, x, seen = blocks.build("gemma2_attention", width=16, heads=2), torch.randn(2, 7, 16), []
    with use_implementation("reference"):  # a counted graph takes the formulas
        count_forward(lambda: seen.append(block(x)))
        assert torch.equal(seen[0], block(x))
    with pytest.raises(ZeroDivisionError):
        count_forward(lambda: 1 / 0)
    assert attention_recorder.current is None


# --- transforms and custom operators --------------------------------------------------------------------------------


@given(rows=st.integers(1, 5), n=st.integers(2, 60))
def test_a_real_transform_costs_what_the_formula_of_the_blocks_says_and_a_complex_one_twice_that(
    rows: int, n: int
) -> None:
    x = torch.empty(rows, n, device="meta")
    assert count_forward(lambda: torch.fft.rfft(x)).fft == fft_flops(n, rows)
    assert count_forward(lambda: torch.fft.irfft(torch.fft.rfft(x), n=n)).fft == 2 * fft_flops(n, rows)
    assert count_forward(lambda: torch.fft.fft(x.to(torch.complex64))).fft == 2 * fft_flops(n, rows)
    two = count_forward(lambda: torch.fft.rfft2(x)).fft
    assert two == fft_flops(n, rows) + 2 * fft_flops(rows, n // 2 + 1)


@given(d=st.integers(1, 5), b=st.integers(1, 3), tokens=st.integers(2, 40), for_taps=st.booleans())
def test_the_registered_formula_of_the_convolution_is_the_count_of_its_body(
    d: int, b: int, tokens: int, for_taps: bool
) -> None:
    u, taps, length = (
        torch.empty(d, b, tokens, device="meta"),
        torch.empty(d, tokens, device="meta"),
        fft_length(tokens),
    )
    op, back = torch.ops.blocks.circular_convolution, torch.ops.blocks.circular_convolution_backward
    assert count_forward(lambda: op(u, taps, length)) == count_forward(
        lambda: convolve_in_groups(u, taps, length)
    )
    _, *spectra = convolve_in_groups(u, taps, length, True)
    count = tokens if for_taps else 0
    body = count_forward(lambda: correlate_in_groups(u, *spectra, length, count))
    assert count_forward(lambda: back(u, *spectra, length, count)) == body


def test_a_complex_matmul_is_four_real_ones() -> None:
    a = torch.empty(3, 5, 7, dtype=torch.complex64, device="meta")
    assert count_forward(lambda: a @ a.mT).matmul == 4 * 2 * 3 * 5 * 5 * 7


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_the_backward_of_a_grouped_convolution_is_two_forwards(groups: int) -> None:
    """torch's own formula charges the weight gradient once for every group."""
    with on_meta():
        conv = nn.Conv1d(8, 8, 3, groups=groups, padding=1)
    x = torch.empty(2, 8, 13, device="meta", requires_grad=True)
    forward, training = count_forward(lambda: conv(x)), count_training(lambda: conv(x))
    assert forward.matmul == 2 * 2 * 13 * 8 * (8 // groups) * 3
    assert training.matmul == 3 * forward.matmul


def test_an_in_place_matmul_counts() -> None:
    a = torch.empty(3, 3, device="meta")
    assert count_forward(lambda: a.addmm_(a, a)).matmul == 54


@torch.library.custom_op("tests::unpriced", mutates_args=())
def _unpriced(x: Tensor) -> Tensor:
    return x @ x


@_unpriced.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda a: torch.linalg.solve(a, a), "_linalg_solve_ex"),
        (lambda a: torch.linalg.inv(a), "linalg_inv_ex"),
        (lambda a: a @ a[0], "mv"),
        (lambda a: a[0] @ a[0], "dot"),
        (lambda a: torch.cdist(a, a), "_cdist_forward"),
        (lambda a: _unpriced(a), "tests::unpriced"),
    ],
)
def test_what_nobody_can_price_is_named(call: Any, name: str) -> None:
    counted = count_forward(lambda: call(torch.empty(4, 4, device="meta")))
    assert any(name in unknown for unknown in counted.unknown)


def test_a_triangular_solve_is_one_product_and_sum_for_each_pair_of_entries() -> None:
    a, b = torch.empty(3, 5, 5, device="meta"), torch.empty(3, 5, 7, device="meta")
    counted = count_forward(lambda: torch.linalg.solve_triangular(a, b, upper=False))
    assert (counted.matmul, counted.unknown) == (3 * 7 * 5 * 5, ())


def test_elementwise_work_is_neither_counted_nor_unknown() -> None:
    x = torch.empty(3, 4, device="meta")
    counted = count_forward(
        lambda: F.layer_norm(F.gelu(x).cumsum(0).softmax(-1), (4,)).norm() + torch.outer(x[0], x[0]).sum()
    )
    assert (counted.total, counted.unknown) == (0, ())


def test_training_without_anything_to_train_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="requires a gradient"):
        count_training(lambda: torch.empty(3, 3, device="meta").exp())

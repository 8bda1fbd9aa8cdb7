"""The ledger: exact counts of whole models, and the conventions printed beside them."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from arch_lab.accounting import ledger
from arch_lab.models import Shape, recipe

ARCHITECTURES = ["gemma1", "gemma2", "gemma3", "m2_gpt"]
SHAPE = Shape(width=64, depth=3, ffn_width=128)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_four_lines_are_the_built_models_parameters(name: str) -> None:
    model = recipe(name).model(SHAPE, vocabulary=300, max_tokens=33)
    book = ledger(model.config, tokens=33, batch=2)
    assert book.parameters["total"] == sum(p.numel() for p in model.parameters())
    assert book.parameters["embedding"] == 300 * 64
    assert (
        book.parameters["embedding"] + book.parameters["head"] + book.parameters["body"]
        == book.parameters["total"]
    )
    assert sum(c.parameters for c in book.components) == book.parameters["total"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_components_spend_what_the_model_spends(name: str) -> None:
    config = recipe(name).config(SHAPE, vocabulary=300, max_tokens=33)
    book = ledger(config, tokens=33, batch=2)
    assert sum(c.flops_per_token for c in book.components) == pytest.approx(float(book.training), rel=1e-12)


def test_the_head_is_paid_for_although_its_table_is_tied() -> None:
    small, large = (recipe("gemma3").config(SHAPE, vocabulary=v, max_tokens=16) for v in (300, 1300))
    difference = ledger(large, tokens=16, batch=1).training - ledger(small, tokens=16, batch=1).training
    assert difference == 6 * 1000 * SHAPE.width


def test_a_counted_graph_of_dense_attention_exceeds_the_exact_count_by_the_masked_half_only() -> None:
    """Two witnesses: torch counts every score of full attention, the ledger the causal ones; nothing else differs."""
    tokens, batch, heads, head_width = 24, 2, 2, 32
    model = recipe("gemma1").model(SHAPE, vocabulary=300, max_tokens=tokens).to("meta")
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(batch, tokens, dtype=torch.long, device="meta"))
    masked = SHAPE.depth * 4 * heads * head_width * (tokens * tokens - tokens * (tokens + 1) // 2)
    assert (
        counter.get_total_flops()
        == ledger(model.config, tokens=tokens, batch=batch).cost.forward(batch) + batch * masked
    )


def test_shared_work_is_spread_over_the_batch() -> None:
    config = recipe("m2_gpt").config(SHAPE, vocabulary=300, max_tokens=32)
    one, eight = ledger(config, tokens=32, batch=1), ledger(config, tokens=32, batch=8)
    shared = one.cost.shared_matmul + one.cost.shared_fft
    assert shared > 0
    assert (one.forward - eight.forward) * 32 * 8 == 7 * shared


def test_palm_convention_of_an_all_global_model_is_six_n_plus_twelve_lhqt() -> None:
    config = recipe("gemma1").config(SHAPE, vocabulary=300, max_tokens=16)
    book = ledger(config, tokens=16, batch=1)
    assert book.conventions["palm"] == 6 * (book.parameters["body"] + 300 * 64) + 12 * 3 * 64 * 16
    assert book.conventions["six_nd"] == 6 * book.parameters["total"]

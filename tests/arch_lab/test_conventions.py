"""How far the conventions of other papers are from the exact count: the table of the documentation, recomputed.

Model A: width 512, 8 layers, gated hidden width 1408, 32,000 rows, 1024 tokens. Model B: width 1024, 24 layers, 2816, untied.
Heads of 64 channels, as many of keys as of queries. Our decoders are tied; an untied table only adds V·D parameters.
"""

from __future__ import annotations

import pytest

from arch_lab.accounting import ledger
from arch_lab.accounting.conventions import Scores, conventions, scores
from arch_lab.accounting.ledger import Ledger
from arch_lab.models import Shape, recipe
from blocks import Gemma1AttentionConfig, Gemma3AttentionConfig

VOCABULARY = 32_000
A, B = Shape(width=512, depth=8, ffn_width=1408), Shape(width=1024, depth=24, ffn_width=2816)


def book(shape: Shape, tokens: int) -> Ledger:
    options = {"head_width": 64, "kv_heads": None}
    return ledger(
        recipe("gemma1", options).config(shape, vocabulary=VOCABULARY, max_tokens=tokens),
        tokens=tokens,
        batch=1,
    )


def matmul_weights(shape: Shape) -> int:
    """Four attention maps and three of the gated unit, a layer."""
    return shape.depth * (4 * shape.width**2 + 3 * shape.width * shape.ffn_width)


@pytest.mark.parametrize(
    ("shape", "tokens", "printed"), [(A, 1024, 0.2776e9), (B, 4096, 2.650e9), (B, 32768, 6.878e9)]
)
def test_the_exact_count_is_six_n_plus_twelve_l_d_times_the_mean_keys(
    shape: Shape, tokens: int, printed: float
) -> None:
    exact = book(shape, tokens).training
    table = VOCABULARY * shape.width
    assert exact == 6 * (matmul_weights(shape) + table) + 12 * shape.depth * shape.width * (tokens + 1) / 2
    assert float(exact) == pytest.approx(printed, rel=3e-4)  # printed with four digits


TABLE = [  # A tied, A untied, B at 4096, B at 32768: percent off the exact count
    ("palm", 9.1, 9.1, 22.8, 70.2),
    ("six_nd", -9.1, 26.3, -15.4, -67.4),
    ("kaplan", -35.4, -35.4, -7.4, -2.9),
    ("chinchilla", 44.7, 44.7, 30.7, 74.8),
]


@pytest.mark.parametrize(("name", "a_tied", "a_untied", "b_4096", "b_32768"), TABLE)
def test_the_conventions_are_as_far_off_as_published(
    name: str, a_tied: float, a_untied: float, b_4096: float, b_32768: float
) -> None:
    for shape, tokens, untied, printed in (
        (A, 1024, False, a_tied),
        (A, 1024, True, a_untied),
        (B, 4096, True, b_4096),
        (B, 32768, True, b_32768),
    ):
        n, table = matmul_weights(shape), VOCABULARY * shape.width
        spans = shape.depth * shape.width * tokens
        found = conventions(
            non_embedding=n,
            total=n + table * (1 + untied),
            table=table,
            scores=Scores(windowed=spans, full=spans, heads=shape.depth * shape.width // 64 * tokens),
        )
        exact = 6 * (n + table) + 12 * shape.depth * shape.width * (tokens + 1) / 2
        assert 100 * (found[name] / exact - 1) == pytest.approx(
            printed, abs=0.051
        )  # printed with one decimal


def test_the_ledger_feeds_the_conventions_from_the_built_model() -> None:
    """Norm weights are parameters for 6ND and nobody else's FLOPs: 17 norms of 512 in model A."""
    found, n, table = book(A, 1024).conventions, matmul_weights(A) + 17 * 512, VOCABULARY * 512
    spans = 8 * 512 * 1024
    assert found == conventions(
        non_embedding=n,
        total=n + table,
        table=table,
        scores=Scores(windowed=spans, full=spans, heads=8 * 8 * 1024),
    )


def test_a_window_shortens_the_scores_of_palm_alone() -> None:
    local = Gemma3AttentionConfig(width=64, heads=4, window=10)
    assert scores([local], 100) == Scores(windowed=4 * 16 * 10, full=4 * 16 * 100, heads=400)


def test_a_radius_spans_both_sides_and_a_head_width_may_be_any() -> None:
    both = Gemma1AttentionConfig(width=64, heads=4, head_width=32, causal=False, radius=3)
    assert scores([both], 100) == Scores(windowed=4 * 32 * 7, full=4 * 32 * 100, heads=400)
    assert scores([both], 5).windowed == 4 * 32 * 5


def test_a_block_without_scores_is_given_none() -> None:
    found = ledger(
        recipe("m2_gpt").config(Shape(width=64, depth=2, ffn_width=64), vocabulary=100, max_tokens=32),
        tokens=32,
        batch=1,
    )
    assert found.conventions["palm"] == 6 * (found.parameters["body"] + 100 * 64)
    assert found.conventions["kaplan"] == 6 * found.parameters["body"]

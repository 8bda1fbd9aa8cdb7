"""Sampling: the nucleus exactly as defined, frequencies as probabilities say, one seed one text.

Legend: V vocabulary.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from arch_lab.generation import Sampling, nucleus
from arch_lab.generation.sampling import draw
from blocks.errors import ConfigError, UserError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(weights=st.lists(st.integers(0, 8), min_size=1, max_size=12).filter(any), top_p=st.floats(0.01, 1.0))
def test_the_nucleus_is_the_smallest_set_that_holds_top_p(weights: list[int], top_p: float) -> None:
    """Checked against every prefix of the sorted tokens; eighths of a power of two, so that sums are exact."""
    total = 2 ** (sum(weights) - 1).bit_length() if sum(weights) > 1 else 1
    p = torch.tensor(weights, dtype=torch.float64) / total
    ids, kept = nucleus(p, min(top_p, float(p.sum())))
    size = next(
        n
        for n in range(1, len(weights) + 1)
        if sum(sorted(p.tolist(), reverse=True)[:n]) >= min(top_p, float(p.sum()))
    )
    assert len(ids) == size and kept.tolist() == p[ids].tolist() == sorted(p.tolist(), reverse=True)[:size]
    # of equally likely tokens at the border the lower ids are in
    border = [i for i, w in enumerate(p.tolist()) if w == float(kept[-1])]
    assert [i for i in border if i in ids.tolist()] == border[: sum(i in ids.tolist() for i in border)]


def test_greedy_is_the_first_of_the_likeliest() -> None:
    assert Sampling().choose(torch.tensor([0.0, 3.0, 1.0, 3.0]), generator()) == 1


def test_frequencies_follow_the_tempered_probabilities() -> None:
    logits, drawn, n = torch.tensor([0.0, 1.0, 2.0]), generator(), 4000
    sampling = Sampling(temperature=0.5)
    counts = Counter(sampling.choose(logits, drawn) for _ in range(n))
    for token, p in enumerate((logits / 0.5).softmax(0).tolist()):
        # five standard deviations of a binomial
        assert abs(counts[token] / n - p) < 5 * (p * (1 - p) / n) ** 0.5


def test_nothing_outside_the_nucleus_is_ever_drawn() -> None:
    logits, drawn = torch.log(torch.tensor([0.05, 0.5, 0.15, 0.3])), generator()
    sampling = Sampling(temperature=1.0, top_p=0.7)
    assert {sampling.choose(logits, drawn) for _ in range(300)} == {1, 3}


def test_a_tiny_nucleus_and_a_tiny_temperature_are_greedy() -> None:
    logits = torch.randn(50)
    for sampling in (Sampling(temperature=1.0, top_p=1e-9), Sampling(temperature=1e-300)):
        assert sampling.choose(logits, generator()) == int(logits.argmax())


def test_the_same_seed_draws_the_same_tokens() -> None:
    logits, sampling = torch.randn(50), Sampling(temperature=2.0, top_p=0.9)
    texts = []
    for seed in (1, 1, 2):
        drawn = generator(seed)
        texts.append([sampling.choose(logits, drawn) for _ in range(20)])
    assert texts[0] == texts[1] != texts[2]


def test_a_token_without_weight_is_never_drawn() -> None:
    weights = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    drawn = generator()
    assert {draw(weights, drawn) for _ in range(200)} == {1, 3}


@pytest.mark.parametrize("logits", [torch.tensor([0.0, float("nan")]), torch.tensor([0.0, float("inf")])])
def test_logits_that_are_no_numbers_are_refused(logits: Tensor) -> None:
    with pytest.raises(UserError, match="not finite"):
        Sampling().choose(logits, generator())


@pytest.mark.parametrize(
    ("temperature", "top_p", "message"),
    [
        (0.0, 1.0, "temperature must be a positive number, got 0.0"),
        (-1.0, 1.0, "temperature must be a positive number"),
        (float("nan"), 1.0, "temperature must be a positive number"),
        (1.0, 0.0, "top_p must be above 0 and at most 1, got 0.0"),
        (1.0, 1.1, "top_p must be above 0"),
        (1.0, float("nan"), "top_p must be above 0"),
        (None, 0.9, "needs a temperature"),
    ],
)
def test_impossible_settings_are_refused(temperature: float | None, top_p: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(temperature=temperature, top_p=top_p)

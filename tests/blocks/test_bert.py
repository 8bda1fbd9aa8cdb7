"""The ends of a BERT: positions that follow the document, a tied table, exact counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import blocks
from blocks.errors import ConfigError


def test_the_embedding_is_the_norm_of_three_rows() -> None:
    block = blocks.build("bert_embedding", vocabulary=11, width=8, max_tokens=6).double()
    tokens, types = torch.randint(11, (2, 5)), torch.randint(2, (2, 5))
    rows = block.words[tokens] + block.kinds[types] + block.places[:5]
    torch.testing.assert_close(block(tokens, types=types), F.layer_norm(rows, (8,), eps=1e-12))
    torch.testing.assert_close(block(tokens), block(tokens, types=torch.zeros_like(types)))


def test_positions_start_anew_with_every_document() -> None:
    block = blocks.build("bert_embedding", vocabulary=11, width=8, max_tokens=4)
    segments = torch.tensor([[0, 3, 3, 3, 1, 1, 3, 0]])  # the second 3 is another document
    found = block(torch.zeros_like(segments), segments)
    alone = block(torch.zeros(1, 3, dtype=torch.long))
    torch.testing.assert_close(found[:, 1:4], alone)
    torch.testing.assert_close(found[:, 4:6], alone[:, :2])
    torch.testing.assert_close(found[:, 6:7], alone[:, :1])


@pytest.mark.parametrize("segments", [None, torch.ones(1, 5, dtype=torch.long)])
def test_a_document_longer_than_the_table_is_refused(segments: torch.Tensor | None) -> None:
    block = blocks.build("bert_embedding", vocabulary=11, width=8, max_tokens=4)
    with pytest.raises(ConfigError, match="5 tokens exceeds the 4 positions"):
        block(torch.zeros(1, 5, dtype=torch.long), segments)


def test_parameters_and_costs_follow_their_formulas() -> None:
    v, d, length, t = 50, 12, 7, 5
    embedding = blocks.build("bert_embedding", vocabulary=v, width=d, max_tokens=length)
    head = blocks.build("bert_head", width=d)
    assert sum(p.numel() for p in embedding.parameters()) == v * d + 2 * d + length * d + 2 * d + v
    assert sum(p.numel() for p in head.parameters()) == d * d + 3 * d
    assert embedding.cost(t) == blocks.Cost(matmul=2 * t * v * d, elementwise=t * (9 * d + v))
    assert head.cost(t) == blocks.Cost(matmul=2 * t * d * d, elementwise=t * 9 * d)


def test_the_head_and_the_tied_table_make_the_released_prediction() -> None:
    embedding, head = (
        blocks.build("bert_embedding", vocabulary=11, width=8),
        blocks.build("bert_head", width=8),
    )
    torch.nn.init.normal_(embedding.bias)
    x = torch.randn(2, 3, 8)
    hidden = F.layer_norm(F.gelu(x @ head.dense.weight.mT + head.dense.bias), (8,), eps=1e-12)
    torch.testing.assert_close(embedding.logits(head(x)), hidden @ embedding.words.mT + embedding.bias)


@pytest.mark.parametrize(
    ("name", "options"), [("bert_head", {"width": 0}), ("bert_embedding", {"width": 4, "vocabulary": 0})]
)
def test_sizes_below_one_are_refused(name: str, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        blocks.build(name, **options)

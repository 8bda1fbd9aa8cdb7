"""The tied table: one parameter, scaled on the way in only, capped on the way out."""

from __future__ import annotations

import pytest
import torch

from blocks.embedding import TiedEmbedding, TiedEmbeddingConfig
from blocks.errors import ConfigError


def _table(**options: object) -> TiedEmbedding:
    torch.manual_seed(0)
    return TiedEmbedding(TiedEmbeddingConfig.from_options({"vocabulary": 11, "width": 6, **options}))


def test_input_is_scaled_by_the_root_of_the_width_and_the_head_is_not() -> None:
    block, tokens = _table(), torch.tensor([[3, 0, 10]])
    torch.testing.assert_close(block(tokens), block.weight[tokens] * 6**0.5)
    torch.testing.assert_close(block.logits(torch.eye(6)), block.weight.T)


def test_scale_can_be_left_off() -> None:
    block, tokens = _table(scale=False), torch.tensor([[1, 2]])
    assert torch.equal(block(tokens), block.weight[tokens])


def test_scale_is_rounded_to_the_weights_dtype() -> None:
    """sqrt(3072) = 55.4256 is 55.5 in bfloat16; every released Gemma was trained with that."""
    block = TiedEmbedding(TiedEmbeddingConfig(vocabulary=3, width=3072)).bfloat16()
    with torch.no_grad():
        block.weight.fill_(1)
    assert block(torch.tensor([2])).unique().tolist() == [55.5]


def test_one_table_serves_both_ends() -> None:
    block = _table()
    assert sum(p.numel() for p in block.parameters()) == 66
    (block.logits(block(torch.tensor([[1]]))).sum()).backward()
    assert block.weight.grad is not None and bool(
        block.weight.grad.abs().sum(1).all()
    )  # head reaches every row


def test_final_softcap_bounds_the_logits_and_keeps_small_ones() -> None:
    capped, plain = _table(final_softcap=2.0), _table()
    x = 100 * torch.randn(5, 6)
    assert capped.logits(x).abs().max() <= 2
    torch.testing.assert_close(capped.logits(x), 2 * torch.tanh(plain.logits(x) / 2))
    torch.testing.assert_close(capped.logits(1e-4 * x), plain.logits(1e-4 * x), rtol=1e-4, atol=1e-6)


def test_rows_start_with_norm_one() -> None:
    """N(0, 1/sqrt(D)): scaled by sqrt(D) every input number has variance one."""
    torch.manual_seed(0)
    block = TiedEmbedding(TiedEmbeddingConfig(vocabulary=500, width=128))
    assert block(torch.arange(500)).std().item() == pytest.approx(
        1, rel=0.02
    )  # five standard errors over 64000 numbers are 1.4 %


def test_cost_counts_the_head_and_not_the_look_up() -> None:
    assert _table().cost(7).matmul == 2 * 7 * 11 * 6
    assert _table(scale=False).cost(7).elementwise == 0
    assert _table(final_softcap=30.0).cost(7).elementwise == 7 * (6 + 3 * 11)


@pytest.mark.parametrize("options", [{"vocabulary": 0}, {"width": 0}, {"final_softcap": 0.0}])
def test_impossible_tables_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        _table(**options)

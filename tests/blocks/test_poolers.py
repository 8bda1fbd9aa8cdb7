"""Poolers against what they are said to be; padding, rows, costs and gradients are under the laws of tests/contracts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import blocks
from arch_lab.laws.strategies import TokenShape, seeds, token_shapes
from blocks import ConfigError, Pooler
from blocks.registry import entries

D = 8
NAMES = [e.name for e in entries("pooler") if e.block.__module__.startswith("blocks.")]
OPTIONS: dict[str, dict[str, Any]] = {"attn_query": {"heads": 2}, "attn_kv": {"heads": 2, "slots": 3}}


def pooler(name: str, **options: Any) -> Pooler:
    built = blocks.build(name, width=D, **(OPTIONS.get(name, {}) | options)).double()
    assert isinstance(built, Pooler)
    return built


def draw(shape: TokenShape, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens, and a mask with at least one of them in every row."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape.batch, shape.tokens, D, generator=generator, dtype=torch.float64)
    valid = torch.rand(shape.batch, shape.tokens, generator=generator) < 0.6
    valid[torch.arange(shape.batch), torch.randint(shape.tokens, (shape.batch,), generator=generator)] = True
    return x, valid


@settings(max_examples=40)
@given(shape=token_shapes(longest=20), seed=seeds(), k=st.integers(1, 25))
def test_first_k_and_last_k_are_means_of_the_first_and_last_k_valid_tokens(
    shape: TokenShape, seed: int, k: int
) -> None:
    x, valid = draw(shape, seed)
    first, last, mean = (
        pooler("first_k", k=k)(x, valid),
        pooler("last_k", k=k)(x, valid),
        pooler("mean")(x, valid),
    )
    for i, row in enumerate(x):
        tokens = row[valid[i]]
        torch.testing.assert_close(first[i], tokens[:k].mean(dim=0), rtol=0, atol=1e-14)
        torch.testing.assert_close(last[i], tokens[-k:].mean(dim=0), rtol=0, atol=1e-14)
        if k >= len(tokens):
            assert torch.equal(first[i], mean[i]) and torch.equal(last[i], mean[i])


@settings(max_examples=25)
@given(shape=token_shapes(longest=20), seed=seeds())
def test_max_is_the_largest_value_of_each_channel_among_valid_tokens(shape: TokenShape, seed: int) -> None:
    x, valid = draw(shape, seed)
    wanted = torch.stack([row[kept].amax(dim=0) for row, kept in zip(x, valid, strict=True)])
    assert torch.equal(pooler("max")(x, valid), wanted)


def test_max_of_negative_tokens_is_not_the_zero_of_padding() -> None:
    x = torch.tensor([[[-3.0], [-2.0], [0.0]]])
    assert blocks.build("max", width=1)(x, torch.tensor([[True, True, False]])).item() == -2


def test_cls_without_its_layer_is_the_first_token_and_with_it_berts_pooler() -> None:
    x, valid = draw(TokenShape(3, 7), 0)
    bare, full = pooler("cls", dense=False), pooler("cls")
    first = pooler("first_k")(x, valid)
    assert torch.equal(bare(x, valid), first)
    torch.testing.assert_close(
        full(x, valid), torch.tanh(first @ full.dense.weight.T + full.dense.bias), rtol=0, atol=1e-14
    )


def test_attention_with_zero_scores_is_the_mean_of_the_values() -> None:
    x, valid = draw(TokenShape(2, 9), 1)
    query, kv = pooler("attn_query"), pooler("attn_kv")
    with torch.no_grad():
        query.query.zero_()
        kv.keys.zero_()
    torch.testing.assert_close(
        query(x, valid), pooler("mean")(x, valid) @ query.value.weight.T, rtol=0, atol=1e-14
    )
    torch.testing.assert_close(
        kv(x, valid), kv.values.mean(dim=1).flatten().expand(2, -1), rtol=0, atol=1e-14
    )


def test_a_learned_query_is_softmax_attention_written_out() -> None:
    x, valid = draw(TokenShape(2, 9), 2)
    block = pooler("attn_query")
    found = block(x, valid)
    for i in range(2):
        tokens = x[i, valid[i]]
        k, v = tokens @ block.key.weight.T, tokens @ block.value.weight.T
        parts = [
            (block.query[h] @ k[:, 4 * h : 4 * h + 4].T / 2).softmax(dim=0) @ v[:, 4 * h : 4 * h + 4]
            for h in range(2)
        ]  # √4 = 2
        torch.testing.assert_close(found[i], torch.cat(parts), rtol=0, atol=1e-14)


def test_learned_keys_and_values_are_read_by_each_token_and_averaged() -> None:
    x, valid = draw(TokenShape(2, 9), 3)
    block = pooler("attn_kv")
    for i, y in enumerate(block(x, valid)):
        tokens = x[i, valid[i]]
        parts = [
            (tokens[:, 4 * h : 4 * h + 4] @ block.keys[h].T / 2).softmax(dim=1) @ block.values[h]
            for h in range(2)
        ]
        torch.testing.assert_close(y, torch.cat(parts, dim=1).mean(dim=0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("junk", [float("nan"), float("inf")])
def test_not_even_nan_or_infinity_gets_out_of_padding(name: str, junk: float) -> None:
    """Outputs and the gradients of tokens and weights: 0 times infinity would be NaN."""
    block = pooler(name)
    x, valid = draw(TokenShape(3, 6), 4)
    valid[:, -2] = False
    valid[1] = False
    spoiled = x.masked_fill(~valid[..., None], junk).requires_grad_()
    y = block(spoiled, valid)
    torch.testing.assert_close(y, block(x, valid), rtol=0, atol=1e-14)
    assert (y[1] == 0).all()
    wanted = [spoiled, *block.parameters()]
    gradients = torch.autograd.grad(y.square().sum(), wanted)
    assert all(g.isfinite().all() for g in gradients) and not gradients[0][~valid].any()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_sums_are_taken_wide(name: str) -> None:
    """1,000 equal tokens: a running sum in bfloat16 would stop at 256."""
    block = blocks.build(name, width=D, **OPTIONS.get(name, {})).bfloat16()
    x = torch.ones(1, 1000, D, dtype=torch.bfloat16)
    torch.testing.assert_close(block(x).float(), block(x[:, :1]).float(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("x", "valid", "message"),
    [
        (torch.zeros(2, 0, D), None, "at least 1 token"),
        (torch.zeros(2, D), None, "a pooler reads"),
        (torch.zeros(2, 3, D), torch.ones(2, 3), "valid must be bool"),
        (torch.zeros(2, 3, D), torch.ones(2, 3, dtype=torch.long), "one document a row"),
        (torch.zeros(2, 3, D), torch.ones(2, 4, dtype=torch.bool), r"of shape \(2, 3\)"),
    ],
)
def test_ill_shaped_input_is_refused_in_one_line(
    name: str, x: Tensor, valid: Tensor | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        blocks.build(name, width=D, **OPTIONS.get(name, {}))(x, valid)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mean", {"width": 0}, "width must be at least 1"),
        ("first_k", {"width": 4, "k": 0}, "k must be at least 1"),
        ("attn_query", {"width": 6, "heads": 4}, "must be a multiple of heads"),
        ("attn_query", {"width": 6, "heads": 0}, "heads must be at least 1"),
        ("attn_kv", {"width": 8, "slots": 1}, "slots must be at least 2"),
    ],
)
def test_impossible_poolers_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        blocks.build(name, **options)


@pytest.mark.parametrize("mixer", ["gemma3_attention", "m2_mixer"])
def test_on_a_causal_mixer_the_first_token_cannot_know_the_text_and_the_last_can(mixer: str) -> None:
    """Why last_k is the pooler of a causal encoder; in both directions every pooler sees everything."""
    own = (
        {"heads": 2}
        if mixer == "gemma3_attention"
        else {"max_tokens": 8, "filter_order": 8, "start": "released"}
    )
    x = torch.randn(1, 8, D, dtype=torch.float64)
    changed = x.clone()
    changed[:, 4] += 1
    moved = {}
    for causal in (True, False):
        layer = blocks.build(mixer, width=D, causal=causal, **own).double()
        for name in ("first_k", "last_k"):
            pool = pooler(name)
            moved[causal, name] = (pool(layer(changed)) - pool(layer(x))).abs().max().item()
    assert moved[True, "first_k"] < 1e-13  # a transform leaks its rounding
    assert min(moved[True, "last_k"], moved[False, "first_k"], moved[False, "last_k"]) > 1e-6

"""``arch-lab bench attention``: local attention, rotation and generation against what one would write by hand.

Legend: B batch, T tokens, H query heads, K key/value heads, C head width, w window, D width.
Every contender computes the same numbers, which is checked first, except full causal attention: it is the
price of no window at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from arch_lab.bench.gemma import HEAD_WIDTH, HEADS, KV_HEADS, WINDOW, random_model, twin
from arch_lab.bench.protocol import (
    Call,
    Row,
    Skipped,
    measure,
    one_thread_clock,
    peak_bytes,
    with_gradients,
)
from arch_lab.models.gemma import Gemma3
from blocks.attention.core import attend
from blocks.attention.masks import visible
from blocks.attention.rope import rope_tables, rope_tables_of, rotate

LOCAL_TOKENS, MEMORY_LENGTHS = 8192, (2048, 4096, 8192)
ROTATED = ((4, 256), (1, 2048))  # (B, T)
WIDTHS, PROMPT, NEW_TOKENS = (128, 256), 64, 64
REPEATS = 7
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def attention() -> Iterator[Row | Skipped]:
    yield from local_rows()
    yield from rotation_rows()
    yield from generation_rows()


# --- local attention ----------------------------------------------------------------------------------------


def local_rows() -> Iterator[Row]:
    """Folds against the same function under a mask and in blocks, and against full causal attention."""
    tokens = LOCAL_TOKENS
    inputs, mask = heads(tokens), visible(tokens, tokens, causal=True, window=WINDOW)

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

    def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    shape = f"B 1, T {tokens}, H {HEADS}, K {KV_HEADS}, C {HEAD_WIDTH}, w {WINDOW}"
    peers = {"masked SDPA": masked, "block-local by hand": block_local, "full causal SDPA": causal}
    for name, timed in (("forward", forward), ("forward+backward", with_gradients)):
        peaks = {length: peak_bytes(timed(folded, heads(length))) for length in MEMORY_LENGTHS}
        for peer, baseline in peers.items():
            row = measure(
                f"local attention {name}",
                shape,
                timed(folded, inputs),
                peer,
                timed(baseline, inputs),
                same=baseline is not causal,
                repeats=REPEATS,
                clock=one_thread_clock(),
            )
            yield replace(row, peak_bytes=peaks)


def heads(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, count, tokens, HEAD_WIDTH) for count in (HEADS, KV_HEADS, KV_HEADS))
    return q, k, v


def forward(function: Attention, inputs: tuple[Tensor, Tensor, Tensor]) -> Call:
    return torch.no_grad()(partial(function, *inputs))


def folded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(q, k, v, scale=HEAD_WIDTH**-0.5, window=WINDOW)


def block_local(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Blocks of w queries against the keys of their own block and the one before it."""
    batch, count, tokens, width = q.shape
    w, blocks = WINDOW, -(-tokens // WINDOW)
    q, k, v = (F.pad(t, (0, 0, 0, blocks * w - tokens)).unflatten(2, (blocks, w)) for t in (q, k, v))
    k, v = (torch.cat((F.pad(t, (0, 0, 0, 0, 1, 0))[:, :, :-1], t), dim=3) for t in (k, v))
    distance = torch.arange(w)[:, None] + w - torch.arange(2 * w)
    inside = (distance >= 0) & (distance < w)
    first = inside & (torch.arange(2 * w) >= w)  # the block before the first is padding
    mask = torch.stack([first, *[inside] * (blocks - 1)])[:, None].repeat(batch, 1, 1, 1)
    q, k, v = (t.transpose(1, 2).flatten(0, 1) for t in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    return y.unflatten(0, (batch, blocks)).transpose(1, 2).reshape(batch, count, -1, width)[:, :, :tokens]


# --- rotation -----------------------------------------------------------------------------------------------


def rotation_rows() -> Iterator[Row]:
    """Tables and rotation of queries and keys, forward and backward."""
    torch.manual_seed(0)
    for batch, tokens in ROTATED:
        x = torch.randn(batch, tokens, 1)
        q, k = (torch.randn(batch, tokens, count, HEAD_WIDTH).transpose(1, 2) for count in (HEADS, KV_HEADS))
        built = tables(tokens)

        def subject(q: Tensor, k: Tensor, x: Tensor = x) -> Tensor:
            cos, sin = rope_tables_of(x, HEAD_WIDTH, base=1e4)
            return torch.cat((rotate(q, cos, sin), rotate(k, cos, sin)), dim=1)

        def with_kept_tables(q: Tensor, k: Tensor, built: tuple[Tensor, Tensor] = built) -> Tensor:
            return torch.cat([rotate_half(t, *built) for t in (q, k)], dim=1)

        def with_new_tables(q: Tensor, k: Tensor, tokens: int = tokens) -> Tensor:
            return with_kept_tables(q, k, tables(tokens))

        shape = f"B {batch}, T {tokens}, H {HEADS}, K {KV_HEADS}, C {HEAD_WIDTH}"
        peers: dict[str, Callable[..., Tensor]] = {
            "by hand, tables built per call": with_new_tables,
            "by hand, tables kept": with_kept_tables,
        }
        for peer, function in peers.items():
            yield measure(
                "rotation forward+backward",
                shape,
                with_gradients(subject, (q, k)),
                peer,
                with_gradients(function, (q, k)),
                same=True,
                repeats=5 * REPEATS,
                clock=one_thread_clock(),
            )


def tables(tokens: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines over the whole head width."""
    cos, sin = rope_tables(torch.arange(tokens), HEAD_WIDTH, base=1e4, dtype=torch.float32)
    return torch.cat((cos, cos), dim=-1), torch.cat((sin, sin), dim=-1)


def rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


# --- generation ---------------------------------------------------------------------------------------------


def generation_rows() -> Iterator[Row | Skipped]:
    """Greedy tokens of a Gemma 3 after a prompt, against ``transformers`` with the same weights."""
    if find_spec("transformers") is None:
        reason = "transformers is not installed: pip install transformers"
        yield Skipped(name="generation", reason=reason)
        return
    for width in WIDTHS:
        model = random_model(Gemma3, PROMPT + NEW_TOKENS, width)
        peer = twin(model, "Gemma3", "sdpa").model
        prompt = torch.randint(1, model.config.embedding.vocabulary, (1, PROMPT))  # type: ignore[attr-defined]
        peers = {"bare loop over transformers": bare_loop, "transformers generate": generate}
        for name, function in peers.items():
            yield measure(
                "generation, gemma3",
                f"B 1, D {width}, {NEW_TOKENS} tokens after {PROMPT}",
                partial(our_loop, model, prompt),
                name,
                partial(function, peer, prompt),
                same=True,
                tolerance=0,
                repeats=REPEATS,
                clock=one_thread_clock(),
            )


@torch.inference_mode()
def our_loop(model: Any, prompt: Tensor) -> Tensor:
    """The loop of arch_lab.generation, greedy."""
    state = model.init_state(1, PROMPT + NEW_TOKENS - 1, reserve=True)
    logits, state = model.prefill(prompt, state, last_only=True)
    tokens = [logits[:, -1].argmax(-1)]
    while len(tokens) < NEW_TOKENS:
        logits, state = model.step(tokens[-1], state)
        tokens.append(logits.argmax(-1))
    return torch.stack(tokens, dim=1).double()


@torch.inference_mode()
def bare_loop(model: Any, prompt: Tensor) -> Tensor:
    """Their model and cache without their ``generate``."""
    output = model(prompt, use_cache=True, logits_to_keep=1)
    tokens = [output.logits[:, -1].argmax(-1)]
    while len(tokens) < NEW_TOKENS:
        output = model(tokens[-1][:, None], past_key_values=output.past_key_values, use_cache=True)
        tokens.append(output.logits[:, -1].argmax(-1))
    return torch.stack(tokens, dim=1).double()


def generate(model: Any, prompt: Tensor) -> Tensor:
    tokens = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
        do_sample=False,
        pad_token_id=0,
    )
    return tokens[:, PROMPT:].double()  # type: ignore[no-any-return]

"""Merged attention of T5Gemma 2.

Self-attention and cross-attention in one softmax, through one set of weights.

Legend: B batch, T tokens, S memory tokens, D width, H query heads, K key/value heads, C head width, w window.
Sources: arXiv 2512.14856; transformers models/t5gemma2 (T5Gemma2MergedAttention). Keys and values are those
of the decoder's own tokens, then those of the encoder's output. All keys pass the key norm, all queries the
query norm; own keys and queries are rotated, the encoder's keys are not: they stand at position 0. Own keys
are seen causally, in local layers through the window; the encoder's are all seen, in local layers too.
Nothing is added to the weights of Gemma 3's attention.
Since the encoder's keys stand still while queries turn, a score depends on the query's absolute position:
positions count from each document's own start (transformers counts padding on the left of the decoder in,
unless it is told positions).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from blocks.attention.heads import HeadsConfig
from blocks.attention.masks import attended_pairs, check_span
from blocks.attention.memory import attend_memory, check_memory, memory_mask, without_padding
from blocks.attention.rope import rope_tables_of, rotate
from blocks.contract import Block, CrossMixer, parameter_dtype
from blocks.cost import Cost, total
from blocks.linear import dense
from blocks.norm import RMSNorm, RMSNormConfig
from blocks.registry import register
from blocks.segments import check

Turn = tuple[Tensor, Tensor]  # cosines and sines, broadcast over heads


@dataclass(frozen=True, kw_only=True)
class GemmaMergedAttentionConfig(HeadsConfig):
    """``width`` is that of both sequences: they share the projections."""

    # own keys seen, the token itself included; None = all. The memory is always seen
    window: int | None = None
    rope_base: float = 10_000.0
    rope_factor: float = 1.0  # positions divided by this

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_pairs()
        check_span(type(self).__name__, causal=True, window=self.window, radius=None)


@dataclass(frozen=True)
class MergedState:
    """Keys and values of the decoder's tokens and of the memory.

    Decoder: (B, K, n, C) of the last n = min(t, window) of ``position`` = t tokens; memory: (B, K, S, C).
    """

    k: Tensor
    v: Tensor
    memory_k: Tensor
    memory_v: Tensor
    readable: Tensor | None  # (B, 1, 1, S) if the memory is padded
    position: int


@register(
    "gemma_merged_attention",
    kind="cross_mixer",
    config=GemmaMergedAttentionConfig,
    source="arXiv:2512.14856",
    complexity="O(T²+T·S), with a window O(T·(w+S))",
)
class GemmaMergedAttention(CrossMixer):
    """Causal self-attention and attention to a memory of the same width, in one softmax over both.

    Shape: x (B, T, D), memory (B, S, D) -> (B, T, D). Cost: D·C·(2H + 2K) + 2·C weights; 4·T·D·H·C + 4·(T +
    S)·D·K·C FLOPs plus 4·H·C·(own pairs + T·S), own pairs counted exactly. Elementwise, per pair and head: 1
    scale, 5 softmax; per number of q and own keys 7 (norm 4, rotation 3), of the memory's keys 4. State:
    2·K·C numbers a kept own token and a memory token.
    Raises: ConfigError for segments or a memory of another shape than the input's.
    """

    config: GemmaMergedAttentionConfig

    def __init__(self, config: GemmaMergedAttentionConfig) -> None:
        super().__init__(config)
        inner, kv_inner = config.heads * config.channels, config.kv_heads * config.channels
        self.query = dense(config.width, inner)
        self.key = dense(config.width, kv_inner)
        self.value = dense(config.width, kv_inner)
        self.out = dense(inner, config.width)
        # names and shapes of gemma3_attention, so that its weights fit as they are
        self.query_norm = RMSNorm(RMSNormConfig(width=config.channels))
        self.key_norm = RMSNorm(RMSNormConfig(width=config.channels))
        self.scale = config.channels**-0.5 if config.query_scale is None else config.query_scale

    @property
    def memory_width(self) -> int:
        return self.config.width

    def reset_parameters(self) -> None:
        for block in self.children():
            if isinstance(block, Block):
                block.reset_parameters()

    def forward(
        self, x: Tensor, memory: Tensor, segments: Tensor | None = None, memory_segments: Tensor | None = None
    ) -> Tensor:
        if segments is not None:
            check(segments, x)
        check_memory(x, memory, memory_segments)
        x = without_padding(x, segments)
        turn = self._turns(x, start=0, segments=segments)
        read = self._keys(without_padding(memory, memory_segments), turn=None)
        return self._attend(
            x, turn, self._keys(x, turn), read, memory_mask(segments, memory_segments), segments
        )

    def _turns(self, x: Tensor, start: int, segments: Tensor | None = None) -> Turn:
        """Cosines and sines at positions start, start + 1, …, or at those within each document."""
        config = self.config
        cos, sin = rope_tables_of(
            x,
            config.channels,
            segments=segments,
            start=start,
            base=config.rope_base,
            factor=config.rope_factor,
        )
        return (cos, sin) if segments is None else (cos[:, None], sin[:, None])  # one for all heads

    def _keys(self, x: Tensor, turn: Turn | None) -> tuple[Tensor, Tensor]:
        """Normed keys and plain values (B, K, n, C); the memory's (``turn`` None) are not rotated."""
        c = self.config.channels
        k = self.key_norm(rearrange(self.key(x), "b t (k c) -> b k t c", c=c))
        return k if turn is None else rotate(k, *turn), rearrange(self.value(x), "b t (k c) -> b k t c", c=c)

    def _attend(
        self,
        x: Tensor,
        turn: Turn,
        own_entries: tuple[Tensor, Tensor],
        read: tuple[Tensor, Tensor],
        readable: Tensor | None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Attend x to ``own_entries``, which end at the last query, and to ``read``."""
        q = self.query_norm(rearrange(self.query(x), "b t (h c) -> b h t c", c=self.config.channels))
        y = attend_memory(
            rotate(q, *turn),
            torch.cat((own_entries[0], read[0]), dim=2).to(q.dtype),
            torch.cat((own_entries[1], read[1]), dim=2).to(q.dtype),
            memory=read[0].shape[2],
            scale=self.scale,
            readable=readable,
            window=self.config.window,
            segments=segments,
            offset=own_entries[0].shape[2] - x.shape[1],
        )
        return self.out(rearrange(y, "b h t c -> b t (h c)"))

    # --- decoding -------------------------------------------------------------------------------------------

    def init_state(
        self, memory: Tensor, max_tokens: int, memory_segments: Tensor | None = None
    ) -> MergedState:
        """The memory's keys and values.

        The own ones grow with what they hold, so ``max_tokens`` reserves nothing.
        """
        check_memory(memory, memory, memory_segments)
        k, v = self._keys(without_padding(memory, memory_segments), turn=None)
        empty = k.new_empty((*k.shape[:2], 0, k.shape[3]))
        return MergedState(
            k=empty, v=empty, memory_k=k, memory_v=v, readable=memory_mask(None, memory_segments), position=0
        )

    def prefill(self, x: Tensor, state: MergedState) -> tuple[Tensor, MergedState]:
        window = self.config.window
        turn = self._turns(x, start=state.position)
        k, v = self._keys(x, turn)
        # the first new query still needs the last w-1 old keys: attend over old and new, and only then forget
        retained = state.k.shape[2] if window is None else min(state.k.shape[2], window - 1)
        first = state.k.shape[2] - retained
        k = torch.cat((state.k[:, :, first:], k.to(state.k.dtype)), dim=2)
        v = torch.cat((state.v[:, :, first:], v.to(state.v.dtype)), dim=2)
        y = self._attend(x, turn, (k, v), (state.memory_k, state.memory_v), state.readable)
        if window is not None and k.shape[2] > window:
            # a view would keep the whole chunk alive
            k, v = k[:, :, -window:].clone(), v[:, :, -window:].clone()
        next_state = MergedState(
            k=k,
            v=v,
            memory_k=state.memory_k,
            memory_v=state.memory_v,
            readable=state.readable,
            position=state.position + x.shape[1],
        )
        return y, next_state

    def state_bytes(self, tokens: int, memory_tokens: int) -> int:
        config = self.config
        entries = tokens if config.window is None else min(tokens, config.window)
        return (
            2 * config.kv_heads * config.channels * parameter_dtype(self).itemsize * (entries + memory_tokens)
        )

    # --- the ledger -----------------------------------------------------------------------------------------

    def cost(self, tokens: int, memory_tokens: int | None = None) -> Cost:
        config, read = self.config, tokens if memory_tokens is None else memory_tokens
        pairs = config.heads * (attended_pairs(tokens, causal=True, window=config.window) + tokens * read)
        rotated, plain = (
            tokens * (config.heads + config.kv_heads) * config.channels,
            read * config.kv_heads * config.channels,
        )
        attention = Cost(matmul=4 * config.channels * pairs, elementwise=6 * pairs + 7 * rotated + 4 * plain)
        projections = (
            self.query.cost(tokens),
            self.key.cost(tokens + read),
            self.value.cost(tokens + read),
            self.out.cost(tokens),
        )
        return attention + total(projections)

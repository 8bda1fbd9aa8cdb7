"""Cross-attention of T5Gemma: the decoder's queries over the encoder's output.

Legend: B batch, T tokens, S memory tokens, D width, M memory width, H query heads, K key/value heads, C head
width.
Sources: arXiv 2504.06225; google-deepmind/gemma gemma/research/t5gemma/modules.py. Heads as in the decoder's
self-attention, keys and values projected from the encoder's width, no rotation of either side, never local.
Order: project, scale, soft-cap, mask, softmax, values, out-projection. No biases.
"""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor

from blocks.attention.heads import HeadsConfig
from blocks.attention.memory import attend_memory, check_memory, memory_mask, without_padding
from blocks.contract import CrossMixer, parameter_dtype
from blocks.cost import Cost, total
from blocks.errors import ConfigError
from blocks.linear import dense
from blocks.registry import register
from blocks.segments import check


@dataclass(frozen=True, kw_only=True)
class GemmaCrossAttentionConfig(HeadsConfig):
    memory_width: int | None = None  # of the encoder; None: the decoder's own
    kv_heads: int = 2
    softcap: float | None = 50.0  # c: scores become c·tanh(scores / c)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory_width is not None and self.memory_width < 1:
            raise ConfigError(
                f"{type(self).__name__}: memory_width must be at least 1, got {self.memory_width}"
            )


@dataclass(frozen=True)
class CrossState:
    """Keys and values (B, K, S, C) of the whole memory, and a mask (B, 1, 1, S) of the readable ones."""

    k: Tensor
    v: Tensor
    readable: Tensor | None


@register(
    "gemma_cross_attention",
    kind="cross_mixer",
    config=GemmaCrossAttentionConfig,
    source="arXiv:2504.06225",
    complexity="O(T·S)",
)
class GemmaCrossAttention(CrossMixer):
    """Attention of T queries over S memory tokens, without positions.

    Each output depends on its own token of x alone.
    Shape: x (B, T, D), memory (B, S, M) -> (B, T, D). Cost: 2·D·H·C + 2·M·K·C weights; 4·T·D·H·C + 4·S·M·K·C
    + 4·H·C·T·S FLOPs; elementwise, per pair and head: 1 scale, 5 softmax, 3 soft-cap. State: the memory's
    keys and values, 2·K·C numbers a memory token, whatever T. Queries that see nothing (an all-padding
    memory) give zeros.
    Raises: ConfigError for segments or a memory of another shape than the input's.
    """

    config: GemmaCrossAttentionConfig

    def __init__(self, config: GemmaCrossAttentionConfig) -> None:
        super().__init__(config)
        inner, kv_inner = config.heads * config.channels, config.kv_heads * config.channels
        self.query = dense(config.width, inner)
        self.key = dense(self.memory_width, kv_inner)
        self.value = dense(self.memory_width, kv_inner)
        self.out = dense(inner, config.width)
        self.scale = config.channels**-0.5 if config.query_scale is None else config.query_scale

    @property
    def memory_width(self) -> int:
        return self.config.width if self.config.memory_width is None else self.config.memory_width

    def reset_parameters(self) -> None:
        for linear in (self.query, self.key, self.value, self.out):
            linear.reset_parameters()

    def forward(
        self, x: Tensor, memory: Tensor, segments: Tensor | None = None, memory_segments: Tensor | None = None
    ) -> Tensor:
        if segments is not None:
            check(segments, x)
        k, v = self._read(x, memory, memory_segments)
        return self._attend(
            without_padding(x, segments), k, v, memory_mask(segments, memory_segments), segments
        )

    def _read(self, x: Tensor, memory: Tensor, memory_segments: Tensor | None) -> tuple[Tensor, Tensor]:
        check_memory(x, memory, memory_segments)
        memory = without_padding(memory, memory_segments)
        c = self.config.channels
        return rearrange(self.key(memory), "b s (k c) -> b k s c", c=c), rearrange(
            self.value(memory), "b s (k c) -> b k s c", c=c
        )

    def _attend(
        self, x: Tensor, k: Tensor, v: Tensor, readable: Tensor | None, segments: Tensor | None = None
    ) -> Tensor:
        q = rearrange(self.query(x), "b t (h c) -> b h t c", c=self.config.channels)
        cap = self.config.softcap
        y = attend_memory(
            q, k, v, memory=k.shape[2], scale=self.scale, readable=readable, softcap=cap, segments=segments
        )
        return self.out(rearrange(y, "b h t c -> b t (h c)"))

    # --- decoding -------------------------------------------------------------------------------------------

    def init_state(
        self, memory: Tensor, max_tokens: int, memory_segments: Tensor | None = None
    ) -> CrossState:
        """The memory's keys and values; nothing grows, so ``max_tokens`` reserves nothing."""
        k, v = self._read(memory, memory, memory_segments)
        return CrossState(k=k, v=v, readable=memory_mask(None, memory_segments))

    def prefill(self, x: Tensor, state: CrossState) -> tuple[Tensor, CrossState]:
        return self._attend(x, state.k, state.v, state.readable), state

    def state_bytes(self, tokens: int, memory_tokens: int) -> int:
        return (
            2 * self.config.kv_heads * self.config.channels * parameter_dtype(self).itemsize * memory_tokens
        )

    # --- the ledger -----------------------------------------------------------------------------------------

    def cost(self, tokens: int, memory_tokens: int | None = None) -> Cost:
        read = tokens if memory_tokens is None else memory_tokens
        pairs = self.config.heads * tokens * read
        per_pair = 6 + (3 if self.config.softcap is not None else 0)
        attention = Cost(matmul=4 * self.config.channels * pairs, elementwise=per_pair * pairs)
        return attention + total(
            (self.query.cost(tokens), self.key.cost(read), self.value.cost(read), self.out.cost(tokens))
        )

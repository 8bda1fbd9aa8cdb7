"""The attention of Gemma 1, 2 and 3: three settings of one mixer.

Legend: B batch, T tokens, D width, H query heads, K key/value heads, C head width, w window, n rotated pairs
(C/2 with RoPE).
Sources: arXiv 2403.08295, 2408.00118, 2503.19786, 2410.06205 (p-RoPE); google/gemma_pytorch gemma/model.py
and gemma/gemma3_model.py.
Order: project, short convolution (an option no published Gemma has), QK-norm (Gemma 3), rotate, scale,
soft-cap (Gemma 2), mask, softmax, values, out-projection. No biases.
C is independent of D/H: Gemma 1 7B has H·C = 4096 at D = 3072.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from einops import rearrange
from torch import Tensor, nn

from blocks.attention.cache import KeyValueState, attend_to_all, empty_state, extend, push
from blocks.attention.core import attend
from blocks.attention.heads import HeadsConfig
from blocks.attention.masks import Radius, attended_pairs, check_span
from blocks.attention.rope import Drop, check_fraction, rope_tables_of, rotate, rotated_pairs
from blocks.attention.short import ProjectionConvolution, Projections
from blocks.config import Bounds
from blocks.contract import Block, SequenceMixer, parameter_dtype
from blocks.cost import Cost, total
from blocks.linear import dense
from blocks.norm import RMSNormConfig
from blocks.registry import register
from blocks.segments import check

NORM_EPS = 1e-6  # what every published Gemma adds before a root
MOST_TAPS = 64  # of a short convolution, which is summed tap by tap


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(HeadsConfig):
    """What the generations share."""

    causal: bool = True
    window: int | None = None  # causal: keys seen, the token itself included; None = all
    radius: Radius | None = None  # bidirectional: keys seen on each side, or (before, after); None = all
    rope_base: float = 10_000.0
    rope_fraction: float = 1.0  # p of p-RoPE: the share of frequencies that rotate; 0 = no position encoding
    rope_drop: Drop = "low"  # those that do not: the slowest, or the fastest ("high")
    # taps of a depth-wise causal convolution on queries, keys and values; None: no convolution
    short_convolution: Annotated[int | None, Bounds(minimum=1, maximum=MOST_TAPS)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_pairs()
        owner = type(self).__name__
        check_span(owner, causal=self.causal, window=self.window, radius=self.radius)
        check_fraction(owner, self.rope_fraction, self.rope_drop)


class GemmaAttention(SequenceMixer):
    """Softmax attention with RoPE and shared key/value heads.

    Subclasses switch on what their generation added.

    Shape: (B, T, D) -> (B, T, D). Cost: D·C·(2H + 2K) weights; 2·T of that plus 4·H·C·pairs FLOPs, pairs
    counted exactly (``attended_pairs``). Elementwise, per pair and head: 1 scale, 5 softmax (maximum,
    subtract, exponential, sum, divide), 3 soft-cap; per rotated number, 2n of the C of a query or key, 3 (two
    products, one sum); per normed number 4, 3 without gain. ``short_convolution``: as
    blocks.attention.short, over C·(H + 2K) channels.
    Rotation: by the positions given, else by those inside each document (``segments``), else by those in the
    row. The distance of two tokens of a document is the same either way; float32 angles are exact only while
    positions are small.
    Raises: ConfigError for segments or positions of another shape than the input's.
    """

    config: AttentionConfig
    takes_positions = True
    qk_norm: ClassVar[bool] = False
    # over the head width, where a generation norms heads
    head_norm: ClassVar[type[RMSNormConfig]] = RMSNormConfig

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config)
        inner, kv_inner = config.heads * config.channels, config.kv_heads * config.channels
        self.query = dense(config.width, inner)
        self.key = dense(config.width, kv_inner)
        # None: the keys' projection gives the values too (an option of Gemma 4)
        self.value = None if getattr(config, "k_eq_v", False) else dense(config.width, kv_inner)
        self.out = dense(inner, config.width)
        self.short = self._short_convolution()
        # one gain for all heads of a kind, over the head width
        norm = self.head_norm(width=config.channels, eps=getattr(config, "norm_eps", NORM_EPS))
        self.query_norm: nn.Module = norm.build() if self.qk_norm else nn.Identity()
        self.key_norm: nn.Module = norm.build() if self.qk_norm else nn.Identity()
        self.value_norm: nn.Module = nn.Identity()
        self.scale = config.channels**-0.5 if config.query_scale is None else config.query_scale
        # options that only one generation has; the others leave them off
        self.softcap: float | None = getattr(config, "softcap", None)
        self.rope_factor: float = getattr(config, "rope_factor", 1.0)

    @property
    def causal(self) -> bool:
        return self.config.causal

    def reset_parameters(self) -> None:
        for block in self.children():
            if isinstance(block, Block | ProjectionConvolution):
                block.reset_parameters()

    def _short_convolution(self) -> ProjectionConvolution | None:
        taps = self.config.short_convolution
        if taps is None:
            return None
        inner, kv_inner = self.query.config.out_features, self.key.config.out_features
        channels = {"query": inner, "key": kv_inner} | ({} if self.value is None else {"value": kv_inner})
        return ProjectionConvolution(channels, taps)

    def forward(self, x: Tensor, segments: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        if segments is not None:
            check(segments, x)
            # a masked key has weight 0, but 0 times the infinity or NaN somebody left in the padding is NaN
            x = x.masked_fill((segments == 0)[..., None], 0)
        projections = self._projections(x)
        if self.short is not None:
            projections = self.short(projections, segments)
        q, k, v = self._heads(projections, segments=segments, positions=positions)
        y = self._attend(q, k, v, segments=segments)
        return self.out(rearrange(y, "b h t c -> b t (h c)"))

    def _projections(self, x: Tensor) -> Projections:
        """Queries (B, T, H·C), keys and values (B, T, K·C); without values where the keys give them too."""
        pair = (self.query(x), self.key(x))
        return pair if self.value is None else (*pair, self.value(x))

    def _heads(
        self,
        projections: Projections,
        *,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        start: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normed and rotated q (B, H, T, C) and k, normed v (B, K, T, C) of tokens at the positions that
        ``rope_tables_of`` reads from the other arguments.
        """
        config, c = self.config, self.config.channels
        heads = [rearrange(z, "b t (h c) -> b h t c", c=c) for z in projections]
        q, k, v = self.query_norm(heads[0]), self.key_norm(heads[1]), self.value_norm(heads[-1])
        if rotated_pairs(c, config.rope_fraction) == 0:
            return q, k, v
        turn = rope_tables_of(
            projections[0],
            c,
            segments=segments,
            positions=positions,
            start=start,
            base=config.rope_base,
            factor=self.rope_factor,
            fraction=config.rope_fraction,
            drop=config.rope_drop,
        )
        cos, sin = (table if table.dim() == 2 else table[:, None] for table in turn)  # one for all heads
        return rotate(q, cos, sin, drop=config.rope_drop), rotate(k, cos, sin, drop=config.rope_drop), v

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, segments: Tensor | None = None, offset: int = 0
    ) -> Tensor:
        config = self.config
        return attend(
            q,
            k,
            v,
            scale=self.scale,
            causal=config.causal,
            window=config.window,
            radius=config.radius,
            softcap=self.softcap,
            segments=segments,
            offset=offset,
        )

    # --- decoding -------------------------------------------------------------------------------------------

    def init_state(self, batch: int, max_tokens: int) -> KeyValueState:
        """Empty: the cache grows with what it holds, so ``max_tokens`` reserves nothing. See
        blocks.attention.cache.
        """
        return self._empty_state(batch, reserve=None)

    def reserve_state(self, batch: int, max_tokens: int) -> KeyValueState:
        """Room for ``max_tokens`` tokens at once.

        Holds ``state_bytes(max_tokens)`` from the start and is written in place.
        """
        return self._empty_state(batch, reserve=max_tokens)

    def _empty_state(self, batch: int, *, reserve: int | None) -> KeyValueState:
        if not self.causal:
            raise self.refuse_decoding()
        config = self.config
        return empty_state(
            self.key.weight,
            batch=batch,
            kv_heads=config.kv_heads,
            channels=config.channels,
            window=config.window,
            reserve=reserve,
            tails=() if self.short is None else self.short.empty_tails(batch, reserve),
        )

    def _continued(self, x: Tensor, state: KeyValueState) -> tuple[Projections, Projections]:
        """Convolved projections of the next tokens x (B, t, D), and the tails after them."""
        projections = self._projections(x)
        if self.short is None:
            return projections, ()
        return self.short.extend(projections, state.tails, state.reserved)

    def prefill(self, x: Tensor, state: KeyValueState) -> tuple[Tensor, KeyValueState]:
        if not self.causal:
            raise self.refuse_decoding()
        projections, tails = self._continued(x, state)
        q, k, v = self._heads(projections, start=state.position)
        k, v, state = extend(state, k, v, tails)
        y = self._attend(q, k.to(q.dtype), v.to(q.dtype), offset=k.shape[2] - x.shape[1])
        return self.out(rearrange(y, "b h t c -> b t (h c)")), state

    def step(self, x: Tensor, state: KeyValueState) -> tuple[Tensor, KeyValueState]:
        """One token, O(1) writes: nothing is shifted, no key is repeated, no mask is built."""
        projections, tails = self._continued(x[:, None], state)
        q, k, v = self._heads(projections, start=state.position)
        state = push(state, k, v, tails)
        y = attend_to_all(q, *state.entries, scale=self.scale, softcap=self.softcap)
        return self.out(rearrange(y, "b h 1 c -> b (h c)")), state

    def state_bytes(self, tokens: int) -> int:
        config = self.config
        entries = tokens if config.window is None else min(tokens, config.window)
        numbers = 2 * config.kv_heads * config.channels * entries
        if self.short is not None:
            numbers += self.short.state_numbers(tokens)
        return numbers * parameter_dtype(self).itemsize

    # --- the ledger -----------------------------------------------------------------------------------------

    def cost(self, tokens: int) -> Cost:
        config = self.config
        pairs = config.heads * attended_pairs(
            tokens, causal=config.causal, window=config.window, radius=config.radius
        )
        rotated = (
            tokens
            * (config.heads + config.kv_heads)
            * 2
            * rotated_pairs(config.channels, config.rope_fraction)
        )
        per_pair = 6 + (3 if self.softcap is not None else 0)
        attention = Cost(matmul=4 * config.channels * pairs, elementwise=3 * rotated + per_pair * pairs)
        projections = [
            block for block in (self.query, self.key, self.value, self.short, self.out) if block is not None
        ]
        norms = (
            (self.query_norm, config.heads),
            (self.key_norm, config.kv_heads),
            (self.value_norm, config.kv_heads),
        )
        return (
            attention
            + total(block.cost(tokens) for block in projections)
            + total(norm.cost(tokens * heads) for norm, heads in norms if isinstance(norm, Block))
        )


@dataclass(frozen=True, kw_only=True)
class Gemma1AttentionConfig(AttentionConfig):
    """Multi-query by default, as the 2B; ``kv_heads = heads`` as the 7B. Gemma 1 itself has no window."""


@register(
    "gemma1_attention",
    kind="sequence_mixer",
    config=Gemma1AttentionConfig,
    source="arXiv:2403.08295",
    complexity="O(T²), with a window O(T·w)",
)
class Gemma1Attention(GemmaAttention):
    """Gemma 1: rotary multi-query or multi-head attention, nothing else.

    See GemmaAttention for shape and cost.
    """

    config: Gemma1AttentionConfig


@dataclass(frozen=True, kw_only=True)
class Gemma2AttentionConfig(AttentionConfig):
    kv_heads: int = 2
    softcap: float | None = 50.0  # c: scores become c·tanh(scores / c), after the scale and before the mask


@register(
    "gemma2_attention",
    kind="sequence_mixer",
    config=Gemma2AttentionConfig,
    source="arXiv:2408.00118",
    complexity="O(T²), with a window O(T·w)",
)
class Gemma2Attention(GemmaAttention):
    """Gemma 2: grouped queries and soft-capped scores. See GemmaAttention for shape and cost."""

    config: Gemma2AttentionConfig


@dataclass(frozen=True, kw_only=True)
class Gemma3AttentionConfig(AttentionConfig):
    rope_factor: float = 1.0  # positions divided by this; 8 on the global layers of the 4B, 12B and 27B
    norm_eps: float = NORM_EPS  # of the norms of queries and keys
    # rope_base: local layers keep 10k, global ones take 1M (the recipe sets it)


@register(
    "gemma3_attention",
    kind="sequence_mixer",
    config=Gemma3AttentionConfig,
    source="arXiv:2503.19786",
    complexity="O(T²), with a window O(T·w)",
)
class Gemma3Attention(GemmaAttention):
    """Gemma 3: RMS-normed queries and keys instead of the soft-cap. See GemmaAttention for shape and cost."""

    config: Gemma3AttentionConfig
    qk_norm = True

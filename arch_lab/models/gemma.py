"""Gemma 1, 2 and 3 as recipes: the attention of each layer, norms and caps.

Legend: D width, H query heads, K key/value heads, C head width.
Sources: arXiv 2403.08295, 2408.00118, 2503.19786. The options reproduce the published models exactly
(explicit heads, kv_heads, head_width, query_scale); left alone, they follow the width, so the budget solver
can turn it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import lcm
from typing import Annotated, ClassVar

from arch_lab.models.channel import BLOCKS, FFN_MULTIPLE, Blocks, Channel, check_channel, gated_channel
from arch_lab.models.decoder import DecoderConfig
from arch_lab.models.layer import LayerConfig
from arch_lab.models.recipe import Recipe, Shape
from arch_lab.models.registry import register_architecture
from blocks.attention.gemma import (
    MOST_TAPS,
    NORM_EPS,
    AttentionConfig,
    Gemma1AttentionConfig,
    Gemma2AttentionConfig,
    Gemma3AttentionConfig,
)
from blocks.attention.rope import Drop, check_fraction
from blocks.config import Bounds, Doc
from blocks.embedding import TiedEmbeddingConfig
from blocks.errors import ConfigError
from blocks.norm import RMSNormConfig
from blocks.scale import LayerScaleConfig

LOCAL, GLOBAL = "L", "G"
ShortConvolution = Annotated[
    int | None,
    Bounds(minimum=1, maximum=MOST_TAPS),
    Doc("Taps of a depth-wise causal convolution on queries, keys and values; null: none."),
]


def default_head_width(width: int) -> int:
    """The widest of 256, 128, 64 that divides ``width`` into eight heads or more, else 32 (or ``width``)."""
    for c in (256, 128, 64):
        if width % c == 0 and width >= 8 * c:
            return c
    return min(32, width)


def grouped(heads: int, groups: int) -> int:
    """Key/value heads where ``groups`` query heads, or the nearest smaller divisor of ``heads``, share
    one.
    """
    return heads // next(g for g in range(min(groups, heads), 0, -1) if heads % g == 0)


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """What every attention of one model shares: H, K, C and the scale at a width, and the short taps."""

    heads: int
    kv_heads: int
    head_width: int
    query_scale: float | None
    short_convolution: int | None


@dataclass(frozen=True, kw_only=True)
class GemmaRecipe(Recipe):
    """What the generations share. Explicit values win over the rules that follow the width."""

    head_width: int | None = None  # None: see default_head_width
    heads: int | None = None  # None: width / head_width
    query_scale: float | None = None  # None: head_width^-0.5; the 27B models use (width/heads)^-0.5
    rope_fraction: float = 1.0  # p of p-RoPE (Gemma 3 and 4: of global layers); 0 = no position encoding
    rope_drop: Drop = "low"  # which frequencies a fraction below 1 leaves out
    norm_eps: float = NORM_EPS  # of every norm
    # the three that no published Gemma has; they isolate what another architecture's lead comes from
    short_convolution: ShortConvolution = None
    channel: Channel = "dense"
    blocks: Blocks = BLOCKS

    sandwich: ClassVar[bool] = True  # norms after each mixer too (Gemma 2 on)

    def __post_init__(self) -> None:
        for name in ("head_width", "heads", "kv_heads", "kv_groups"):
            value = getattr(self, name, None)
            if value is not None and value < 1:
                raise ConfigError(f"architecture {self.name!r}: {name} must be at least 1, got {value}")
        fractions = (self.rope_fraction, getattr(self, "local_rope_fraction", 1.0))
        for fraction in fractions:
            check_fraction(f"architecture {self.name!r}", fraction)
        check_fraction(f"architecture {self.name!r}", min(fractions), self.rope_drop)
        # The solver steps by whole heads; set on the instance, because the class's multiple fits the default
        # rule only
        if self.heads is None and self.head_width is not None:
            object.__setattr__(self, "width_multiple", self.head_width)
        if self.heads is not None and self.head_width is None:
            object.__setattr__(
                self, "width_multiple", 2 * self.heads
            )  # heads of even width, which RoPE needs
        check_channel(f"architecture {self.name!r}", self.channel, self.blocks)
        object.__setattr__(self, "ffn_multiple", FFN_MULTIPLE[self.channel])
        if self.channel == "block_diagonal":
            object.__setattr__(self, "width_multiple", lcm(self.width_multiple, self.blocks))

    def head_shape(self, width: int) -> HeadShape:
        """Raises: ConfigError when the width is not made of whole heads."""
        if self.heads is None:
            c = self.head_width or default_head_width(width)
            if width % c:
                raise ConfigError(
                    f"architecture {self.name!r}: width {width} is not a multiple of head_width {c}; "
                    "set heads or head_width"
                )
            heads = width // c
        else:
            heads = self.heads
            if self.head_width is None and width % heads:
                raise ConfigError(
                    f"architecture {self.name!r}: width {width} is not a multiple of heads {heads}; "
                    "set head_width"
                )
            c = self.head_width or width // heads
        return HeadShape(
            heads=heads,
            kv_heads=self._kv_heads(heads),
            head_width=c,
            query_scale=self.query_scale,
            short_convolution=self.short_convolution,
        )

    def _kv_heads(self, heads: int) -> int:
        """Explicit ``kv_heads``, else one per ``kv_groups`` query heads (see ``grouped``)."""
        explicit: int | None = getattr(self, "kv_heads", None)
        if explicit is not None:
            return explicit
        return grouped(heads, getattr(self, "kv_groups", 1))

    def _drop(self, fraction: float) -> Drop:
        """Which channels a layer with this fraction drops; "low" where it drops none."""
        return self.rope_drop if fraction < 1 else "low"

    @abstractmethod
    def _mixer(self, kind: str, width: int, heads: HeadShape) -> AttentionConfig:
        """The attention of a layer of kind L (local) or G (global)."""

    @property
    def layer_pattern(self) -> str:
        """Layer i is ``layer_pattern[i % len]``."""
        return GLOBAL

    @property
    def least_depth(self) -> int:
        return max(self.layer_pattern.index(kind) for kind in set(self.layer_pattern)) + 1

    @property
    def final_cap(self) -> float | None:
        return None

    def kinds(self, depth: int) -> str:
        """L or G for each layer of a model this deep."""
        return "".join(self.layer_pattern[i % len(self.layer_pattern)] for i in range(depth))

    def _norm(self, width: int) -> RMSNormConfig:
        return RMSNormConfig(width=width, eps=self.norm_eps)

    def _scale(self, width: int) -> LayerScaleConfig | None:
        """What multiplies the output of each layer."""
        return None

    def config(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> DecoderConfig:
        heads, norm = self.head_shape(shape.width), self._norm(shape.width)
        layers = tuple(
            LayerConfig(
                mixer=self._mixer(kind, shape.width, heads),
                channel=gated_channel(self.channel, shape, blocks=self.blocks),
                norm=norm,
                sandwich=self.sandwich,
                scale=self._scale(shape.width),
            )
            for kind in self.kinds(shape.depth)
        )
        embedding = TiedEmbeddingConfig(
            vocabulary=vocabulary, width=shape.width, scale=True, final_softcap=self.final_cap
        )
        return DecoderConfig(
            width=shape.width, max_tokens=max_tokens, embedding=embedding, layers=layers, norm=norm
        )


@register_architecture("gemma1", source="arXiv:2403.08295")
@dataclass(frozen=True, kw_only=True)
class Gemma1(GemmaRecipe):
    """Pre-norm, every layer global; the 2B shares one key/value head, the 7B none."""

    kv_heads: int | None = 1  # None: one per query head, as the 7B
    rope_base: float = 10_000.0

    sandwich: ClassVar[bool] = False

    def _mixer(self, kind: str, width: int, heads: HeadShape) -> AttentionConfig:
        return Gemma1AttentionConfig(
            width=width,
            rope_base=self.rope_base,
            rope_fraction=self.rope_fraction,
            rope_drop=self._drop(self.rope_fraction),
            **vars(heads),
        )


@dataclass(frozen=True, kw_only=True)
class PatternedRecipe(GemmaRecipe):
    """Local and global layers in turn."""

    kv_heads: int | None = None  # None: follows kv_groups
    kv_groups: int = 2  # query heads per key/value head; falls to a divisor of the number of heads
    window: int = 512  # keys a local layer sees, the token itself included
    pattern: str = (
        "LG"  # layer i is pattern[i % len]: L local, G global. A model shallower than it may have no G
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pattern or set(self.pattern) - {LOCAL, GLOBAL}:
            raise ConfigError(
                f"architecture {self.name!r}: pattern must be letters L (local) and G (global), "
                f"got {self.pattern!r}"
            )
        if self.window < 1:
            raise ConfigError(
                f"architecture {self.name!r}: window must be at least 1 (the token itself), got {self.window}"
            )

    @property
    def layer_pattern(self) -> str:
        return self.pattern


@register_architecture("gemma2", source="arXiv:2408.00118")
@dataclass(frozen=True, kw_only=True)
class Gemma2(PatternedRecipe):
    """Sandwich norms, alternating local and global layers, soft-capped scores and logits.

    Published window: 4096.
    """

    attention_softcap: float | None = 50.0
    final_softcap: float | None = 30.0
    rope_base: float = 10_000.0

    @property
    def final_cap(self) -> float | None:
        return self.final_softcap

    def _mixer(self, kind: str, width: int, heads: HeadShape) -> AttentionConfig:
        return Gemma2AttentionConfig(
            width=width,
            window=self.window if kind == LOCAL else None,
            softcap=self.attention_softcap,
            rope_base=self.rope_base,
            rope_fraction=self.rope_fraction,
            rope_drop=self._drop(self.rope_fraction),
            **vars(heads),
        )


@register_architecture("gemma3", source="arXiv:2503.19786")
@dataclass(frozen=True, kw_only=True)
class Gemma3(PatternedRecipe):
    """Sandwich norms, QK-norm, five local layers per global one, which has another RoPE base.

    Published window: 512 or 1024.
    """

    kv_groups: int = 4
    pattern: str = "LLLLLG"
    local_rope_base: float = 10_000.0
    global_rope_base: float = 1_000_000.0
    rope_factor: float = 1.0  # of global layers; 8 in the published 4B, 12B and 27B
    local_rope_fraction: float = 1.0

    def _mixer(self, kind: str, width: int, heads: HeadShape) -> AttentionConfig:
        if kind == LOCAL:
            return Gemma3AttentionConfig(
                width=width,
                window=self.window,
                rope_base=self.local_rope_base,
                rope_fraction=self.local_rope_fraction,
                rope_drop=self._drop(self.local_rope_fraction),
                norm_eps=self.norm_eps,
                **vars(heads),
            )
        return Gemma3AttentionConfig(
            width=width,
            rope_base=self.global_rope_base,
            rope_factor=self.rope_factor,
            rope_fraction=self.rope_fraction,
            rope_drop=self._drop(self.rope_fraction),
            norm_eps=self.norm_eps,
            **vars(heads),
        )

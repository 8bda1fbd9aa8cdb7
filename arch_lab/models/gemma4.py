"""Gemma 4's dense text model as a recipe.

Legend: D width, H query heads, K key/value heads, C head width.
Sources: google-deepmind/gemma gemma/gm/nn/gemma4; huggingface/transformers models/gemma4. Not here: per-layer
embeddings and key/value sharing between layers (E2B, E4B), experts (26B-A4B), images and sound.
"""

from __future__ import annotations

from dataclasses import dataclass

from arch_lab.models.gemma import GLOBAL, LOCAL, HeadShape, PatternedRecipe, grouped
from arch_lab.models.registry import register_architecture
from blocks.attention.gemma import AttentionConfig
from blocks.attention.gemma4 import Gemma4AttentionConfig
from blocks.errors import ConfigError
from blocks.norm import GainRMSNormConfig
from blocks.scale import LayerScaleConfig


@register_architecture("gemma4", source="google-deepmind/gemma gemma/gm/nn/gemma4")
@dataclass(frozen=True, kw_only=True)
class Gemma4(PatternedRecipe):
    """Normed queries, keys and values, unscaled scores, wide global heads with K=V and p-RoPE.

    The last layer is always global. ``heads``, ``kv_heads`` and ``head_width`` are those of local layers;
    global ones have as many query heads.
    """

    pattern: str = "LLLLLG"
    query_scale: float | None = 1.0
    final_softcap: float | None = 30.0
    local_rope_base: float = 10_000.0
    local_rope_fraction: float = 1.0
    global_rope_base: float = 1_000_000.0
    rope_fraction: float = 0.25  # of global layers
    k_eq_v: bool = True  # global layers: one projection for keys and values
    global_head_width: int | None = None  # None: twice that of local layers, as published (512 and 256)
    global_kv_heads: int | None = None  # None: follows global_kv_groups
    global_kv_groups: int = 8  # query heads per key/value head, as in the 31B
    train_scale: bool = True  # of each layer's scalar; False: it keeps what was loaded and is no parameter

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("global_head_width", "global_kv_heads", "global_kv_groups"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"architecture {self.name!r}: {name} must be at least 1, got {value}")

    @property
    def final_cap(self) -> float | None:
        return self.final_softcap

    def kinds(self, depth: int) -> str:
        return super().kinds(depth)[:-1] + GLOBAL

    def _norm(self, width: int) -> GainRMSNormConfig:
        return GainRMSNormConfig(width=width, eps=self.norm_eps)

    def _scale(self, width: int) -> LayerScaleConfig:
        return LayerScaleConfig(width=width, trained=self.train_scale)

    def _mixer(self, kind: str, width: int, heads: HeadShape) -> AttentionConfig:
        if kind == LOCAL:
            return Gemma4AttentionConfig(
                width=width,
                window=self.window,
                rope_base=self.local_rope_base,
                rope_fraction=self.local_rope_fraction,
                rope_drop=self._drop(self.local_rope_fraction),
                norm_eps=self.norm_eps,
                **vars(heads),
            )
        return Gemma4AttentionConfig(
            width=width,
            heads=heads.heads,
            kv_heads=self.global_kv_heads or grouped(heads.heads, self.global_kv_groups),
            head_width=self.global_head_width or 2 * heads.head_width,
            query_scale=heads.query_scale,
            short_convolution=heads.short_convolution,
            k_eq_v=self.k_eq_v,
            rope_base=self.global_rope_base,
            rope_fraction=self.rope_fraction,
            rope_drop=self._drop(self.rope_fraction),
            norm_eps=self.norm_eps,
        )

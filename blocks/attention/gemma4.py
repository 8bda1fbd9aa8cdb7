"""The attention of Gemma 4's dense text models: a fourth setting of the mixer in blocks.attention.gemma.

Legend: B batch, T tokens, D width, H query heads, K key/value heads, C head width.
Sources: google-deepmind/gemma gemma/gm/nn/gemma4/_modules.py; huggingface/transformers models/gemma4.
New are the norms of heads (gain w instead of 1 + w), a norm without gain on the values, scores that are not
scaled (normed queries and keys already have a known size), and on global layers K=V: one projection gives
both. Its output is normed with gain and rotated for the keys, normed without gain and left unrotated for the
values.
"""

from __future__ import annotations

from dataclasses import dataclass

from blocks.attention.gemma import NORM_EPS, AttentionConfig, GemmaAttention
from blocks.norm import GainRMSNormConfig, UnitRMSNormConfig
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class Gemma4AttentionConfig(AttentionConfig):
    kv_heads: int = 2
    query_scale: float | None = 1.0
    norm_eps: float = NORM_EPS  # of the norms of queries, keys and values
    k_eq_v: bool = False  # no projection for the values: the keys' serves both (global layers of the 31B)
    # rope_base, rope_fraction: local layers take 10k and 1, global ones 1M and 0.25 (the recipe sets them)


@register(
    "gemma4_attention",
    kind="sequence_mixer",
    config=Gemma4AttentionConfig,
    source="google-deepmind/gemma gemma/gm/nn/gemma4",
    complexity="O(T²), with a window O(T·w)",
)
class Gemma4Attention(GemmaAttention):
    """Gemma 4: normed queries, keys and values, unscaled scores, values from the keys on request.

    Shape, cost and errors as GemmaAttention; with ``k_eq_v`` D·C·K weights and their FLOPs less. The cache
    holds rotated keys and values apart even then: to rebuild one from the other would norm and rotate the
    whole cache at every step.
    """

    config: Gemma4AttentionConfig
    qk_norm = True
    head_norm = GainRMSNormConfig

    def __init__(self, config: Gemma4AttentionConfig) -> None:
        super().__init__(config)
        self.value_norm = UnitRMSNormConfig(width=config.channels, eps=config.norm_eps).build()

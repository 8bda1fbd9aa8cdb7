"""Monarch Mixer layers with a share of attention layers among them, in one causal decoder.

Legend: D width, F ffn_width.
The body is that of ``m2_gpt`` (pre-norm residual layers, RMSNorm, block-diagonal gated channel mixer, tied
scaled embedding); only the sequence mixer differs from layer to layer, so a sweep over the share compares
mixers and nothing else. An attention layer is one of Gemma 3 (arXiv 2503.19786): queries and keys normed,
grouped heads, and the RoPE base of its kind, local or global.
Two attention layers kept among long convolutions is what H3 (arXiv 2212.14052) found enough to pass a
Transformer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, lcm
from typing import ClassVar

from arch_lab.models.decoder import DecoderConfig
from arch_lab.models.gemma import GLOBAL, LOCAL, Gemma3, ShortConvolution
from arch_lab.models.m2 import M2GPT
from arch_lab.models.recipe import Shape
from arch_lab.models.registry import register_architecture
from blocks.config import Options
from blocks.contract import BlockConfig
from blocks.errors import ConfigError

MONARCH, ATTENTION = "M", "A"
SHARE = 0.25  # of attention layers, where neither option says


@register_architecture("hybrid", source="arXiv:2310.12109 §5.3 with attention layers of arXiv:2503.19786")
@dataclass(frozen=True, kw_only=True)
class Hybrid(M2GPT):
    """``m2_gpt`` with Gemma 3 attention in some layers, by ``pattern`` or ``attention_share``.

    Neither: a share of 1/4. With a share s, the first n layers hold n·s attention layers rounded to the
    nearest whole number (halves up), for every n: evenly spread, and a deeper model begins like a shallower
    one. 1/4 gives M A M M M A M M ….
    Raises: ConfigError when both are given, or a share is outside 0 to 1.
    """

    mixed: ClassVar[bool] = True

    pattern: str | None = None  # layer i is pattern[i % len]: M Monarch Mixer, A attention
    attention_share: float | None = None
    window: int | None = None  # keys an attention layer sees, the token itself included; None: all before it
    head_width: int | None = None  # None: as gemma3 chooses it
    kv_groups: int = 4  # query heads per key/value head; falls to a divisor of the number of heads
    short_convolution: ShortConvolution = None  # of attention layers

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern is not None and self.attention_share is not None:
            raise ConfigError(
                f"{self.name}: pattern {self.pattern!r} already places the attention layers; "
                "leave out attention_share"
            )
        if self.pattern is not None and (not self.pattern or set(self.pattern) - {MONARCH, ATTENTION}):
            raise ConfigError(
                f"{self.name}: pattern must be letters M (Monarch Mixer) and A (attention), "
                f"got {self.pattern!r}"
            )
        if self.attention_share is not None and not 0 <= self.attention_share <= 1:
            raise ConfigError(f"{self.name}: attention_share must be from 0 to 1, got {self.attention_share}")
        # widths of whole heads and whole Monarch blocks; the attention's options are checked here too, not
        # first at a shape
        object.__setattr__(self, "width_multiple", lcm(M2GPT.width_multiple, self._gemma().width_multiple))

    @property
    def least_depth(self) -> int:
        if self.pattern is not None:
            return max(self.pattern.index(kind) for kind in set(self.pattern)) + 1
        share = SHARE if self.attention_share is None else self.attention_share
        if not 0 < share < 1:
            return 1
        half = ceil(0.5 / min(share, 1 - share))  # counts are rounded: the rarer kind begins about here
        return half if len(set(self.kinds(half))) == 2 else half + 1

    def kinds(self, depth: int) -> str:
        """M or A for each layer of a model this deep."""
        if self.pattern is not None:
            return "".join(self.pattern[i % len(self.pattern)] for i in range(depth))
        share = SHARE if self.attention_share is None else self.attention_share
        counts = [floor(n * share + 0.5) for n in range(depth + 1)]
        return "".join(ATTENTION if more > fewer else MONARCH for fewer, more in pairwise(counts))

    def config(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> DecoderConfig:
        kinds = self.kinds(shape.depth)
        mixers: dict[str, BlockConfig] = {}
        if MONARCH in kinds:
            mixers[MONARCH] = self.mixer(shape.width, max_tokens)
        if ATTENTION in kinds:
            # taken out of a gemma3 model, so that it stays that model's attention
            mixers[ATTENTION] = (
                self._gemma().config(shape, vocabulary=vocabulary, max_tokens=max_tokens).layers[0].mixer
            )
        layers = {kind: self.layer(shape, mixer) for kind, mixer in mixers.items()}
        return self.with_layers(
            tuple(layers[kind] for kind in kinds), shape, vocabulary=vocabulary, max_tokens=max_tokens
        )

    def _gemma(self) -> Gemma3:
        options: Options = {
            "head_width": self.head_width,
            "kv_groups": self.kv_groups,
            "short_convolution": self.short_convolution,
        }
        if self.window is None:
            return Gemma3(pattern=GLOBAL, **options)
        return Gemma3(pattern=LOCAL, window=self.window, **options)

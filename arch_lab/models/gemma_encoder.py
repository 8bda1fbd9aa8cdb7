"""Gemma as a stand-alone encoder: the stack of a generation with its causal masks taken off.

Legend: T tokens, D width, V vocabulary, r radius.
Sources: arXiv 2503.02656 (Gemma Encoder), 2509.20354 (EmbeddingGemma); ``use_bidirectional_attention`` of
huggingface/transformers models/gemma3. Weights, names and shapes are the decoder's, so a trained decoder
becomes an encoder by ``load_state_dict``. Windows of encoders are counted in five ways; here it is the
radius: r keys on each side. A released Gemma 3 configuration with sliding_window w reads r = w // 2 (its code
keeps |q-k| < w // 2 + 1), a Gemma 4 one r = w // 2 + 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from arch_lab.models import gemma, gemma4  # noqa: F401  registers the generations
from arch_lab.models.channel import BLOCKS, FFN_MULTIPLE, Blocks, Channel
from arch_lab.models.decoder import DecoderConfig
from arch_lab.models.direction import bidirectional_layer, bidirectional_stack
from arch_lab.models.encoder import BidirectionalStackConfig
from arch_lab.models.gemma import GemmaRecipe, ShortConvolution
from arch_lab.models.model import Kind
from arch_lab.models.recipe import Recipe, Shape
from arch_lab.models.registry import recipe, register_architecture
from blocks.attention.gemma import AttentionConfig
from blocks.config import Options
from blocks.errors import ConfigError


@register_architecture("gemma_encoder", source="arXiv:2503.02656")
@dataclass(frozen=True, kw_only=True)
class GemmaEncoder(Recipe):
    """The layers of one generation, bidirectional.

    Hidden states (B, T, D), or logits (B, T, V) through the tied table.
    """

    kind: ClassVar[Kind] = "encoder"

    generation: Literal[1, 2, 3, 4] = 3
    radius: int = 256  # keys a local layer sees on each side
    generation_options: Options = field(default_factory=dict)  # of the recipe gemma1 … gemma4, except window
    # of every generation; the short convolution stays causal, as that of the released M2-BERT
    short_convolution: ShortConvolution = None
    channel: Channel = "dense"
    blocks: Blocks = BLOCKS

    def __post_init__(self) -> None:
        title = f"architecture {self.name!r}"
        if self.radius < 0:
            raise ConfigError(f"{title}: radius must be at least 0, got {self.radius}")
        if "window" in self.generation_options:
            raise ConfigError(
                f"{title}: window is for causal attention; give radius (keys on each side) instead"
            )
        twice = [name for name in self._shared_options() if name in self.generation_options]
        if twice:
            raise ConfigError(
                f"{title}: {twice[0]} is given twice, also in generation_options; leave out one"
            )
        object.__setattr__(self, "ffn_multiple", FFN_MULTIPLE[self.causal_recipe().channel])

    @property
    def least_depth(self) -> int:
        return self.causal_recipe().least_depth

    def _shared_options(self) -> Options:
        """Options that this recipe has too, where they differ from the default."""
        options = {name: getattr(self, name) for name in ("short_convolution", "channel", "blocks")}
        return {name: value for name, value in options.items() if value != getattr(GemmaRecipe, name)}

    def causal_recipe(self) -> GemmaRecipe:
        """The decoder with parameters of the same shapes. Raises: ConfigError for options that it lacks."""
        causal = recipe(f"gemma{self.generation}", self.generation_options | self._shared_options())
        assert isinstance(causal, GemmaRecipe)
        return causal

    def config(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> BidirectionalStackConfig:
        decoder = self.causal_recipe().config(shape, vocabulary=vocabulary, max_tokens=max_tokens)
        return bidirectional(decoder, radius=self.radius)


def bidirectional(config: DecoderConfig, *, radius: int) -> BidirectionalStackConfig:
    """``config`` with every mask taken off: local layers see ``radius`` keys on each side, global ones all.

    Raises: ConfigError for a layer whose mixer is not attention: an M2 mixer would gain a reverse kernel, not
    lose a mask.
    """
    for layer in config.layers:
        if not isinstance(layer.mixer, AttentionConfig):
            raise ConfigError(
                f"{type(layer.mixer).__name__} is not attention: it has no causal mask to remove"
            )
    return bidirectional_stack(
        config, tuple(bidirectional_layer(layer, radius=radius) for layer in config.layers)
    )

"""Named architectures: recipes of blocks with dials for size. Importing this package registers the built-in ones."""

from arch_lab.architecture import custom, gemma, gemma4, gemma_encoder, hybrid, m2, m2_bert, t5gemma  # noqa: F401  registration
from arch_lab.architecture.decoder import Decoder, DecoderConfig, LayerConfig, meta_model, on_meta
from arch_lab.architecture.encoder import BidirectionalStack, Encoder, EncoderConfig, EncoderLayerConfig, meta_encoder
from arch_lab.architecture.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, meta_encoder_decoder
from arch_lab.architecture.recipe import (
    EncoderDecoderRecipe,
    EncoderRecipe,
    Recipe,
    Shape,
    architectures,
    encoders,
    recipe,
    register_architecture,
)

__all__ = [
    "BidirectionalStack",
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "EncoderDecoderRecipe",
    "EncoderLayerConfig",
    "EncoderRecipe",
    "LayerConfig",
    "Recipe",
    "Shape",
    "architectures",
    "encoders",
    "meta_encoder",
    "meta_encoder_decoder",
    "meta_model",
    "on_meta",
    "recipe",
    "register_architecture",
]

"""Named architectures: recipes of blocks with dials for size. Importing this package registers the built-in ones."""

from arch_lab.models import custom, gemma, gemma4, gemma_encoder, hybrid, m2, m2_bert, m2_vit, t5gemma, vit  # noqa: F401  registration
from arch_lab.models.decoder import Decoder, DecoderConfig, LayerConfig, meta_model, on_meta
from arch_lab.models.encoder import BidirectionalStack, Encoder, EncoderConfig, EncoderLayerConfig, meta_encoder
from arch_lab.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, meta_encoder_decoder
from arch_lab.models.image import ImageClassifier, ImageClassifierConfig, meta_image_classifier
from arch_lab.models.recipe import (
    EncoderDecoderRecipe,
    EncoderRecipe,
    ImageRecipe,
    Recipe,
    Shape,
    architectures,
    encoders,
    image_classifiers,
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
    "ImageClassifier",
    "ImageClassifierConfig",
    "ImageRecipe",
    "LayerConfig",
    "Recipe",
    "Shape",
    "architectures",
    "encoders",
    "image_classifiers",
    "meta_encoder",
    "meta_encoder_decoder",
    "meta_image_classifier",
    "meta_model",
    "on_meta",
    "recipe",
    "register_architecture",
]

"""Named architectures: recipes of blocks with dials for size. The import registers the built-in ones."""

from arch_lab.models import (  # noqa: F401
    custom,
    gemma,
    gemma4,
    gemma_encoder,
    hybrid,
    m2,
    m2_bert,
    m2_vit,
    t5gemma,
    vit,
)
from arch_lab.models.decoder import Decoder, DecoderConfig
from arch_lab.models.encoder import (
    BidirectionalStack,
    BidirectionalStackConfig,
    Encoder,
    EncoderConfig,
    EncoderLayerConfig,
)
from arch_lab.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from arch_lab.models.image import ImageClassifier, ImageClassifierConfig
from arch_lab.models.image_recipe import ImageRecipe
from arch_lab.models.layer import LayerConfig
from arch_lab.models.model import Kind, Model, ModelConfig, Part, StackConfig, on_meta
from arch_lab.models.recipe import ImageSize, Recipe, Shape
from arch_lab.models.registry import architectures, recipe, recipe_class, register_architecture, require_kind

__all__ = [
    "BidirectionalStack",
    "BidirectionalStackConfig",
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "EncoderLayerConfig",
    "ImageClassifier",
    "ImageClassifierConfig",
    "ImageRecipe",
    "ImageSize",
    "Kind",
    "LayerConfig",
    "Model",
    "ModelConfig",
    "Part",
    "Recipe",
    "Shape",
    "StackConfig",
    "architectures",
    "on_meta",
    "recipe",
    "recipe_class",
    "register_architecture",
    "require_kind",
]

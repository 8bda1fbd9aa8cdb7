"""Named architectures: recipes of blocks with dials for size. Importing this package registers the built-in ones."""

from arch_lab.architecture import custom, gemma, m2  # noqa: F401  registration
from arch_lab.architecture.decoder import Decoder, DecoderConfig, LayerConfig, meta_model
from arch_lab.architecture.recipe import Recipe, Shape, architectures, recipe, register_architecture

__all__ = [
    "Decoder",
    "DecoderConfig",
    "LayerConfig",
    "Recipe",
    "Shape",
    "architectures",
    "meta_model",
    "recipe",
    "register_architecture",
]

"""Architectures: named recipes with dials, from which the budget solver and the studies build models.

A recipe says *what* the model is (which blocks, in which pattern, which norms); a Shape says *how large*. Its options
are a frozen dataclass, strict like a block's, so a study file cannot misspell one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeVar

from arch_lab.models.decoder import Decoder, DecoderConfig, LayerConfig
from arch_lab.models.encoder import BidirectionalStack, Encoder, EncoderConfig, build_encoder
from arch_lab.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from arch_lab.models.image import ImageClassifier, ImageClassifierConfig
from blocks.contract import BlockConfig
from blocks.errors import ConfigError, did_you_mean
from blocks.heads.cls import ClsPoolerConfig
from blocks.heads.mean import MeanPoolerConfig
from blocks.vision.head import ImageHeadConfig
from blocks.vision.patches import PatchEmbeddingConfig, image_grid

Pool = Literal["class", "mean"]  # which vector of an image is classified: its class token, or the mean of all tokens
Blueprint = DecoderConfig | EncoderConfig | EncoderDecoderConfig | ImageClassifierConfig
Network = Decoder | Encoder | EncoderDecoder | ImageClassifier


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The dials. ``ffn_width`` is the hidden width of the channel mixer (one branch of a gated one)."""

    width: int
    depth: int
    ffn_width: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ConfigError(f"shape: {name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class Recipe(BlockConfig, ABC):
    """Options of one architecture; ``decoder`` assembles it at a shape."""

    name: ClassVar[str]
    source: ClassVar[str]
    causal: ClassVar[bool] = True  # False: no causal language model, see EncoderRecipe, EncoderDecoderRecipe and ImageRecipe
    # what the solver may turn, and in which steps: multiples that keep head widths and Monarch blocks whole
    width_multiple: ClassVar[int] = 32
    ffn_multiple: ClassVar[int] = 8
    ffn_ratio: ClassVar[float] = 4.0  # preferred ffn_width / width
    aspect: ClassVar[float] = 32.0  # preferred width / depth
    mixed: ClassVar[bool] = False  # layers of one model differ in parameters; a deeper model begins like a shallower one

    @abstractmethod
    def decoder(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> DecoderConfig:
        """Every block of the model, at this shape. Raises: ConfigError when the shape does not fit the recipe."""

    def model(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> Decoder:
        return Decoder(self.decoder(shape, vocabulary=vocabulary, max_tokens=max_tokens))

    def blueprint(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> Blueprint:
        """What the ledger counts, whichever of the four this architecture is."""
        return self.decoder(shape, vocabulary=vocabulary, max_tokens=max_tokens)

    def network(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> Network:
        """What ``blueprint`` describes, built."""
        return self.model(shape, vocabulary=vocabulary, max_tokens=max_tokens)


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe(Recipe, ABC):
    """Options of a bidirectional architecture. Whoever wants a decoder of it is refused, so it never gets a perplexity."""

    causal: ClassVar[bool] = False

    @abstractmethod
    def encoder(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> EncoderConfig | DecoderConfig:
        """Every block of the model, at this shape; a DecoderConfig is a decoder's stack with its masks off.

        Raises: ConfigError when the shape does not fit the recipe.
        """

    def encoder_model(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> Encoder | BidirectionalStack:
        return build_encoder(self.encoder(shape, vocabulary=vocabulary, max_tokens=max_tokens))

    def blueprint(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> EncoderConfig | DecoderConfig:
        return self.encoder(shape, vocabulary=vocabulary, max_tokens=max_tokens)

    def network(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> Encoder | BidirectionalStack:
        return self.encoder_model(shape, vocabulary=vocabulary, max_tokens=max_tokens)

    def decoder(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> DecoderConfig:
        raise self.refuse_decoder()

    def refuse_decoder(self, what: str = "") -> ConfigError:
        return ConfigError(
            f"{what}architecture {self.name!r} is a bidirectional encoder: it sees the tokens it would have to predict; "
            f"choose a decoder: {', '.join(architectures(causal=True))}"
        )


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderRecipe(Recipe, ABC):
    """Options of a model that reads a source and writes a target; the shape is the decoder's. Refused where one sequence is asked for."""

    causal: ClassVar[bool] = False

    @abstractmethod
    def encoder_decoder(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> EncoderDecoderConfig:
        """Every block of the model, at this shape. Raises: ConfigError when the shape does not fit the recipe."""

    def encoder_decoder_model(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> EncoderDecoder:
        return EncoderDecoder(self.encoder_decoder(shape, vocabulary=vocabulary, max_tokens=max_tokens))

    def blueprint(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> EncoderDecoderConfig:
        return self.encoder_decoder(shape, vocabulary=vocabulary, max_tokens=max_tokens)

    def network(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> EncoderDecoder:
        return self.encoder_decoder_model(shape, vocabulary=vocabulary, max_tokens=max_tokens)

    def decoder(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> DecoderConfig:
        raise self.refuse_decoder()

    def refuse_decoder(self, what: str = "") -> ConfigError:
        return ConfigError(
            f"{what}architecture {self.name!r} is an encoder–decoder: it needs a source beside the tokens it predicts; "
            f"choose a decoder: {', '.join(architectures(causal=True))}"
        )


@dataclass(frozen=True, kw_only=True)
class ImageRecipe(Recipe, ABC):
    """Options of an image classifier. Its tokens are the patches of an image, its vocabulary the classes.

    What images there are is an option of the architecture, because its tables are laid out over them.
    Raises: ConfigError unless the patch divides both sides of the image.
    """

    causal: ClassVar[bool] = False

    image: tuple[int, int] = (224, 224)  # height, width in pixels
    channels: int = 3
    patch: int = 16

    def __post_init__(self) -> None:
        for name in ("channels", "patch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{self.name}: {name} must be at least 1, got {getattr(self, name)}")
        if len(self.image) != 2:
            raise ConfigError(f"{self.name}: image must be two numbers, height and width in pixels, got {self.image}")
        image_grid(*self.image, self.patch)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return image_grid(*self.image, self.patch)

    @property
    def tokens(self) -> int:
        """Patches of an image."""
        h, w = self.grid
        return h * w

    @property
    def reads_pixels(self) -> str:
        """Why text is not for it."""
        return f"architecture {self.name!r} classifies images: it reads pixels, not tokens"

    @abstractmethod
    def classifier(self, shape: Shape, *, classes: int) -> ImageClassifierConfig:
        """Every block of the model, at this shape. Raises: ConfigError when the shape does not fit the recipe."""

    def around(self, layer: LayerConfig, shape: Shape, *, classes: int, positions: bool, pool: Pool, eps: float) -> ImageClassifierConfig:
        """The body with layers like this one."""
        return ImageClassifierConfig(
            width=shape.width,
            image=self.image,
            embedding=PatchEmbeddingConfig(
                width=shape.width,
                patch=self.patch,
                channels=self.channels,
                grid=self.grid if positions else None,
                class_token=pool == "class",
            ),
            layers=(layer,) * shape.depth,
            pooler=ClsPoolerConfig(width=shape.width, dense=False) if pool == "class" else MeanPoolerConfig(width=shape.width),
            head=ImageHeadConfig(width=shape.width, classes=classes, eps=eps),
        )

    def image_model(self, shape: Shape, *, classes: int) -> ImageClassifier:
        return ImageClassifier(self.classifier(shape, classes=classes))

    def blueprint(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> ImageClassifierConfig:
        if max_tokens != self.tokens:
            size = " x ".join(map(str, self.image))
            raise ConfigError(
                f"{self.name}: an image of {size} pixels in patches of {self.patch} is {self.tokens} tokens, not {max_tokens}"
            )
        return self.classifier(shape, classes=vocabulary)

    def network(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> ImageClassifier:
        return ImageClassifier(self.blueprint(shape, vocabulary=vocabulary, max_tokens=max_tokens))

    def decoder(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> DecoderConfig:
        raise self.refuse_decoder()

    def refuse_decoder(self, what: str = "") -> ConfigError:
        return ConfigError(f"{what}{self.reads_pixels}; choose a decoder: {', '.join(architectures(causal=True))}")


R = TypeVar("R", bound=type[Recipe])
_recipes: dict[str, type[Recipe]] = {}


def register_architecture(name: str, *, source: str) -> Callable[[R], R]:
    """Class decorator: makes the recipe available to studies under ``name``. Raises: ConfigError when it is taken."""

    def add(cls: R) -> R:
        if name in _recipes and _recipes[name].__qualname__ != cls.__qualname__:
            raise ConfigError(f"architecture {name!r} is taken by {_recipes[name].__module__}; choose another name")
        cls.name, cls.source = name, source
        _recipes[name] = cls
        return cls

    return add


def architectures(*, causal: bool | None = None) -> list[str]:
    """Registered names: all of them, the decoders (``causal=True``), or all the others."""
    return sorted(name for name, cls in _recipes.items() if causal is None or cls.causal == causal)


def encoders() -> list[str]:
    """Registered names of the bidirectional encoders."""
    return sorted(name for name, cls in _recipes.items() if issubclass(cls, EncoderRecipe))


def image_classifiers() -> list[str]:
    """Registered names of the architectures that read images."""
    return sorted(name for name, cls in _recipes.items() if issubclass(cls, ImageRecipe))


def recipe(name: str, options: dict[str, Any] | None = None) -> Recipe:
    """The recipe called ``name`` with strict options. Raises: ConfigError with the nearest valid name."""
    return recipe_class(name).from_options(options or {}, where=f"architecture {name!r}")


def recipe_class(name: str) -> type[Recipe]:
    """The class whose fields are the options of an architecture. Raises: ConfigError with the nearest valid name."""
    if name not in _recipes:
        raise ConfigError(f"unknown architecture {name!r}{did_you_mean(name, _recipes)}")
    return _recipes[name]

"""Architectures: named recipes with dials, from which the budget solver and the studies build models.

A recipe says *what* the model is (which blocks, in which pattern, which norms); a Shape says *how large*. Its options
are a frozen dataclass, strict like a block's, so a study file cannot misspell one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

from arch_lab.architecture.decoder import Decoder, DecoderConfig
from arch_lab.architecture.encoder import BidirectionalStack, Encoder, EncoderConfig, build_encoder
from arch_lab.architecture.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from blocks.contract import BlockConfig
from blocks.errors import ConfigError, did_you_mean


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
    causal: ClassVar[bool] = True  # False: no causal language model, see EncoderRecipe and EncoderDecoderRecipe
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

    def blueprint(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> DecoderConfig | EncoderConfig | EncoderDecoderConfig:
        """What the ledger counts, whichever of the three this architecture is."""
        return self.decoder(shape, vocabulary=vocabulary, max_tokens=max_tokens)

    def network(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> Decoder | Encoder | EncoderDecoder:
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
    """Registered names: all of them, the decoders (``causal=True``), or the encoders and encoder–decoders."""
    return sorted(name for name, cls in _recipes.items() if causal is None or cls.causal == causal)


def encoders() -> list[str]:
    """Registered names of the bidirectional encoders."""
    return sorted(name for name, cls in _recipes.items() if issubclass(cls, EncoderRecipe))


def recipe(name: str, options: dict[str, Any] | None = None) -> Recipe:
    """The recipe called ``name`` with strict options. Raises: ConfigError with the nearest valid name."""
    if name not in _recipes:
        raise ConfigError(f"unknown architecture {name!r}{did_you_mean(name, _recipes)}")
    return _recipes[name].from_options(options or {}, where=f"architecture {name!r}")

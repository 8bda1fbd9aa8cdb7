"""Architectures: named recipes with dials, from which the budget solver and the studies build models.

A recipe says *what* the model is (which blocks, in which pattern, which norms); a Shape says *how large*. Its options
are a frozen dataclass, strict like a block's, so a study file cannot misspell one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

from arch_lab.models.model import Kind, Model, ModelConfig
from blocks.config import Config
from blocks.errors import ConfigError, did_you_mean
from blocks.vision.patches import image_grid

# what is wrong with a recipe of one kind (inner key) where another (outer key) is needed
MISFITS: dict[Kind, dict[Kind, str]] = {
    "decoder": {
        "encoder": "is a bidirectional encoder: it sees the tokens it would have to predict",
        "encoder_decoder": "is an encoder–decoder: it needs a source beside the tokens it predicts",
        "image_classifier": "classifies images: it reads pixels, not tokens",
    },
    "encoder": {
        "decoder": "is a causal decoder: it does not see the tokens after a hidden one",
        "encoder_decoder": "is an encoder–decoder: it needs a source beside the tokens it fills in",
        "image_classifier": "classifies images: it reads pixels, not tokens",
    },
}
TEXT = "reads tokens of text, not pixels"


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
class ImageSize:
    """Pixels of an image, and the patches it is cut into."""

    height: int
    width: int
    channels: int
    patch: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches. Raises: ConfigError unless the patch divides both sides."""
        return image_grid(self.height, self.width, self.patch)

    @property
    def tokens(self) -> int:
        """Patches of an image."""
        rows, columns = self.grid
        return rows * columns


@dataclass(frozen=True, kw_only=True)
class Recipe(Config, ABC):
    """Options of one architecture; ``config`` assembles it at a shape."""

    name: ClassVar[str]
    source: ClassVar[str]
    kind: ClassVar[Kind] = "decoder"  # of the models it describes
    # what the solver may turn, and in which steps: multiples that keep head widths and Monarch blocks whole
    width_multiple: ClassVar[int] = 32
    ffn_multiple: ClassVar[int] = 8
    ffn_ratio: ClassVar[float] = 4.0  # preferred ffn_width / width
    aspect: ClassVar[float] = 32.0  # preferred width / depth
    mixed: ClassVar[bool] = False  # layers of one model differ in parameters; a deeper model begins like a shallower one

    @abstractmethod
    def config(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> ModelConfig:
        """Every block of the model, at this shape.

        ``vocabulary``: rows of its table, or classes of images; ``max_tokens``: its longest sequence, or patches of an
        image. Raises: ConfigError when the shape does not fit the recipe.
        """

    def model(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> Model:
        """What ``config`` describes, its parameters drawn from torch's global generator."""
        return self.config(shape, vocabulary=vocabulary, max_tokens=max_tokens).build()

    @property
    def image_size(self) -> ImageSize | None:
        """The images that the models read; None for text."""
        return None


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


def architectures(kind: Kind | None = None) -> list[str]:
    """Registered names: all of them, or those of one kind."""
    return sorted(name for name, cls in _recipes.items() if kind is None or cls.kind == kind)


def recipe(name: str, options: dict[str, Any] | None = None) -> Recipe:
    """The recipe called ``name`` with strict options. Raises: ConfigError with the nearest valid name."""
    return recipe_class(name).from_options(options or {}, where=f"architecture {name!r}")


def recipe_class(name: str) -> type[Recipe]:
    """The class whose fields are the options of an architecture. Raises: ConfigError with the nearest valid name."""
    if name not in _recipes:
        raise ConfigError(f"unknown architecture {name!r}{did_you_mean(name, _recipes)}")
    return _recipes[name]


def require_kind(recipe: Recipe, kind: Kind, what: str = "") -> None:
    """Raises: ConfigError, beginning with ``what``, for a recipe of another kind, with the architectures to choose from."""
    if recipe.kind == kind:
        return
    article = "a" if kind == "decoder" else "an"
    misfit = MISFITS.get(kind, {}).get(recipe.kind, TEXT)
    choice = f"choose {article} {kind.replace('_', ' ')}: {', '.join(architectures(kind))}"
    raise ConfigError(f"{what}architecture {recipe.name!r} {misfit}; {choice}")

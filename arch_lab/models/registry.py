"""The registry of architectures: a name or an import path to its recipe.

A recipe comes from this package, from an installed package that declares the entry-point group
``arch_lab.recipes`` (each entry names a module to import or a recipe class), or from an import path
``package.module:Class`` in a study.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar, get_args

from arch_lab.models.model import Kind
from arch_lab.models.recipe import Recipe
from blocks.config import Options
from blocks.errors import ConfigError, did_you_mean
from blocks.registry import import_object, load_entry_points

ENTRY_POINT_GROUP = "arch_lab.recipes"
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

R = TypeVar("R", bound=type[Recipe])
_recipes: dict[str, type[Recipe]] = {}


def register_architecture(name: str, *, source: str) -> Callable[[R], R]:
    """Class decorator that makes a recipe available to studies under ``name``.

    Raises: ConfigError when the name is taken, the kind unknown, or ``config`` missing.
    """

    def add(cls: R) -> R:
        path = _path(cls)
        title = f"architecture {name!r} ({path})"
        if name in _recipes and _path(_recipes[name]) != path:
            raise ConfigError(f"{title}: the name is taken by {_path(_recipes[name])}; choose another")
        if cls.kind not in get_args(Kind):
            raise ConfigError(f"{title}: unknown kind {cls.kind!r}{did_you_mean(cls.kind, get_args(Kind))}")
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        if missing:
            raise ConfigError(f"{title}: does not define {', '.join(missing)}, which a recipe must have")
        cls.name, cls.source = name, source
        _recipes[name] = cls
        return cls

    return add


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


@cache
def _load_plugins() -> None:
    load_entry_points(ENTRY_POINT_GROUP)


def architectures(kind: Kind | None = None) -> list[str]:
    """Registered names, those of installed packages included: all of them, or those of one kind."""
    _load_plugins()
    return sorted(name for name, cls in _recipes.items() if kind is None or cls.kind == kind)


def recipe(name: str, options: Options | None = None) -> Recipe:
    """The recipe called ``name`` with strict options. Raises: ConfigError with the nearest valid name."""
    return recipe_class(name).from_options(options or {}, where=f"architecture {name!r}")


def recipe_class(name: str) -> type[Recipe]:
    """The recipe class of an architecture, by name or import path ``package.module:Class``.

    Raises: ConfigError with the nearest valid name, or what is wrong with the import path.
    """
    if name in _recipes:
        return _recipes[name]
    if ":" in name:
        return _imported(name)
    _load_plugins()
    if name not in _recipes:
        raise ConfigError(f"unknown architecture {name!r}{did_you_mean(name, _recipes)}")
    return _recipes[name]


def _imported(path: str) -> type[Recipe]:
    cls = import_object(path)
    for registered in _recipes.values():
        if registered is cls:
            return registered
    raise ConfigError(
        f"architecture {path!r}: imported, but it is not a registered recipe; "
        "decorate the class with @arch_lab.models.register_architecture"
    )


def require_kind(recipe: Recipe, kind: Kind, subject: str = "") -> None:
    """Raises: ConfigError, which begins with ``subject``, for a recipe of another kind."""
    if recipe.kind == kind:
        return
    article = "a" if kind == "decoder" else "an"
    misfit = MISFITS.get(kind, {}).get(recipe.kind, TEXT)
    choice = f"choose {article} {kind.replace('_', ' ')}: {', '.join(architectures(kind))}"
    raise ConfigError(f"{subject}architecture {recipe.name!r} {misfit}; {choice}")

"""The user's own code behind a model: which source files it comes from, and a hash of each.

A number depends on the block that made it. Our own packages are covered by ``environment.code_fingerprint``; this module finds
the rest: the files of every class in the built model (and of its configs) that is neither ours nor a library's, and what those
files import from the user's own files. Data files that the code opens, and compiled extensions it loads by hand, are not seen.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path

from torch import nn

from arch_lab.study.environment import PACKAGE_ROOT

OURS = tuple(PACKAGE_ROOT / name for name in ("arch_lab", "blocks", "experiments"))
# libraries whose classes stand in our own models; their versions are no part of a run's identity, torch's apart
LIBRARIES = {"torch", "lightning", "einops", "numpy", "transformers", "torchvision", "typing", "abc", "builtins"}


def user_sources(model: nn.Module, *makers: type) -> dict[str, str]:
    """Module name -> hash of its source file, for each module of the user's behind ``model``; sorted by name.

    ``makers``: classes that describe the model but are no part of it, such as its recipe.
    """
    inherited = (cls for maker in makers for cls in maker.__mro__)
    seeds = {cls.__module__ for cls in (*_classes(model), *inherited) if _is_users(cls.__module__)}
    return {name: _hash(path) for name, path in sorted(_closure(seeds).items())}


def source_file(module: str) -> Path | None:
    """The file of a module, without importing it; None for a built-in or one that does not exist."""
    known = sys.modules.get(module)
    name = getattr(known, "__file__", None) if known is not None else _origin(module)
    return Path(name).resolve() if name else None


def _classes(model: nn.Module) -> Iterator[type]:
    for part in model.modules():
        yield from type(part).__mro__
        yield from type(getattr(part, "config", None)).__mro__


def _is_users(module: str) -> bool:
    """Whether a class of this module is neither ours nor a known library's."""
    if module.partition(".")[0] in LIBRARIES | sys.stdlib_module_names - {"__main__"}:
        return False
    file = source_file(module)
    return file is not None and not any(file.is_relative_to(folder) for folder in OURS)


def _closure(seeds: Iterable[str]) -> dict[str, Path]:
    """The files of ``seeds`` and of what they import, directly or not, as far as that is the user's own.

    Inside an installed package only modules of the seeds' own packages are followed.
    """
    waiting, reached = list(seeds), dict[str, Path]()
    packages = {name.partition(".")[0] for name in waiting}
    while waiting:
        name = waiting.pop()
        file = source_file(name)
        if name in reached or file is None:
            continue
        reached[name] = file
        for other in _imported(file, name):
            path = source_file(other)
            if path is not None and _is_followed(other, path, packages):
                waiting.append(other)
    return reached


def _is_followed(module: str, file: Path, packages: set[str]) -> bool:
    if any(file.is_relative_to(folder) for folder in OURS):
        return False
    return module.partition(".")[0] in packages or not any(file.is_relative_to(folder) for folder in _installed())


def _imported(file: Path, module: str) -> set[str]:
    """Dotted names that a source file imports anywhere in it, the packages around them included."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):  # a compiled extension
        return set()
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)} if base else set()
    return {".".join(name.split(".")[: i + 1]) for name in names for i in range(name.count(".") + 1)}


def _absolute(node: ast.ImportFrom, package: str) -> str:
    try:
        return importlib.util.resolve_name("." * node.level + (node.module or ""), package or None)
    except (ImportError, ValueError):
        return ""


def _origin(module: str) -> str | None:
    """Where a module that is not imported yet would come from; nothing is executed."""
    path: list[str] | None = None
    spec = None
    for i in range(module.count(".") + 1):
        try:
            spec = PathFinder.find_spec(".".join(module.split(".")[: i + 1]), path)
        except (ImportError, ValueError):
            return None
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    return spec.origin if spec is not None and spec.has_location else None


@lru_cache(maxsize=1)
def _installed() -> tuple[Path, ...]:
    """Folders of the standard library and of installed packages."""
    paths = sysconfig.get_paths()
    names = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(Path(name).resolve() for name in [*names, *site.getsitepackages(), site.getusersitepackages()])


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]

"""Where the source file of a module lies, and whose it is: ours, the user's or a library's. Nothing is imported."""

from __future__ import annotations

import site
import sys
import sysconfig
from functools import cache, lru_cache
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
OURS = ("arch_lab", "blocks", "experiments")
# libraries that our own models are built from; a trial records the version of torch, and no other
LIBRARIES = frozenset({"torch", "lightning", "einops", "numpy", "transformers", "torchvision"})
_STANDARD = frozenset(sys.stdlib_module_names - {"__main__"})


def source_file(module: str) -> Path | None:
    """The file of a module; None for a built-in or one that does not exist."""
    imported = sys.modules.get(module)
    name = getattr(imported, "__file__", None) if imported is not None else _origin(module)
    return Path(name).resolve() if name else None


@cache
def is_ours(file: Path) -> bool:
    return any(file.is_relative_to(PACKAGE_ROOT / name) for name in OURS)


def is_library(module: str) -> bool:
    """Whether a module belongs to Python or to one of the known libraries."""
    top = module.partition(".")[0]
    return top in LIBRARIES or top in _STANDARD


def is_installed(file: Path) -> bool:
    """Whether a file lies where packages are installed."""
    return any(file.is_relative_to(folder) for folder in _installed())


def _origin(module: str) -> str | None:
    """Where a module that is not imported yet would come from."""
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
    return tuple(
        Path(name).resolve() for name in [*names, *site.getsitepackages(), site.getusersitepackages()]
    )

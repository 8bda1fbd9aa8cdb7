"""Where an exception was raised in code that is not part of this package: file, line and function."""

from __future__ import annotations

import site
import sysconfig
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = tuple(str(ROOT / name) + "/" for name in ("arch_lab", "blocks", "experiments"))
LIBRARIES = tuple(
    str(Path(folder).resolve()) + "/"
    for folder in {
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
    }
)
HINTS = {
    "cannot inherit non-frozen dataclass from a frozen one": (
        "decorate it with @dataclass(frozen=True, kw_only=True)"
    ),
    "cannot inherit frozen dataclass from a non-frozen one": (
        "its base must be frozen too: @dataclass(frozen=True, kw_only=True)"
    ),
    "follows default argument": "decorate it with @dataclass(frozen=True, kw_only=True)",
}


def place(error: BaseException) -> str:
    """'my_block.py line 12, in forward': the innermost line of user code, or ''."""
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        return f"{_short(error.filename)} line {error.lineno}"
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = frame.f_code.co_filename
        if _is_users(file):
            function = frame.f_code.co_name
            return f"{_short(file)} line {line}" + ("" if function.startswith("<") else f", in {function}")
    return ""


def describe(error: BaseException, limit: int = 300) -> str:
    """'my_block.py line 12, in forward: ValueError: …' in one line."""
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    hint = next((f"; {advice}" for text_part, advice in HINTS.items() if text_part in text), "")
    location = place(error)
    return f"{location}: " * bool(location) + f"{type(error).__name__}: {text[:limit]}{hint}".rstrip(": ")


def _is_users(file: str) -> bool:
    """Whether a file is neither ours, nor a library's, nor made up (``<string>``)."""
    path = str(Path(file).resolve()) if not file.startswith("<") else ""
    return bool(path) and not path.startswith((*OURS, *LIBRARIES)) and "site-packages" not in path


def _short(file: str) -> str:
    """Relative to the current folder where it lies in it."""
    path = Path(file).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

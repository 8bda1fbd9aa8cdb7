"""Files behind names, folders and patterns, in an order that every machine agrees on.

A folder stands for all files below it whose suffix is known (``formats.FOLDER_SUFFIXES``). In a pattern
``*``, ``?`` and ``[…]`` stay within one folder and ``**`` reaches through any number. Hidden files and
folders are left out, links are followed, loops of links are not.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from arch_lab.data.formats import COMPRESSED, FOLDER_SUFFIXES, DataError, is_read_in_folders
from blocks.errors import did_you_mean

ROOT_VARIABLE = "ARCH_LAB_DATA"
_NAMED = 3  # files that one message lists


def expand_paths(
    patterns: str | Path | Sequence[str | Path],
    root: str | Path = ".",
    *,
    option: str = "files",
    hint: str = "",
) -> list[Path]:
    """Files matched by ``patterns`` (names, folders, globs), each once.

    Patterns keep their order; the files of a folder or glob are sorted by path, part by part. A file named as
    such is read whatever its suffix. ``option`` begins every message, ``hint`` ends the one about a missing
    file.
    Raises: DataError, one line, for a name without a file, a folder without a readable one, and empty files.
    """
    names = [patterns] if isinstance(patterns, (str, Path)) else list(patterns)
    if not names:
        raise DataError(
            f"{option}: the list is empty; name a file, a folder or a pattern such as 'texts/*.txt'"
        )
    files: dict[Path, Path] = {}
    for name in names:
        for path in _expand(name, Path(root), option, hint):
            files.setdefault(_resolved(path, option), path)
    empty = [str(path) for path in files.values() if _size(path, option) == 0]
    if empty:
        listed = ", ".join(empty[:_NAMED]) + (
            f" and {len(empty) - _NAMED} more" if len(empty) > _NAMED else ""
        )
        is_empty = "the file is empty" if len(empty) == 1 else f"{len(empty)} files are empty"
        raise DataError(
            f"{option}: {is_empty}: {listed}; fill or remove {'it' if len(empty) == 1 else 'them'}"
        )
    return list(files.values())


def _expand(name: str | Path, root: Path, option: str, hint: str) -> list[Path]:
    text = str(name)
    if not text.strip() or "\0" in text:
        raise DataError(
            f"{option}: {text!r} is not a path; name a file, a folder or a pattern such as 'texts/*.txt'"
        )
    path = root / expand_home(text, option)
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            return _folder_files(path, option)
        if path.exists():
            raise DataError(
                f"{option}: {path} is neither a file nor a folder (a device or a pipe?); name a regular file"
            )
        if glob.has_magic(text):
            return _glob_files(path, text, option)
    except OSError as error:  # no permission, or a name too long for the file system
        raise DataError(f"{option}: {_shorten(text)} cannot be read ({error.strerror or error})") from None
    raise DataError(
        f"{option}: no file {_shorten(text)!r} in {root.resolve()}{_nearest(path) or ';' * bool(hint)}{hint}"
    )


def _folder_files(folder: Path, option: str) -> list[Path]:
    files = _readable_below([folder], option)
    if not files:
        suffixes = ", ".join(FOLDER_SUFFIXES)
        raise DataError(
            f"{option}: {folder} holds no file that is read in folders ({suffixes}, "
            f"each also with {' or '.join(COMPRESSED)}); "
            "rename the files, or name them with a pattern"
        )
    return files


def _glob_files(path: Path, text: str, option: str) -> list[Path]:
    places = [Path(path.anchor)]
    for component in path.parts[bool(path.anchor) :]:
        places = _step(places, component, option)
    files = {candidate for candidate in places if candidate.is_file()}
    files.update(_readable_below([candidate for candidate in places if candidate.is_dir()], option))
    if not files:
        solid = Path(
            *path.parts[: next(i for i, component in enumerate(path.parts) if glob.has_magic(component))]
        )
        if solid.is_dir():
            hint = f" below {solid}{_nearest(solid / path.name) or ', which holds no such file'}"
        else:
            hint = f": there is no folder {str(solid)!r}{_nearest(solid)}"
        raise DataError(f"{option}: no file matches {_shorten(text)!r}{hint}")
    return sorted(files, key=lambda file: file.parts)


def _step(places: list[Path], component: str, option: str) -> list[Path]:
    """Where one part of a pattern leads from ``places``."""
    if component == "**":
        return [*places, *(path for path in _walk(places, option) if path.is_dir())]
    if not glob.has_magic(component):
        return [folder / component for folder in places if (folder / component).exists()]
    entries = [entry for folder in places for entry in _entries(folder, option)]
    return [
        entry
        for entry in entries
        if fnmatch.fnmatchcase(entry.name, component) and (not _is_hidden(entry) or component.startswith("."))
    ]


def _readable_below(folders: list[Path], option: str) -> list[Path]:
    return sorted(
        (path for path in _walk(folders, option) if path.is_file() and is_read_in_folders(path)),
        key=lambda path: path.parts,
    )


def _walk(folders: list[Path], option: str) -> Iterator[Path]:
    """Visible files and folders below ``folders``; a folder that several links lead to is entered once."""
    entered: set[Path] = set()
    waiting = folders[::-1]
    while waiting:
        folder = waiting.pop()
        resolved = _resolved(folder, option)
        if resolved in entered or not folder.is_dir():
            continue
        entered.add(resolved)
        entries = [entry for entry in _entries(folder, option) if not _is_hidden(entry)]
        yield from entries
        waiting += [entry for entry in reversed(entries) if entry.is_dir()]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _entries(folder: Path, option: str) -> list[Path]:
    if not folder.is_dir():
        return []
    try:
        return sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{option}: the folder {folder} cannot be read ({error.strerror or error})") from None


def expand_home(text: str | Path, option: str) -> Path:
    """``text`` with ``~`` as the user's folder. Raises: DataError for the folder of a user there is not."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~nobody
        raise DataError(
            f"{option}: {_shorten(str(text))!r}: {str(error).lower().rstrip('.')}; write the folder in full"
        ) from None


def data_root(root: str | Path | None, option: str) -> Path:
    """``root``, the value of ``option``; else the variable ARCH_LAB_DATA, else the current folder."""
    return expand_home(root or os.environ.get(ROOT_VARIABLE) or ".", option)


def _resolved(path: Path, option: str) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise DataError(f"{option}: {path} cannot be read ({error})") from None


def _size(path: Path, option: str) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{option}: {path} cannot be read ({error.strerror or error})") from None


def _nearest(path: Path) -> str:
    """`; did you mean 'name'?` for the nearest name in the same folder, or nothing."""
    try:
        suggestion = did_you_mean(
            path.name, [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
        )
    except OSError:
        return ""
    return suggestion if "did you mean" in suggestion else ""


def _shorten(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"

"""Mutated input through the command line, in process: one clear line or success, never a traceback.

A test draws a seed, damages one input with it, and calls ``answer``; what fails names the seed that reproduces it. ``make test-all``
draws 3,830 inputs: 950 study files, 640 text files, 240 tokenizers, 1,640 checkpoints (headers, settings, ``config.json``) and 360 run
folders. ``FIRST_MUTATION=1000`` in the environment draws others.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arch_lab.checkpoints.convert

# imported here because imports take seconds, which are not the seconds measured
import arch_lab.cli.lightning_run
import arch_lab.study  # noqa: F401
from arch_lab.cli import main

FIRST = int(os.environ.get("FIRST_MUTATION", "0"))  # another number draws mutations that no test has seen
SECONDS = 5.0  # of processor time: a busy machine must not decide
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, 1e308, -1e308, float("nan"), float("inf"), 1e-320,
    "", " ", "nan", "../..", "/", "a" * 400, "[/red]", "{x}", "\x1b[31m", "é", "\u202e", "1e999", ".x:y", "os:system",
    [], [[]], {}, {"x": 1}, [None], {"": ""}, list(range(50)),
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a command did: exit code, printed text, processor seconds."""

    code: int
    out: str
    err: str
    seconds: float


def answer(
    argv: Sequence[str],
    folder: Path,
    *,
    seed: object,
    seconds: float = SECONDS,
    codes: Sequence[int] = (0, 2),
) -> Answer:
    """Run ``arch-lab argv`` inside ``folder`` and require a well-behaved end.

    Asserts: no exception leaves ``main``; the exit code is one of ``codes``; a failure's last line on standard error starts
    with ``error:`` and no line is a traceback; at most ``seconds`` of processor time; nothing is written beside ``folder``.
    """
    note = f"seed {seed!r}: arch-lab {' '.join(map(str, argv))}"
    before = _tree(folder.parent, apart=folder)
    out, err = io.StringIO(), io.StringIO()
    start = time.process_time()
    with _inside(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(argv))
        except BaseException as error:  # SystemExit and Rust panics are no exceptions of the usual kind
            raise AssertionError(f"{note}: {type(error).__name__} left main: {error}") from error
    done = Answer(code, out.getvalue(), err.getvalue(), time.process_time() - start)
    lines = done.err.rstrip().splitlines()
    assert code in codes, f"{note}: exit {code}: {lines[-1:]}"
    assert "Traceback" not in done.err + done.out, f"{note}: {done.err}"
    if code == 2:
        assert lines and lines[-1].startswith("error: "), f"{note}: {lines[-3:]}"
        assert "internal error" not in done.err, f"{note}: {lines[-1]}"
    assert done.seconds <= seconds, f"{note}: {done.seconds:.1f} s"
    assert _tree(folder.parent, apart=folder) == before, f"{note}: wrote outside its folder"
    return done


def damaged_bytes(data: bytes, draw: random.Random) -> bytes:
    """``data`` cut, overwritten, doubled, filled or spliced at random places."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        place = draw.randrange(len(data) + 1)
        end = min(len(data), place + draw.choice((1, 2, 8, 64, 1024)))
        kind = draw.choice(("cut", "overwrite", "insert", "delete", "double", "zero"))
        if kind == "cut":
            del data[place:]
        elif kind == "overwrite":
            data[place:end] = draw.randbytes(end - place)
        elif kind == "insert":
            data[place:place] = draw.choice(
                (draw.randbytes(9), b"\x00", b"\xff\xfe", b"{", b"]", b'"', b"\t", b"&a *a", b"\r\n")
            )
        elif kind == "delete":
            del data[place:end]
        elif kind == "double":
            data[place:place] = data[place:end]
        else:
            data[place:end] = bytes(end - place)
    return bytes(data)


def damaged_tree(tree: Any, draw: random.Random) -> Any:
    """A copy of a JSON-like value with one node replaced, removed, renamed, doubled or buried."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.choice((1, 1, 1, 3))):
        parents = list(_containers(tree))
        if not parents:
            return copy.deepcopy(draw.choice(ODD_VALUES))
        _damage_one(draw.choice(parents), draw)
    return tree


def _damage_one(node: Any, draw: random.Random) -> None:
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = draw.choice(keys)
    kind = draw.choice(("replace", "replace", "replace", "remove", "rename", "bury", "swap", "odd key"))
    if kind == "replace":
        node[key] = copy.deepcopy(draw.choice(ODD_VALUES))
    elif kind == "remove":
        del node[key]
    elif kind == "rename" and isinstance(node, dict):
        node[str(key) + draw.choice("_sx")] = node.pop(key)
    elif kind == "odd key" and isinstance(node, dict):
        node[draw.choice(("", "x" * 300, "__class__", "1"))] = 1
    elif kind == "swap":
        other = draw.choice(keys)
        node[key], node[other] = node[other], node[key]
    else:
        value = node[key]
        for _ in range(draw.choice((1, 3, 200))):
            value = [value]
        node[key] = value


def _containers(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (dict, list)) and tree:
        yield tree
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _containers(value)


def damaged_json(text: str, draw: random.Random) -> bytes:
    """A JSON document damaged in its bytes (one third) or in its values."""
    if draw.random() < 1 / 3:
        return damaged_bytes(text.encode(), draw)
    return json.dumps(damaged_tree(json.loads(text), draw)).encode()


def seeds(count: int, name: str) -> list[str]:
    """``count`` seeds for ``random.Random``; readable in the test's name, other ones for each ``name``."""
    return [f"{name}-{FIRST + i}" for i in range(count)]


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """The folder as current folder, home and cache, so that every write has a place inside it."""
    names = {
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder / ".cache"),
        "ARCH_LAB_CACHE": str(folder / ".cache" / "arch_lab"),
    }
    before: dict[str, str | None] = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _tree(root: Path, *, apart: Path) -> dict[str, tuple[int, int]]:
    """Files below ``root`` with size and time of change, without those of ``apart``."""
    files: dict[str, tuple[int, int]] = {}
    for place, folders, names in os.walk(root):
        if Path(place) == apart.parent:
            folders[:] = [f for f in folders if f != apart.name]
        for name in names:
            with contextlib.suppress(OSError):
                stat = (Path(place) / name).lstat()
                files[str(Path(place) / name)] = stat.st_size, stat.st_mtime_ns
    return files

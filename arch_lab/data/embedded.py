"""English prose that every machine already has.

Docstrings of the Python standard library and of installed packages.

Sources are parsed, never imported. Examples, tables and code are dropped. Docstrings are copied and varied a
lot, and a copy would stand on both sides of a split: every paragraph that occurred before is dropped (the
idea of C4's span de-duplication, arXiv:1910.10683 section 2.2), then every document of which a fifth of the
8-word runs occurred before. The text depends on Python and package versions, so numbers compare within one
environment only; the fingerprint says which.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from arch_lab.data.formats import DataError

# what this project or one of its dependencies brings along; whichever is installed is read
PACKAGES = (
    "torch", "numpy", "networkx", "lightning", "torchmetrics", "datasets", "huggingface_hub", "tokenizers",
    "hypothesis", "einops", "rich", "jsonargparse", "tensorboard",
)  # fmt: skip
_SKIPPED = {
    "test", "tests", "testing", "site-packages", "dist-packages", "idlelib", "lib2to3", "encodings",
    "__pycache__", "vendored",
}  # fmt: skip
SMALLEST_DOCUMENT = 200  # characters
_LETTERS = 0.75  # share of letters, spaces and sentence marks below which a paragraph is a table or code
_REPEATED = 40  # letters from which a paragraph that comes again is dropped
_RUN = 8  # words
_MOST_SEEN = 0.2  # share of a document's runs that earlier documents may have
_COMMON = frozenset(
    re.findall(
        "[a-z]+",
        "the of and to a in is it that for as with be by on this are if or not an at from which when can "
        "will",
    )
)
_PROSE = str.maketrans("", "", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz ,.;:'\n")
_WORD = re.compile(r"[A-Za-z']+")
_HEADING = re.compile(r"\s*[\w .]{1,40}::?(\n\s*[-=~]+)?|.*\n\s*[-=~]{3,}")
_LONG_STRING = re.compile(r"(\"\"\"|''')(?:(?!\1).){200}", re.DOTALL)
Progress = Callable[[str], None]
_RULES = 1  # counts up when the cleaning changes, so that cached text is made anew


def roots() -> list[tuple[str, Path]]:
    """(name, folder) of the standard library and of every installed package of the list, in that order."""
    folders = [("python", Path(sysconfig.get_paths()["stdlib"]))]
    for name in PACKAGES:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue
        if spec is not None and spec.origin is not None and spec.origin.endswith("__init__.py"):
            folders.append((name, Path(spec.origin).parent))
    return folders


def environment() -> dict[str, str]:
    """Versions of everything that is read: the part of the fingerprint a person can act on."""
    versions = {"python": ".".join(map(str, sys.version_info[:3])), "rules": str(_RULES)}
    for name, _ in roots()[1:]:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def environment_key() -> str:
    """Changes with any version and with the size of any source file that is read."""
    sizes = [
        (name, str(path.relative_to(root)), path.stat().st_size)
        for name, root in roots()
        for path in _sources(root)
    ]
    return hashlib.sha256(json.dumps([environment(), sizes]).encode()).hexdigest()


def read_embedded(progress: Progress | None = None) -> list[str]:
    """The documents, one a docstring or help topic, in a fixed order.

    Ten seconds; ``store`` keeps the result.

    Raises: DataError when the installation holds no docstrings (python -OO packages, stripped images).
    """
    paragraph_keys: set[bytes] = set()
    documents = []
    collecting = gc.isenabled()
    # syntax trees are millions of objects without cycles: collecting among them doubles the time
    gc.disable()
    if progress is not None:
        progress(f"reading the docstrings of Python and {len(roots()) - 1} packages, once for all studies")
    try:
        for _, root in roots():
            texts = (text for path in _sources(root) for text in _strings(path))
            documents += [
                document
                for document in (clean(text, paragraph_keys) for text in texts)
                if document is not None
            ]
        documents = without_variants(documents)
    finally:
        if collecting:
            gc.enable()
    if len(documents) < 100:
        raise DataError(
            f"source 'embedded' found only {len(documents)} documents: this Python has no docstrings; "
            "use source 'files'"
        )
    return documents


def clean(text: str, paragraph_keys: set[bytes]) -> str | None:
    """The prose of one docstring, or None when too little is left.

    Adds its paragraphs to ``paragraph_keys``.
    """
    paragraphs = []
    for paragraph in re.split(r"\n[ \t]*\n", _without_examples(inspect.cleandoc(text))):
        paragraph = paragraph.rstrip()
        if not paragraph.strip() or len(paragraph.translate(_PROSE)) > (1 - _LETTERS) * len(paragraph):
            continue
        letters = "".join(_WORD.findall(paragraph)).lower()
        if len(letters) >= _REPEATED:
            key = hashlib.blake2b(letters.encode(), digest_size=12).digest()
            if key in paragraph_keys:
                continue
            paragraph_keys.add(key)
        paragraphs.append(paragraph.strip("\n"))
    while paragraphs and _HEADING.fullmatch(paragraphs[-1]):  # "Example::" without its example
        paragraphs.pop()
    document = "\n\n".join(paragraphs) + "\n"
    words = _WORD.findall(document.lower())
    if len(document) < SMALLEST_DOCUMENT or sum(word in _COMMON for word in words) < 0.15 * len(words):
        return None
    try:
        document.encode()
    except UnicodeEncodeError:  # a docstring about surrogates may hold one
        return None
    return document


def without_variants(documents: list[str]) -> list[str]:
    """Documents in their order, without those that mostly repeat earlier ones."""
    earlier_runs: set[str] = set()
    distinct = []
    for document in documents:
        words = _WORD.findall(document.lower())
        runs = {" ".join(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1)}
        if len(runs & earlier_runs) <= _MOST_SEEN * len(runs):
            distinct.append(document)
        earlier_runs |= runs
    return distinct


def _without_examples(text: str) -> str:
    """Without doctest lines and the output below them, up to the next blank line."""
    prose, example = [], False
    for line in text.splitlines():
        if line.lstrip().startswith(">>>"):
            example = True
        elif not line.strip():
            example = False
        if not example:
            prose.append(line.rstrip())
    return "\n".join(prose)


def _sources(root: Path) -> Iterator[Path]:
    """Python files in a fixed order.

    Tests, vendored copies and private folders hold little prose and are left out.
    """
    entries = sorted(root.iterdir(), key=lambda path: path.name)
    for path in entries:
        if path.suffix == ".py":
            yield path
        elif (
            path.is_dir()
            and path.name not in _SKIPPED
            and (not path.name.startswith("_") or path.name == "_core")
        ):
            yield from _sources(path)


def _strings(path: Path) -> Iterator[str]:
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    if path.name == "topics.py" and path.parent.name == "pydoc_data":
        yield from _topics(source)
        return
    if not _LONG_STRING.search(source):  # parsing is what takes the time
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's escape sequences
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    yield from _docstrings(tree.body, tree)


def _docstrings(body: list[ast.stmt], owner: ast.AST) -> Iterator[str]:
    if isinstance(owner, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        text = ast.get_docstring(owner, clean=False)
        if text:
            yield text
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _docstrings(node.body, node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _docstrings([], node)
        elif _attaches_docstring(node):
            strings = (
                n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
            )
            yield from (text for text in strings if len(text) >= SMALLEST_DOCUMENT)


def _attaches_docstring(node: ast.stmt) -> bool:
    """Functions written in C get their docstring from a call: add_docstr (torch), add_newdoc (numpy)."""
    call = node.value if isinstance(node, ast.Expr) else None
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id.startswith(("add_", "_add_"))
    )


def _topics(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            yield from (
                n.value for n in node.value.values if isinstance(n, ast.Constant) and isinstance(n.value, str)
            )

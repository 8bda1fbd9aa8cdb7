"""One source file as its syntax tree shows it: a hash, what it defines, and what each definition refers to.

Nothing is imported or run. The hash covers the whole file without comments, layout, docstrings and what only type checkers read.
References are kept apart by top-level definition, so that a class that nobody uses leads to no other file.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

ON_IMPORT = ""  # the definition that stands for all statements which run when the module is imported
# decorators that leave no trace outside the function; any other may register it, so it counts as run on import
LOCAL_DECORATORS = {
    "cache",
    "lru_cache",
    "contextmanager",
    "overload",
    "wraps",
    "assume_constant_result",
    "compile_time_constant",
    "no_grad",
    "disable",
}
NOT_HASHED = {"ctx", "type_comment", "kind", "type_ignores"}
KERNEL_CALLS = {
    "triton",
    "cuda",
    "triton_kernels",
    "kernel_source",
}  # functions of ``blocks`` that name a kernel source
KERNEL_SUFFIXES = (".cu", ".cuh")
LOOKUPS = {
    "build",
    "configure",
    "lookup",
    "recipe",
    "recipe_class",
}  # functions of ours that find a class by name


@dataclass(frozen=True)
class Target:
    """A module, or a name in it, that an import binds; ``*``: every name."""

    module: str
    name: str = ""


@dataclass(frozen=True)
class Uses:
    """What a definition refers to: dotted names and its own imports; in strings, modules, kernel sources and registered names."""

    names: set[str] = field(default_factory=set)
    imports: dict[str, Target] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    kernels: set[str] = field(default_factory=set)
    registered: set[str] = field(default_factory=set)

    def add(self, other: Uses) -> None:
        self.names.update(other.names)
        self.imports.update(other.imports)
        self.modules.update(other.modules)
        self.kernels.update(other.kernels)
        self.registered.update(other.registered)


@dataclass
class Source:
    """``declared``: imports for type checkers, which say where a lazy module finds a name; ``mentioned``: all names, used or not."""

    hash: str
    is_package: bool = False
    imports: dict[str, Target] = field(default_factory=dict)
    declared: dict[str, Target] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    definitions: dict[str, Uses] = field(default_factory=lambda: {ON_IMPORT: Uses()})
    mentioned: set[str] = field(default_factory=set)

    @property
    def is_index(self) -> bool:
        """Whether it only says where names are: imports, constants, a lazy ``__getattr__``."""
        always = self.definitions[ON_IMPORT]
        names = (
            name for name in self.definitions if name not in ("__getattr__", "__dir__", "__all__", ON_IMPORT)
        )
        return not (always.names or always.modules) and all(name.isupper() for name in names)

    def side_effects(self) -> Iterator[Target]:
        """Imports whose name is never mentioned: they are there for what they run."""
        return (target for name, target in self.imports.items() if name not in self.mentioned)


def read_source(file: Path, module: str) -> Source:
    """The source of a module. A file that does not parse, such as a compiled extension, has the hash of its bytes."""
    return _parsed(file.read_bytes(), module, file.name == "__init__.py")


@lru_cache(maxsize=2048)
def _parsed(content: bytes, module: str, is_package: bool) -> Source:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return Source(hash=hashlib.sha256(content).hexdigest()[:16], is_package=is_package)
    source = Source(hash=tree_hash(tree), is_package=is_package)
    _Reader(source, module if is_package else module.rpartition(".")[0]).statements(tree.body)
    return source


# --- the hash ---------------------------------------------------------------------------------------------------------


def tree_hash(tree: ast.AST) -> str:
    """Hash of a syntax tree that layout, comments, docstrings and imports for type checkers leave as it is."""
    text: list[str] = []
    _write(tree, text)
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


@lru_cache(maxsize=512)
def _fields(kind: Any) -> tuple[str, ...]:
    return tuple(name for name in kind._fields if name not in NOT_HASHED)


def _write(node: ast.AST, text: list[str]) -> None:
    text.append(type(node).__name__)
    kind: Any = type(node)
    for name in _fields(kind):
        value = getattr(node, name)
        if isinstance(value, ast.AST):
            _write(value, text)
        elif isinstance(value, list):
            text.append("[")
            for item in value:
                if not isinstance(item, ast.AST):
                    text.append(repr(item))
                elif not _is_text(item) and not _is_for_type_checkers(item):
                    _write(item, text)
            text.append("]")
        else:
            text.append(repr(value))


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a bare string: a docstring."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and _dotted(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


# --- the references ---------------------------------------------------------------------------------------------------


class _Reader:
    """Fills a Source from the statements of a module; ``package``: what its relative imports start from."""

    def __init__(self, source: Source, package: str) -> None:
        self.source, self.package = source, package

    def statements(self, body: list[ast.stmt]) -> None:
        for statement in body:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                self._bind(statement, self.source.imports)
            elif _is_for_type_checkers(statement):
                assert isinstance(statement, ast.If)
                for inner in statement.body:
                    if isinstance(inner, (ast.Import, ast.ImportFrom)):
                        self._bind(inner, self.source.declared)
                self.statements(statement.orelse)
            elif isinstance(statement, (ast.If, ast.Try, ast.With)):
                self._compound(statement)
            elif not _is_text(statement):
                self._definition(statement)

    def _compound(self, statement: ast.If | ast.Try | ast.With) -> None:
        """A block at the top of the file: its statements count as if they stood there, its conditions run on import."""
        for _, value in ast.iter_fields(statement):
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, ast.ExceptHandler):
                    self.statements(item.body)
                elif isinstance(item, ast.stmt):
                    self.statements([item])
                elif isinstance(item, ast.AST):
                    self.source.definitions[ON_IMPORT].add(self._uses(item))

    def _definition(self, statement: ast.stmt) -> None:
        names, uses = _defined_names(statement), self._uses(statement)
        for name in names or [ON_IMPORT]:
            self.source.definitions.setdefault(name, Uses()).add(uses)
        for config in _configs(statement):
            self.source.definitions.setdefault(config, Uses()).names.update(names)
        if names and names != ["__all__"] and _runs_on_import(statement):
            self.source.definitions[ON_IMPORT].names.update(names)

    def _uses(self, statement: ast.AST) -> Uses:
        uses = Uses()
        waiting: list[tuple[ast.AST, bool]] = [(statement, True)]  # (node, whether what it names is run)
        while waiting:
            node, runs = waiting.pop()
            dotted = _dotted(node)
            if dotted:
                self.source.mentioned.add(dotted.partition(".")[0])
                if runs:
                    uses.names.add(dotted)
                continue
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self._bind(node, uses.imports)
            elif isinstance(node, ast.Call):
                self._call(node, uses)
            elif (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and node.value.endswith(KERNEL_SUFFIXES)
            ):
                uses.kernels.add(node.value)
            if _is_for_type_checkers(node):
                continue
            for name in node._fields:
                value = getattr(node, name)
                for item in value if isinstance(value, list) else (value,):
                    if isinstance(item, ast.AST):
                        waiting.append((item, runs and not _is_passive(node, name, item)))
        return uses

    def _call(self, node: ast.Call, uses: Uses) -> None:
        """Note the module, kernel or registered class that a call names in a string."""
        called = _dotted(node.func).rpartition(".")[2]
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            if called in ("import_module", "__import__"):
                uses.modules.add(first.value)
            elif called in KERNEL_CALLS:
                uses.kernels.add(first.value)
            elif called in LOOKUPS:
                uses.registered.add(first.value)

    def _bind(self, node: ast.Import | ast.ImportFrom, imports: dict[str, Target]) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                head = alias.name.partition(".")[0]
                imports[alias.asname or head] = Target(alias.name if alias.asname else head)
                if not alias.asname and head != alias.name:
                    imports[alias.name] = Target(
                        alias.name
                    )  # import a.b also runs a.b, whatever a is used for
            return
        module = self._absolute(node)
        for alias in node.names if module else ():
            if alias.name == "*":
                self.source.stars.append(module)
            else:
                imports[alias.asname or alias.name] = Target(module, alias.name)

    def _absolute(self, node: ast.ImportFrom) -> str:
        try:
            return importlib.util.resolve_name("." * node.level + (node.module or ""), self.package or None)
        except (ImportError, ValueError):
            return ""


def _dotted(node: ast.AST) -> str:
    """``a.b.c`` for a name or a chain of attributes of one; "" for anything else."""
    chain: list[str] = []
    while isinstance(node, ast.Attribute):
        chain.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(chain)]) if isinstance(node, ast.Name) else ""


def _defined_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [
        node.id
        for target in targets
        if target is not None
        for node in ast.walk(target)
        if isinstance(node, ast.Name)
    ]


def _runs_on_import(statement: ast.stmt) -> bool:
    """Whether a definition may do more than bind a name: a call, or a decorator that may put a function into a table."""
    if isinstance(statement, ast.ClassDef):
        return False  # a class that is looked up by name is covered by the objects that are built
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        decorators = (node.func if isinstance(node, ast.Call) else node for node in statement.decorator_list)
        return any(_dotted(node).rpartition(".")[2] not in LOCAL_DECORATORS for node in decorators)
    return any(isinstance(node, ast.Call) for node in ast.walk(statement))


def _configs(statement: ast.stmt) -> Iterator[str]:
    """Names of the config classes that a class is registered with: what is configured is built."""
    for decorator in statement.decorator_list if isinstance(statement, ast.ClassDef) else ():
        for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
            if keyword.arg == "config" and isinstance(keyword.value, ast.Name):
                yield keyword.value.id


def _is_passive(parent: ast.AST, name: str, item: ast.AST) -> bool:
    """Whether a part of a node names classes without using them: an annotation of a function, the class of ``isinstance``."""
    if isinstance(parent, ast.arg) or name == "returns":
        return True
    if isinstance(parent, ast.Call) and _dotted(parent.func) == "isinstance":
        return item in parent.args[1:]
    return (
        isinstance(parent, (ast.FunctionDef, ast.AsyncFunctionDef))
        and isinstance(item, ast.AnnAssign)
        and item.value is None
    )

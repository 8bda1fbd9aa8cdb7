"""The registry of blocks, read by the laws, the solver, the CLI and the report.

A block comes from this package, from an installed package that declares the entry-point group
``arch_lab.blocks`` (each entry names a module to import or a block class), or from an import path
``package.module:Class`` in a study.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar

from blocks.config import Options
from blocks.contract import Block, BlockConfig, ChannelMixer, CrossMixer, Pooler, SequenceMixer
from blocks.errors import ConfigError, did_you_mean
from blocks.index import BLOCKS, KINDS
from blocks.user_code import describe

Kind = Literal[
    "sequence_mixer", "cross_mixer", "channel_mixer", "linear", "norm", "embedding", "pooler", "head"
]
BASES: dict[str, type] = {  # abstract classes, which mypy does not take for type[Block]
    "sequence_mixer": SequenceMixer,
    "cross_mixer": CrossMixer,
    "channel_mixer": ChannelMixer,
    "pooler": Pooler,
}
ENTRY_POINT_GROUP = "arch_lab.blocks"
B = TypeVar("B", bound=type[Block])


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of a registered block without building it."""

    name: str
    kind: Kind
    causal: bool  # may stand in a causal model
    complexity: str  # cost over T tokens at fixed width, e.g. "O(T·w)"
    source: str  # paper or repository:path
    block: type[Block]
    config: type[BlockConfig]

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.block) or "").split("\n")[0]


_entries: dict[str, Entry] = {}
_entry_of: dict[type[Block], Entry] = {}
_all_loaded = False
# modules whose import paths are followed; None: all, for a study file or command line that its user wrote
_importable: ContextVar[frozenset[str] | None] = ContextVar("importable", default=None)
_trusted: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())


class TrustError(ConfigError):
    """An import path whose module the user has not named."""


def register(
    name: str,
    *,
    kind: Kind,
    config: type[BlockConfig],
    source: str,
    complexity: str = "O(T)",
    causal: bool | None = None,
) -> Callable[[B], B]:
    """Class decorator that registers a block under ``name``.

    ``causal``: whether the block may stand in a causal model. None: what the class says, True where it says
    nothing.
    Raises: ConfigError when the name or the config class belongs to another block, the kind is unknown, a
    part of the contract is abstract, or ``causal`` contradicts the class.
    """

    def add(cls: B) -> B:
        label = f"block {name!r} ({_path(cls)})"
        _check_name(label, name, cls)
        _check_contract(label, kind, cls)
        _check_owner(label, config, cls)
        direction = _direction(cls, config)
        if causal is not None and direction not in (None, causal):
            raise ConfigError(
                f"{label}: causal={causal} contradicts the class, which {_DIRECTIONS[direction]}; "
                "leave causal= out"
            )
        allowed = next((flag for flag in (causal, direction) if flag is not None), True)
        entry = Entry(
            name=name,
            kind=kind,
            causal=allowed,
            complexity=complexity,
            source=source,
            block=cls,
            config=config,
        )
        config.block = cls
        _entries[name] = _entry_of[cls] = entry
        return cls

    return add


def _check_name(label: str, name: str, cls: type[Block]) -> None:
    owner = _path(_entries[name].block) if name in _entries else BLOCKS.get(name)
    if owner not in (None, _path(cls)):
        raise ConfigError(f"{label}: the name is taken by {owner}; choose another")


def _check_contract(label: str, kind: str, cls: type[Block]) -> None:
    if kind not in KINDS:
        raise ConfigError(f"{label}: unknown kind {kind!r}{did_you_mean(kind, KINDS)}")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        raise ConfigError(f"{label}: does not define {', '.join(missing)}, which its contract requires")
    base = BASES.get(kind)
    if base is not None and not issubclass(cls, base):
        raise ConfigError(f"{label}: a {kind} must inherit from blocks.{base.__name__}")


def _check_owner(label: str, config: type[BlockConfig], cls: type[Block]) -> None:
    """A config builds one block: the last one registered would replace the others without a word."""
    owner = config.__dict__.get("block")
    if owner is not None and _path(owner) != _path(cls):
        advice = "give each block its own config class"
        raise ConfigError(f"{label}: {config.__name__} already configures {_path(owner)}; {advice}")


_DIRECTIONS = {True: "is causal or can be", False: "never is"}


def _direction(cls: type[Block], config: type[BlockConfig]) -> bool | None:
    """Whether a sequence mixer is causal in any setting; None if unknown before building.

    A property is read on an unbuilt block that has its options alone: their defaults, and both values of
    ``causal``.
    """
    declared = inspect.getattr_static(cls, "causal", None)
    if isinstance(declared, bool):
        return declared
    if not isinstance(declared, property) or declared.fget is None:
        return None
    options = {f.name: f.default for f in fields(config) if f.default is not MISSING}
    flags = (True, False) if isinstance(options.get("causal"), bool) else (None,)
    try:
        return any(declared.fget(_unbuilt(cls, config, options, flag)) for flag in flags)
    except Exception:  # whatever a third party's property reads of a block that is not there yet
        return None


def _unbuilt(cls: type[Block], config: type[BlockConfig], options: Options, flag: bool | None) -> Block:
    block, settings = object.__new__(cls), object.__new__(config)
    for option, value in (options if flag is None else options | {"causal": flag}).items():
        object.__setattr__(settings, option, value)
    block.__dict__["config"] = settings
    return block


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _built_in(name: str) -> Entry:
    """Import the module that registers a built-in block."""
    module, _, attribute = BLOCKS[name].partition(":")
    return _entry_of[getattr(importlib.import_module(module), attribute)]


def _load_all() -> None:
    """Import the built-in blocks and what installed packages declare, once."""
    global _all_loaded
    if _all_loaded:
        return
    _all_loaded = True
    for name in BLOCKS:
        _built_in(name)
    load_entry_points(ENTRY_POINT_GROUP)


def load_entry_points(group: str) -> None:
    """Import what installed packages declare for ``group``.

    A package that fails is a warning that names it.
    """
    for point in entry_points(group=group):
        try:
            point.load()
        except ConfigError:
            raise
        # third-party import: anything may happen, the user must learn which package
        except Exception as error:
            entry, reason = f"{point.name} = {point.value} of group {group}", describe(error)
            print(f"warning: package entry {entry} failed: {reason}", file=sys.stderr)


def entries(kind: Kind | None = None) -> list[Entry]:
    """Every registered block, plugins included, by kind then name."""
    _load_all()
    selected = (e for e in _entries.values() if kind is None or e.kind == kind)
    return sorted(selected, key=lambda e: (KINDS.index(e.kind), e.name))


def lookup(name: str) -> Entry:
    """The entry called ``name``, or the one registered by the class at import path ``package.module:Class``.

    A built-in block loads its own module and no other.
    Raises: ConfigError with the nearest known name, or what is wrong with the import path.
    """
    if name not in _entries and name in BLOCKS:
        return _built_in(name)
    if name not in _entries:
        _load_all()
    if name in _entries:
        return _entries[name]
    if ":" in name:
        cls = import_object(name)
        for entry in _entries.values():
            if entry.block is cls:
                return entry
        raise ConfigError(
            f"block {name!r}: imported, but the class is not registered; decorate it with @blocks.register"
        )
    raise ConfigError(f"unknown block {name!r}{did_you_mean(name, _entries)} (arch-lab blocks lists all)")


def trusted() -> frozenset[str]:
    """Modules that ``trusting`` allows here."""
    return _trusted.get()


@contextmanager
def trusting(modules: Iterable[str]) -> Iterator[None]:
    """Inside, ``import_only`` also allows these modules and what lies below them. Raises: ConfigError for a
    name that is none.
    """
    names = frozenset(name.partition(":")[0] for name in modules)
    for name in names:
        if not all(piece.isidentifier() for piece in name.split(".")):
            raise ConfigError(
                f"--trust {name!r}: expected the name of a module, for example my_package.blocks"
            )
    token = _trusted.set(_trusted.get() | names)
    try:
        yield
    finally:
        _trusted.reset(token)


@contextmanager
def import_only(modules: Iterable[str] = ()) -> Iterator[None]:
    """Inside, import paths reach these modules, trusted ones and those already imported.

    Others raise TrustError.

    For options that come from a file somebody else may have written, such as a checkpoint.
    """
    with trusting(modules):
        token = _importable.set(_trusted.get())
        try:
            yield
        finally:
            _importable.reset(token)


def _check_trust(path: str, module: str) -> None:
    allowed = _importable.get()
    if allowed is None or module in sys.modules:
        return
    if not any(module == name or module.startswith(f"{name}.") for name in allowed):
        raise TrustError(
            f"it uses {path!r}, and opening a checkpoint imports no module that you have not named; "
            f"if you trust that code, add --trust {module} (Python: trust=({module!r},))"
        )


def import_object(path: str) -> Any:
    """The object at ``package.module:name``.

    The working folder counts as importable, as it does for python itself.

    Raises: ConfigError naming the part that does not exist; TrustError inside ``import_only``.
    """
    module_name, _, attribute = path.partition(":")
    if not attribute or not all(piece.isidentifier() for piece in module_name.split(".")):
        raise ConfigError(f"{path!r}: expected an import path package.module:Class")
    _check_trust(path, module_name)
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = _imported(path, module_name)
    if not hasattr(module, attribute):
        raise ConfigError(
            f"{path!r}: module {module_name!r} has no {attribute!r}{did_you_mean(attribute, _public(module))}"
        )
    return getattr(module, attribute)


def _imported(path: str, name: str) -> Any:
    """The module of an import path. Raises: ConfigError with the file and line of whatever its own code
    raises.
    """
    try:
        return importlib.import_module(name)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            search_path = (
                f"the current folder ({Path.cwd()}), PYTHONPATH "
                f"({os.environ.get('PYTHONPATH') or 'not set'}) and installed packages"
            )
            raise ConfigError(
                f"{path!r}: cannot import module {name!r}: no {error.name!r} in {search_path}"
            ) from None
        raise ConfigError(f"{describe(error)} (importing {path!r}; --debug shows the traceback)") from error


def _public(module: Any) -> Iterator[str]:
    return (n for n in vars(module) if not n.startswith("_"))


def configure(name: str, **options: Any) -> BlockConfig:
    """Strict configuration of the block called ``name`` (see BlockConfig.from_options)."""
    return lookup(name).config.from_options(options, where=f"block {name!r}")


def build(name: str, **options: Any) -> Block:
    """The block called ``name`` with these options, ready to use."""
    return configure(name, **options).build()

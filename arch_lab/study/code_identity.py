"""The code that a trial uses, file by file, and the conditions it runs under.

The search starts at the classes of what a trial builds and calls (the model and its configs, the recipe, the experiment, the training
loop) and follows what they refer to, by syntax: through our packages, kernel sources and the user's own files. Of ours it follows the
definitions that are reached, not whole files; of the user's, every import. Registries lead nowhere: what a trial looks up by name is
a class that it builds, or a name in its configuration or in the code.
Not seen: data files that code opens itself, compiled extensions, other libraries than torch.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from arch_lab.models import architectures, recipe_class
from arch_lab.study.sources import OURS, PACKAGE_ROOT, is_installed, is_library, is_ours, source_file
from arch_lab.study.syntax import ON_IMPORT, Source, Target, Uses, read_source
from blocks.dispatch import IMPLEMENTATIONS, override
from blocks.errors import ConfigError
from blocks.registry import lookup

# what plans, certifies, judges, stores and shows, and registries: it decides whether a trial runs and what is made of it, not its numbers
APART = (
    *(f"blocks.{name}" for name in ("index", "registry", "user_code")),
    *(f"arch_lab.{name}" for name in ("accounting", "bench", "budget", "cli", "console", "files", "judge")),
    *(
        f"arch_lab.{name}"
        for name in ("laws", "memory", "metrics.ngram", "models.registry", "report", "sealed")
    ),
    *(f"arch_lab.{name}" for name in ("signals", "units", "version", "yaml_files")),
    *(f"arch_lab.study.{name}" for name in ("code_identity", "config", "engine", "environment", "events")),
    *(
        f"arch_lab.study.{name}"
        for name in (
            "estimate",
            "executor",
            "experiment",
            "identity",
            "library",
            "loggers",
            "open_study",
            "plan",
        )
    ),
    *(
        f"arch_lab.study.{name}"
        for name in ("planning", "recheck", "registry", "sources", "stages", "storage")
    ),
    *(f"arch_lab.study.{name}" for name in ("study", "syntax", "task_study", "training_study", "trial")),
    *(f"arch_lab.study.{name}" for name in ("trial_loggers", "workers")),
)
LOADING = ("arch_lab.checkpoints",)  # how weights are read: no part of a trial that draws its own
TRAINING = (
    ("arch_lab.study.run", "train"),
    ("arch_lab.study.spec", "RunSpec"),
)  # the training loop of a language-model study
EVERYTHING = "*"
KERNELS = (PACKAGE_ROOT / "blocks" / "_cuda_src", PACKAGE_ROOT / "cuda")
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)

Node = tuple[str, str]  # a module and a definition in it


def trial_code(
    built: Iterable[Any],
    *,
    names: Iterable[str] = (),
    also: Iterable[Node] = (),
    excluded: Sequence[str] = APART,
) -> dict[str, str]:
    """File -> hash of each source that a trial uses; a path starts at the folder that holds the package.

    ``built``: a model, a recipe, an experiment, any object the trial calls. ``names``: what it may look up in a registry.
    ``also``: definitions where the search starts beside them. ``excluded``: modules and packages where it ends.
    """
    classes = [cls for thing in built for cls in _classes(thing)]
    seeds = {(cls.__module__, cls.__qualname__.partition(".")[0]) for cls in [*classes, *_registered(names)]}
    search = _Search({module.partition(".")[0] for module, _ in seeds}, excluded)
    return search.run([*seeds, *also])


def texts(settings: Any) -> Iterator[str]:
    """Every text in plain settings: among them are the names of blocks that a trial looks up."""
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, (dict, list, tuple)):
        for inner in settings.values() if isinstance(settings, dict) else settings:
            yield from texts(inner)


def is_our_path(path: str) -> bool:
    """Whether a path, as ``trial_code`` gives it, is one of arch-lab's own files."""
    return path.partition("/")[0] in (*OURS, "cuda")


def conditions() -> dict[str, Any]:
    """What the last digits of a trial's numbers depend on beside code and data.

    ``operations``: the implementations that are requested, in the format of ARCH_LAB_OPS. Raises: ConfigError for an unknown one.
    """
    requests = ((name, override(name)[0]) for name in IMPLEMENTATIONS)
    operations = ",".join(f"{name}={implementation}" for name, implementation in requests if implementation)
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "operations": operations}


def _classes(thing: Any) -> Iterator[type]:
    """The classes of an object, of the parts of a model and of their configs, bases included."""
    for component in thing.modules() if isinstance(thing, nn.Module) else (thing,):
        yield from type(component).__mro__
        yield from type(getattr(component, "config", None)).__mro__


def _registered(names: Iterable[str]) -> Iterator[type]:
    """The classes behind names of blocks and architectures; a name of neither stands for nothing."""
    recipes = set(architectures())
    for name in names:
        if name in recipes:
            yield from recipe_class(name).__mro__
            continue
        try:
            entry = lookup(name)
        except ConfigError:
            continue
        yield from entry.block.__mro__
        yield from entry.config.__mro__


class _Search:
    """One search through source files. ``packages``: top-level packages that are followed although they are installed."""

    def __init__(self, packages: set[str], excluded: Sequence[str]) -> None:
        self.packages, self.apart = packages, frozenset(excluded)
        self.sources: dict[str, Source | None] = {}
        self.files: dict[str, Path] = {}
        self.followed: set[Node] = set()  # names that were looked for
        self.reached: set[Node] = set()  # definitions that were found
        self.waiting: list[Node] = []
        self.kernels: dict[str, str] = {}

    def run(self, seeds: Iterable[Node]) -> dict[str, str]:
        for module, name in seeds:
            self._definition(module, name)
        while self.waiting:
            self._visit(*self.waiting.pop())
        code = {_shown(module, self.files[module]): _hash(self._source(module)) for module, _ in self.reached}
        return dict(sorted({**code, **self.kernels}.items()))

    # --- definitions --------------------------------------------------------------------------------------------------

    def _visit(self, module: str, name: str) -> None:
        source = self._source(module)
        assert source is not None
        if name == EVERYTHING:
            self._everything(module, source)
            return
        uses = source.definitions[name]
        if name == ON_IMPORT and not source.is_package:
            for target in source.side_effects():
                self._target(target)
        for local, target in uses.imports.items():
            if local not in source.mentioned or not is_ours(self.files[module]):
                self._target(target)
        for dotted in uses.names:
            self._used(module, source, uses, dotted)
        for other in uses.modules:
            self._whole(other)
        for cls in _registered(uses.registered):
            self._definition(cls.__module__, cls.__qualname__.partition(".")[0])
        for kernel in uses.kernels:
            self._kernel(kernel)

    def _everything(self, module: str, source: Source) -> None:
        for name in source.definitions:
            self._reach(module, name)
        for target in source.imports.values():
            self._target(target)
        for star in source.stars:
            self._whole(star)

    def _used(self, module: str, source: Source, uses: Uses, dotted: str) -> None:
        """Follow a dotted name that a definition of a module uses; a name of Python's own leads nowhere."""
        head, _, attribute = dotted.partition(".")
        if head in uses.imports:
            self._target(uses.imports[head], attribute)
        elif head in source.definitions:
            self._reach(module, head)
        elif head in source.imports:
            self._target(source.imports[head], attribute)
        else:
            for star in source.stars:
                if self._binds(star, head):
                    self._definition(star, head)

    def _target(self, target: Target, attribute: str = "") -> None:
        """Follow what an import binds; ``attribute``: the attributes that are taken of it."""
        module = target.module
        for name in filter(None, (target.name, *attribute.split("."))):
            if self._binds(module, name) or not self._has_module(module, name):
                self._definition(module, name)
                return
            module = f"{module}.{name}"
        self._whole(module)

    def _definition(self, module: str, name: str) -> None:
        """Reach a definition by a name of a module, through whatever hands it on."""
        source = self._source(module)
        if source is None or (module, name) in self.followed:
            return
        self.followed.add((module, name))
        if not is_ours(self.files[module]):
            self._reach(module, EVERYTHING)
        elif name in source.definitions:
            self._reach(module, name)
        elif name in source.imports or name in source.declared:
            self._target(source.imports.get(name) or source.declared[name])
        else:
            stars = [star for star in source.stars if self._binds(star, name)]
            self._definition(stars[0], name) if stars else self._lazy(module, name)

    def _lazy(self, module: str, name: str) -> None:
        """Reach what a module's own ``__getattr__`` finds under a name, or all of the module where it cannot be told."""
        value = getattr(sys.modules.get(module), name, None)
        home, path = getattr(value, "__module__", module), getattr(value, "__qualname__", "")
        if path and home != module:
            self._definition(home, path.partition(".")[0])
        else:
            self._whole(module)

    def _whole(self, module: str) -> None:
        source = self._source(module)
        if source is not None and not (source.is_index and is_ours(self.files[module])):
            self._reach(module, EVERYTHING)

    def _reach(self, module: str, name: str) -> None:
        for node in ((module, name), (module, ON_IMPORT)):
            if node not in self.reached:
                self.reached.add(node)
                self.waiting.append(node)
        package = module.rpartition(".")[0]
        if package and not is_ours(self.files[module]) and (package, EVERYTHING) not in self.reached:
            self._package(package)

    def _package(self, package: str) -> None:
        """The ``__init__`` of a package of the user's runs before its modules; one that only hands on names leads nowhere."""
        source = self._source(package)
        if source is not None and not source.is_index:
            self._reach(package, EVERYTHING)

    # --- modules ------------------------------------------------------------------------------------------------------

    def _source(self, module: str) -> Source | None:
        """The parsed module; None where the search ends: no such module, one of a library, one that is no part of a trial."""
        if module not in self.sources:
            file = None if is_library(module) or self._is_apart(module) else source_file(module)
            followed = file is not None and (
                is_ours(file) or module.partition(".")[0] in self.packages or not is_installed(file)
            )
            self.sources[module] = read_source(file, module) if file is not None and followed else None
            if file is not None:
                self.files[module] = file
        return self.sources[module]

    def _binds(self, module: str, name: str) -> bool:
        source = self._source(module)
        itself = Target(module, name)  # a package that imports a module of its own binds nothing else by it
        return source is not None and (
            name in source.definitions or source.imports.get(name, itself) != itself
        )

    def _has_module(self, package: str, name: str) -> bool:
        source = self._source(package)
        if source is None or not source.is_package:
            return False
        return self._is_apart(f"{package}.{name}") or self._source(f"{package}.{name}") is not None

    def _is_apart(self, module: str) -> bool:
        return module in self.apart or any(
            module[:i] in self.apart for i, letter in enumerate(module) if letter == "."
        )

    # --- kernels ------------------------------------------------------------------------------------------------------

    def _kernel(self, name: str) -> None:
        """A kernel source by file name or by the name that ``blocks`` gives it, and all that it includes."""
        for file in (folder / entry for folder in KERNELS for entry in (name, f"{name}_triton.py")):
            label = f"cuda/{file.name}"
            if label in self.kernels or not file.is_file():
                continue
            if file.suffix == ".py":
                source = read_source(file, file.stem)
                self.kernels[label] = source.hash
                more = {kernel for uses in source.definitions.values() for kernel in uses.kernels}
            else:
                content = file.read_bytes()
                self.kernels[label] = hashlib.sha256(content).hexdigest()[:16]
                more = set(_INCLUDE.findall(content.decode(errors="replace")))
            for entry in more:
                self._kernel(entry)


def _hash(source: Source | None) -> str:
    assert source is not None
    return source.hash


def _shown(module: str, file: Path) -> str:
    """Path of a module's file below the folder that its import starts from."""
    path = module.replace(".", "/")
    return f"{path}/{file.name}" if file.stem == "__init__" else f"{path}{file.suffix}"

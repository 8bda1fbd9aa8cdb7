"""Every key that a study may have, read from the configuration classes: type, default, bounds and one sentence.

``arch-lab keys`` shows them, docs/study_keys.md is the same text, and ``arch-lab init`` comments a study file with them.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields
from typing import Annotated, Any, get_args, get_origin

from arch_lab.architecture.recipe import Recipe, architectures
from arch_lab.data import DataConfig
from arch_lab.study.config import StudyConfig
from arch_lab.study.experiment import NoOptions, OwnData, StudyEngine, experiments, load_experiment
from blocks.config import Config, Doc, Rule, field_hints
from blocks.errors import ConfigError, did_you_mean

OWN_KEYS = {"data", "objective"}  # of a study that trains: what is in them is the experiment's to say


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of a study file. ``path``: training.batch_size; ``[]`` stands behind the name of a list of mappings."""

    path: str
    type: str
    default: str
    bounds: str
    doc: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """Keys that belong together. ``experiments``: whose studies have them."""

    title: str
    experiments: tuple[str, ...]
    keys: tuple[Key, ...]

    def to_json(self) -> dict[str, Any]:
        return {"title": self.title, "experiments": list(self.experiments), "keys": [asdict(key) for key in self.keys]}


def sections() -> list[Section]:
    """The keys of every kind of study: those that train first, then experiments with a study of their own."""
    every = {name: typing.cast(Any, load_experiment(name)) for name in experiments()}
    training = tuple(name for name, e in every.items() if not isinstance(e, StudyEngine))
    texts = tuple(name for name in training if not isinstance(every[name], OwnData))
    found = [
        Section(title=f"Studies that train: {', '.join(training)}", experiments=training, keys=tuple(keys_of(StudyConfig))),
        Section(title=f"Text: {', '.join(texts)}", experiments=texts, keys=tuple(keys_of(DataConfig, "data."))),
    ]
    for name in training:
        own = list(keys_of(every[name].data, "data.")) if isinstance(every[name], OwnData) else []
        own += [] if every[name].objective is NoOptions else list(keys_of(every[name].objective, "objective."))
        if own:
            found.append(Section(title=f"Experiment {name}", experiments=(name,), keys=tuple(own)))
    for name in (name for name in every if name not in training):
        found.append(Section(title=f"Experiment {name}", experiments=(name,), keys=tuple(keys_of(every[name].config))))
    return found


def option_keys(architecture: str) -> Section:
    """The options of one architecture. Raises: ConfigError with the nearest name."""
    from arch_lab.architecture.recipe import recipe_class

    cls: type[Recipe] = recipe_class(architecture)
    return Section(title=f"Architecture {architecture}", experiments=(), keys=tuple(keys_of(cls, "arms[].options.")))


def matching(found: Sequence[Section], prefix: str) -> list[Section]:
    """Sections with the keys at or below ``prefix``; arms.0.name means arms[].name.

    Raises: ConfigError with the nearest key where there is none.
    """
    wanted = simple(prefix)
    left = [Section(title=s.title, experiments=s.experiments, keys=tuple(k for k in s.keys if _below(k.path, wanted))) for s in found]
    left = [section for section in left if section.keys]
    if not left:
        raise ConfigError(f"no study key {prefix!r}{did_you_mean(wanted, _ends(found))}")
    return left


def simple(path: str) -> str:
    """``arms[].name`` and ``arms.0.name`` as arms.name."""
    return re.sub(r"\[\]|\.\d+(?=\.|$)", "", path)


def _below(path: str, wanted: str) -> bool:
    path = simple(path)
    return path == wanted or path.startswith(wanted if not wanted or wanted.endswith(".") else f"{wanted}.")


def _ends(found: Sequence[Section]) -> set[str]:
    """Paths, and for a key that was given without its parents the last parts of the paths."""
    return {simple(key.path) for section in found for key in section.keys}


def keys_of(cls: type[Config], prefix: str = "") -> Iterator[Key]:
    """Keys of a configuration class in the order of its fields, nested ones behind their parent."""
    hints = field_hints(cls)
    for f in fields(cls):
        if not f.init:
            continue
        hint, rules, doc = unwrapped(hints[f.name])
        inner, many = _nested(hint)
        path = f"{prefix}{f.name}"
        yield Key(path=path, type=type_text(hint), default=_default(f, inner is not None), bounds=_bounds(hint, rules), doc=doc)
        if inner is not None and inner is not Config:
            yield from keys_of(inner, f"{path}{'[]' if many else ''}.")


def unwrapped(hint: Any) -> tuple[Any, list[Rule], str]:
    """Type, rules and documentation in an annotation."""
    if get_origin(hint) is not Annotated:
        return hint, [], ""
    inner, *notes = get_args(hint)
    doc = next((note.text for note in reversed(notes) if isinstance(note, Doc)), "")
    return inner, [note for note in notes if isinstance(note, Rule)], doc


def type_text(hint: Any) -> str:
    """A type in the words of YAML."""
    hint, _, _ = unwrapped(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(a) for a in arguments)
    if origin is typing.Literal:
        return ", ".join(str(a) for a in arguments)
    if origin in (list, tuple):
        return f"list of {_plural(type_text(arguments[0]))}" if arguments else "list"
    if origin is dict or hint is dict or (isinstance(hint, type) and issubclass(hint, Config)):
        return "mapping"
    return {int: "whole number", float: "number", str: "text", bool: "true, false", type(None): "null"}.get(hint, "any value")


def _plural(text: str) -> str:
    known = {"whole number": "whole numbers", "number": "numbers", "text": "texts", "mapping": "mappings"}
    return known.get(text, text)


def _nested(hint: Any) -> tuple[type[Config] | None, bool]:
    """The configuration class inside an optional value or a list, and whether it is a list."""
    if isinstance(hint, type) and issubclass(hint, Config):
        return hint, False
    many = get_origin(hint) in (list, tuple)
    if not many and get_origin(hint) not in (typing.Union, types.UnionType):
        return None, False
    for inner in (unwrapped(a)[0] for a in get_args(hint)):
        if isinstance(inner, type) and issubclass(inner, Config):
            return inner, many
    return None, False


def _default(f: Field[Any], nested: bool) -> str:
    if f.default is MISSING and f.default_factory is MISSING:
        return "required"
    value = f.default if f.default_factory is MISSING else f.default_factory()
    if nested and value is not None and not isinstance(value, list):
        return ""
    return plain_text(value)


def plain_text(value: Any) -> str:
    """A value as YAML would write it in one line."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(plain_text, value))}]"
    return {None: "null", True: "true", False: "false", "": '""'}.get(value) if _is_word(value) else str(value)  # type: ignore[return-value]


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool) or value == ""


def _bounds(hint: Any, rules: Sequence[Rule]) -> str:
    texts = [rule.words for rule in rules]
    for inner in get_args(hint) if get_origin(hint) in (list, tuple, dict) else ():
        texts += [f"each {rule.words}" for rule in unwrapped(inner)[1]]
    return "; ".join(dict.fromkeys(text for text in texts if text))


def markdown(found: Sequence[Section]) -> str:
    """The sections as docs/study_keys.md holds them."""
    lines = ["# Keys of a study", ""]
    lines += ["What a study file may say, and `--set KEY=VALUE` may change. Generated by `arch-lab keys --markdown > docs/study_keys.md`;"]
    lines += ["`arch-lab keys training` shows a part, `arch-lab keys arms.options --architecture gemma3` the options of an architecture."]
    lines += ["A whole number fits 64 bits and a number is finite, whatever its bounds.", ""]
    for section in found:
        lines += [f"## {section.title}", "", "| key | type | default | bounds | meaning |", "|---|---|---|---|---|"]
        for key in section.keys:
            cells = [f"`{key.path}`", key.type, f"`{key.default}`" if key.default else "", key.bounds, key.doc]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    lines += [f"Architectures: {', '.join(f'`{name}`' for name in architectures())}.", ""]
    return "\n".join(lines)

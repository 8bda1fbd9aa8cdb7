"""Every key that a study may have, read from the configuration classes: type, default, bounds and one sentence.

``python -m arch_lab.study.keys`` writes them to arch_lab/key_table.json, which ``arch-lab keys`` and ``arch-lab init`` read, and to
docs/study_keys.md.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, get_args, get_origin

from arch_lab.data import DataConfig
from arch_lab.key_table import TABLE, Key, KeyTable, Section, markdown
from arch_lab.models.recipe import Recipe
from arch_lab.models.registry import architectures
from arch_lab.study.config import TrainingStudyConfig
from arch_lab.study.experiment import NoOptions, experiments, load_experiment
from arch_lab.study.registry import ExperimentSource
from arch_lab.study.training_study import TrainingExperiment
from blocks.config import Config, Doc, Rule, field_hints

OWN_KEYS = {"data", "objective"}  # of a study that trains: what is in them is the experiment's to say


def sections() -> list[Section]:
    """The keys of every kind of study: those that train models first, then experiments with keys of their own."""
    every = {name: load_experiment(name) for name in experiments()}
    trained = {name: e for name, e in every.items() if isinstance(e, TrainingExperiment)}
    texts = tuple(name for name, experiment in trained.items() if experiment.data is DataConfig)
    shared = [
        Section(
            title=f"Studies that train: {', '.join(trained)}",
            experiments=tuple(trained),
            keys=tuple(keys_of(TrainingStudyConfig)),
        ),
        Section(
            title=f"Text: {', '.join(texts)}", experiments=texts, keys=tuple(keys_of(DataConfig, "data."))
        ),
    ]
    for name, experiment in trained.items():
        extra = [] if name in texts else list(keys_of(experiment.data, "data."))
        extra += (
            [] if experiment.objective is NoOptions else list(keys_of(experiment.objective, "objective."))
        )
        if extra:
            shared.append(Section(title=f"Experiment {name}", experiments=(name,), keys=tuple(extra)))
    return shared + [
        Section(title=f"Experiment {name}", experiments=(name,), keys=tuple(keys_of(experiment.config)))
        for name, experiment in every.items()
        if name not in trained
    ]


def plug_in_section(source: ExperimentSource) -> Section:
    """All keys that studies of an experiment of another package may have. Raises: ConfigError when it cannot be loaded."""
    experiment = load_experiment(source.name)
    keys = list(keys_of(experiment.config))
    if isinstance(experiment, TrainingExperiment):
        keys += [*keys_of(experiment.data, "data."), *keys_of(experiment.objective, "objective.")]
    return Section(title=f"Experiment {source.name}", experiments=(source.name,), keys=tuple(keys))


def key_table() -> KeyTable:
    """Everything that ``arch-lab keys`` can show."""
    return KeyTable(
        studies=tuple(sections()), architectures={name: option_keys(name) for name in architectures()}
    )


def option_keys(architecture: str) -> Section:
    """The options of one architecture. Raises: ConfigError with the nearest name."""
    from arch_lab.models.registry import recipe_class

    cls: type[Recipe] = recipe_class(architecture)
    return Section(
        title=f"Architecture {architecture}", experiments=(), keys=tuple(keys_of(cls, "arms[].options."))
    )


def keys_of(cls: type[Config], prefix: str = "") -> Iterator[Key]:
    """Keys of a configuration class in the order of its fields, nested ones behind their parent."""
    hints = field_hints(cls)
    for f in fields(cls):
        if not f.init:
            continue
        hint, rules, doc = unwrapped(hints[f.name])
        inner, many = _nested(hint)
        path = f"{prefix}{f.name}"
        yield Key(
            path=path,
            type=type_text(hint),
            default=_default(f, inner is not None),
            bounds=_bounds(hint, rules),
            doc=doc,
        )
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
        return " or ".join(dict.fromkeys(type_text(a) for a in arguments))
    if origin is typing.Literal:
        return ", ".join(str(a) for a in arguments)
    if origin in (list, tuple):
        return f"list of {_plural(type_text(arguments[0]))}" if arguments else "list"
    if origin is dict or hint is dict or (isinstance(hint, type) and issubclass(hint, Config)):
        return "mapping"
    return {int: "whole number", float: "number", str: "text", bool: "true, false", type(None): "null"}.get(
        hint, "any value"
    )


def _plural(text: str) -> str:
    plurals = {"whole number": "whole numbers", "number": "numbers", "text": "texts", "mapping": "mappings"}
    return plurals.get(text, text)


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
    if _is_word(value):
        return {None: "null", True: "true", False: "false", "": '""'}[value]
    return str(value)


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool) or value == ""


def _bounds(hint: Any, rules: Sequence[Rule]) -> str:
    texts = [rule.words for rule in rules]
    for inner in get_args(hint) if get_origin(hint) in (list, tuple, dict) else ():
        texts += [f"each {rule.words}" for rule in unwrapped(inner)[1]]
    return "; ".join(dict.fromkeys(text for text in texts if text))


def main() -> None:
    """Write the table and the page again."""
    from arch_lab.files import write_json, write_text

    table = key_table()
    write_json(TABLE, table.to_json())
    write_text(TABLE.parents[1] / "docs" / "study_keys.md", markdown(table.studies, table.architectures))


if __name__ == "__main__":
    main()

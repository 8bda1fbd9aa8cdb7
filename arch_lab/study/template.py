"""A study file to start from: a shipped study with one sentence above each key, and the other keys commented
out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from arch_lab.key_table import Key, KeyTable, simple, stored_table
from arch_lab.study.library import studies
from arch_lab.study.registry import find_experiment, plug_ins
from arch_lab.yaml_files import load_yaml
from blocks.errors import ConfigError, did_you_mean, shown

WIDE = 110  # columns
COMMON = ("training.", "widen")  # where keys that the shipped study leaves at their defaults are shown too


def read_table() -> KeyTable:
    """Keys of every kind of study: from the table in the package if it is current, else from the classes."""
    table = stored_table()
    if table is None:
        from arch_lab.study.keys import key_table

        table = key_table()
    return table


def with_plug_ins(table: KeyTable, experiment: str | None = None) -> KeyTable:
    """``table`` and the keys of experiments of other packages; one that cannot be loaded is named in a
    warning.

    ``experiment``: the one that is asked for, which may be an import path. Raises: ConfigError when it cannot
    be loaded.
    """
    sources = plug_ins() if experiment is None or ":" not in experiment else [find_experiment(experiment)]
    if experiment is not None:
        sources = [source for source in sources if source.name == experiment]
    if not sources:
        return table
    from arch_lab.study.keys import plug_in_section  # imports torch

    sections = []
    for source in sources:
        try:
            sections.append(plug_in_section(source))
        except ConfigError as error:
            if experiment is not None:
                raise
            print(f"warning: experiment {source.name} = {source.path}: {error}", file=sys.stderr)
    return replace(table, studies=(*table.studies, *sections))


def template(experiment: str) -> str:
    """Text of a study file for an experiment. Raises: ConfigError for an experiment that does not exist."""
    table = with_plug_ins(read_table(), experiment)
    if experiment not in table.experiments:
        raise ConfigError(
            f"unknown experiment {shown(experiment)}{did_you_mean(experiment, table.experiments)}"
        )
    name, content = _shipped(experiment)
    keys = {
        simple(key.path): key
        for section in table.studies
        if experiment in section.experiments
        for key in section.keys
    }
    content.pop("name", None)
    head = [
        f"# A study of experiment {experiment}, after the shipped study {name}. Change what you like, then:",
        "#   arch-lab plan FILE      what it would train, and whether the budget is met",
        "#   arch-lab compare FILE   train and judge; results go to runs/",
        f"# arch-lab keys --experiment {experiment} lists every key with its bounds.",
        "",
    ]
    return "\n".join([*head, *_mapping(content, "", keys)]) + "\n"


def _shipped(experiment: str) -> tuple[str, dict[str, Any]]:
    """The smallest shipped study of an experiment: one that calls itself quick, else the first."""
    contents = {name: load_yaml(path) for name, path in studies().items()}
    fitting = [
        name for name, content in contents.items() if content.get("experiment", "perplexity") == experiment
    ]
    if not fitting:
        raise ConfigError(f"experiment {experiment!r} comes with no study file to start from")
    name = next((n for n in fitting if "quick" in n), fitting[0])
    return name, contents[name]


def _mapping(content: Mapping[str, Any], path: str, keys: Mapping[str, Key]) -> Iterator[str]:
    indent = "  " * path.count(".")
    for name, value in content.items():
        key = keys.get(path + name)
        if key is not None and key.doc:
            yield f"{indent}# {key.doc}"
        nested = isinstance(value, dict) and any(k.startswith(f"{path}{name}.") for k in keys)
        if nested:
            yield f"{indent}{name}:"
            yield from _mapping(value, f"{path}{name}.", keys)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{indent}{name}:"
            yield from (f"{indent}  - {flow(item)}" for item in value)
        else:
            yield f"{indent}{name}: {flow(value)}"
        if not path:
            yield ""
    yield from _left_out(content, path, keys.values())


def _left_out(content: Mapping[str, Any], path: str, keys: Sequence[Key] | Any) -> Iterator[str]:
    indent = "  " * path.count(".")
    for key in keys:
        parent, _, name = simple(key.path).rpartition(".")
        if (
            (f"{parent}." if parent else "") == path
            and name not in content
            and simple(key.path).startswith(COMMON)
            and key.default
        ):
            yield f"{indent}# {name}: {key.default}    # {key.doc}"


def flow(value: Any) -> str:
    """A value in one line of YAML."""
    if isinstance(value, float) and value >= 1e5:
        mantissa, exponent = f"{value:.12e}".split("e")
        digits = mantissa.rstrip("0")
        return f"{digits}{'0' if digits.endswith('.') else ''}e+{int(exponent)}"
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True)
        .removesuffix("...\n")
        .strip()
    )

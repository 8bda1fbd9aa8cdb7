"""The mapping in a study file, with the values of ``--set`` applied.

Nothing is validated here: which keys there are is the experiment's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arch_lab.yaml_files import DEEPEST, load_yaml, parse_yaml
from blocks.errors import ConfigError, shown


def read_study(path: Path, *, name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a study file, overrides applied, not yet validated. Raises: ConfigError naming the file."""
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: a study is a mapping of keys (arms, budget, data, …), got {type(content).__name__}"
        )
    for override in overrides:
        _apply(content, override)
    content.setdefault("name", name)
    return content


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {shown(override)}: expected key.path=value, e.g. training.batch_size=4")
    value = parse_yaml(text, origin=f"--set {key}")
    *parents, last = key.split(".")
    if len(parents) >= DEEPEST:
        raise ConfigError(f"--set {shown(key)}: nested deeper than {DEEPEST} levels")
    node: Any = content
    for step in parents:
        node = node[int(step)] if _is_index(node, step) else _child(node, step, override)
    if _is_index(node, last):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"--set {shown(override)}: {shown(last)} does not exist there")


def _is_index(node: Any, step: str) -> bool:
    return (
        isinstance(node, list)
        and step.isascii()
        and step.isdigit()
        and len(step) < 9
        and int(step) < len(node)
    )


def _child(node: Any, step: str, override: str) -> Any:
    if not isinstance(node, dict):
        raise ConfigError(f"--set {shown(override)}: {shown(step)} does not exist there")
    if node.get(step) is None:
        node[step] = {}
    return node[step]

"""Where studies are found: by name beside the installed experiments, or as a path to a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arch_lab.fields import folder_name
from arch_lab.study.registry import installed
from arch_lab.yaml_files import load_yaml
from blocks.errors import ConfigError, UserError, did_you_mean, shown


def studies() -> dict[str, Path]:
    """Every study that comes with an installed experiment: name -> YAML file; a built-in name stays with its
    owner.
    """
    return {name: path for name, (path, _) in study_contents().items()}


def study_contents() -> dict[str, tuple[Path, dict[str, Any]]]:
    """As ``studies``, with the keys of each file, which is read once.

    What is wrong with a file stands in its description.
    """
    contents: dict[str, tuple[Path, dict[str, Any]]] = {}
    for source in installed():
        for path in source.study_files():
            content = _content(path)
            if content is not None:
                contents.setdefault(path.stem, (path, content))
    return contents


def _content(path: Path) -> dict[str, Any] | None:
    """Keys of a study; None for a file that compares nothing: a folder also holds configurations of a single run."""
    try:
        content = load_yaml(path)
    except UserError as error:  # whoever names it is shown the line that is wrong
        return {"description": f"cannot be read: {error}"}
    return content if isinstance(content, dict) and {"arms", "tasks"} & set(content) else None


def list_studies() -> list[tuple[str, Path, str]]:
    """(name, file, one-line description) of every study."""
    return [(name, path, summary(content)) for name, (path, content) in study_contents().items()]


def summary(content: dict[str, Any]) -> str:
    """The first line of a study's description."""
    return str(content.get("description", "")).strip().split("\n")[0]


def find_study(study: str) -> tuple[str, Path]:
    """(name, file) of a study by name or path. Raises: ConfigError with the nearest name."""
    if study.endswith((".yaml", ".yml")) or "/" in study:
        path = Path(study)
        if not path.is_file():
            raise ConfigError(f"study file {shown(study)} not found{_near_file(path)}")
        return folder_name(path.stem), path
    names = studies()
    if study not in names:
        raise ConfigError(
            f"study {shown(study)} not found{did_you_mean(study, names)} (arch-lab compare --list shows all)"
        )
    return study, names[study]


def _near_file(path: Path) -> str:
    """The nearest YAML file in the folder, or what is wrong with the path."""
    if path.is_dir():
        return " (it is a folder; name the YAML file)"
    if not path.parent.is_dir():
        return f" (there is no folder {shown(str(path.parent))})"
    suggestion = did_you_mean(path.name, [p.name for p in path.parent.glob("*.y*ml")][:1000])
    return suggestion if suggestion.startswith("; did you mean") else ""

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
    files: dict[str, Path] = {}
    for source in installed():
        for path in source.study_files():
            if _is_study(path):
                files.setdefault(path.stem, path)
    return files


def _is_study(path: Path) -> bool:
    """Whether the file compares something: a folder also holds configurations of a single run."""
    try:
        content = load_yaml(path)
    except UserError:  # whoever names it is shown the line that is wrong
        return True
    return isinstance(content, dict) and bool({"arms", "tasks"} & set(content))


def load_study_file(path: Path) -> dict[str, Any]:
    """The keys of a study for a list; what is wrong with the file stands in the description."""
    try:
        content: dict[str, Any] = load_yaml(path)
    except UserError as error:
        return {"description": f"cannot be read: {error}"}
    return content


def list_studies() -> list[tuple[str, Path, str]]:
    """(name, file, one-line description) of every study."""
    return [(name, path, summary(load_study_file(path))) for name, path in studies().items()]


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

"""Where studies are found: by name in the installed experiments, or as a path to a YAML file."""

from __future__ import annotations

from pathlib import Path

from arch_lab.fields import folder_name
from arch_lab.yaml_files import load_yaml
from blocks.errors import ConfigError, did_you_mean, shown


def _folders() -> list[Path]:
    # by location, not by import: arch_lab never imports experiments, it finds them beside itself, wheel or checkout
    return sorted(p for p in (Path(__file__).resolve().parents[2] / "experiments").glob("*") if p.is_dir())


def studies() -> dict[str, Path]:
    """Every study shipped with the package: name -> YAML file."""
    found: dict[str, Path] = {}
    for folder in _folders():
        for path in sorted(folder.glob("*.yaml")):
            text = path.read_text(encoding="utf-8")
            if "\narms:" in text or "\ntasks:" in text:  # a folder also holds single-run configurations
                found[path.stem] = path
    return found


def list_studies() -> list[tuple[str, Path, str]]:
    """(name, file, one-line description) of every study."""
    rows = []
    for name, path in studies().items():
        content = load_yaml(path) or {}
        rows.append((name, path, str(content.get("description", "")).strip().split("\n")[0]))
    return rows


def find_study(study: str) -> tuple[str, Path]:
    """(name, file) of a study by name or path. Raises: ConfigError with the nearest name."""
    if study.endswith((".yaml", ".yml")) or "/" in study:
        path = Path(study)
        if not path.is_file():
            raise ConfigError(f"study file {shown(study)} not found{_near_file(path)}")
        return folder_name(path.stem), path
    known = studies()
    if study not in known:
        raise ConfigError(f"study {shown(study)} not found{did_you_mean(study, known)} (arch-lab compare --list shows all)")
    return study, known[study]


def _near_file(path: Path) -> str:
    """The nearest YAML file in the folder, or what is wrong with the path."""
    if path.is_dir():
        return " (it is a folder; name the YAML file)"
    if not path.parent.is_dir():
        return f" (there is no folder {shown(str(path.parent))})"
    near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.y*ml")][:1000])
    return near if near.startswith("; did you mean") else ""

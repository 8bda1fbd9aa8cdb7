"""Where studies are found: by name in the installed experiments, or as a path to a YAML file."""

from __future__ import annotations

from pathlib import Path

import yaml

from blocks.errors import ConfigError, did_you_mean


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
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        rows.append((name, path, str(content.get("description", "")).strip().split("\n")[0]))
    return rows


def find_study(study: str) -> tuple[str, Path]:
    """(name, file) of a study by name or path. Raises: ConfigError with the nearest name."""
    if study.endswith((".yaml", ".yml")) or "/" in study:
        path = Path(study)
        if not path.is_file():
            raise ConfigError(f"study file {study!r} not found")
        return path.stem, path
    known = studies()
    if study not in known:
        raise ConfigError(f"study {study!r} not found{did_you_mean(study, known)} (arch-lab compare --list shows all)")
    return study, known[study]

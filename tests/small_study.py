"""A study small enough for tests: two arms, real prose, a few seconds."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import yaml


def small_study(folder: Path, name: str = "small", **changes: Any) -> Path:
    """Write text and study YAML into ``folder``; ``changes`` replace top-level keys. Returns the YAML's path."""
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.txt"
    if not text.exists():
        text.write_text("\n".join(f"# {key}\n{topics[key]}" for key in sorted(topics)[:30]), encoding="utf-8")
    study: dict[str, Any] = {
        "description": "tiny",
        "arms": [
            {"architecture": "gemma3", "options": {"window": 8, "pattern": "LG"}},
            {"architecture": "m2_gpt"},
        ],
        "budget": {"params": 6.0e4, "train_flops": 1.6e9, "tolerance": 0.01},
        "data": {
            "source": "files",
            "root": str(folder),
            "files": {"train": "text.txt"},
            "document_start": "^# ",
            "tokenizer": {"kind": "bytes"},
            "validation_fraction": 0.03,
            "tune_fraction": 0.03,
        },
        "training": {"sequence_length": 32, "batch_size": 2, "evaluations": 2},
        "learning_rates": [0.004],
        "seeds": [0],
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path

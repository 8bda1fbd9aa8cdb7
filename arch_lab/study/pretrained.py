"""The arms of a finished study as bodies to go on from, each at the learning rate that study chose for it.

A study whose arms do not meet one budget is refused here: what is compared further on must have cost the same before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from arch_lab import files
from arch_lab.checkpoints import CheckpointError
from arch_lab.fields import Name
from arch_lab.judge.measures import measures
from arch_lab.models import Shape, recipe
from arch_lab.report import html
from arch_lab.study.body import Body, load_body
from arch_lab.study.code_identity import trial_code
from arch_lab.study.storage import MODEL, stored_run
from arch_lab.training.saving import intact
from blocks.config import coerce
from blocks.errors import ConfigError, did_you_mean
from blocks.registry import import_only

FRESH = 1 << 40  # added to the seed of a fresh body, so that its numbers are not those of the head above it


@dataclass(frozen=True, kw_only=True)
class PretrainedArm:
    """``runs``: pretraining seed -> folder; ``entry``: what study.json says of the arm; ``score``: its primary measure there, in words."""

    name: str
    runs: dict[int, Path]
    learning_rate: float
    entry: dict[str, Any]
    score: str

    @property
    def width(self) -> int:
        return int(self.entry["width"])

    @property
    def first(self) -> Path:
        """The run of the first seed that finished."""
        return next(iter(self.runs.values()))

    def seed(self, seed: int) -> int:
        """The pretraining seed that stands behind ``seed``: itself, or the first where it was not pretrained."""
        return seed if seed in self.runs else next(iter(self.runs))

    def body(self, seed: int, *, scratch: bool = False) -> Body:
        """In evaluation mode; ``scratch``: the same blocks with fresh weights, a function of ``seed``."""
        found = load_body(self.runs[self.seed(seed)])
        if not scratch:
            return found
        config = found.config
        torch.manual_seed(seed + FRESH)
        return Body(_network(config), found.tokenizer, config).eval()

    def fingerprint(self, seed: int) -> str:
        """Of the weights that ``seed`` starts from."""
        return (self.runs[self.seed(seed)] / f"{MODEL}.sha256").read_text(encoding="utf-8").strip()

    @cached_property
    def code(self) -> dict[str, str]:
        """The files that its network comes from (arch_lab.study.code_identity). Raises: TrustError for a module not registered."""
        config, _ = stored_run(self.first)
        with import_only(()), torch.device("meta"):
            return trial_code([_network(config), recipe(config["architecture"], config["options"])])

    @property
    def facts(self) -> dict[str, Any]:
        """What a reader must know of it, for the tables."""
        shape, counts = f"{self.entry['width']} × {self.entry['depth']}", self.entry["parameters"]
        about = {
            "architecture": self.entry["architecture"],
            "shape": shape,
            "body": counts["body"],
            "embedding": counts["embedding"],
        }
        return {
            **about,
            "pretraining": f"{self.score} at {self.learning_rate:g}, seeds {', '.join(map(str, self.runs))}",
        }


def _network(config: dict[str, Any]) -> Any:
    """The model that a stored run is of, with fresh weights."""
    shape = Shape(width=config["width"], depth=config["depth"], ffn_width=config["ffn_width"])
    sizes = {"vocabulary": config["vocabulary"], "max_tokens": config["training"]["sequence_length"]}
    return recipe(config["architecture"], config["options"]).model(shape, **sizes)


def pretrained_arms(
    folder: str | Path, names: Sequence[str] = (), *, experiment: str = "masked"
) -> dict[str, PretrainedArm]:
    """Arms of the study in ``folder`` by name: ``names``, or all.

    Raises: UserError, one line: no such study, one of another ``experiment``, arms that are not matched or not there or never finished,
    weights that are damaged.
    """
    folder = Path(folder).expanduser()
    said = files.read_json(folder / "study.json")
    kind = said.get("experiment") if isinstance(said, dict) else experiment
    if kind != experiment:
        raise ConfigError(
            f"pretrained: {folder} is a study of experiment {kind!r}; this study needs a {experiment} study (experiments/{experiment})"
        )
    study = html.load(folder)
    # they become names of folders in the study that goes on from them
    known = {coerce(arm["name"], Name, f"pretrained: {folder}: name of an arm"): arm for arm in study["arms"]}
    wanted = list(names) or list(known)
    for name in wanted:
        if name not in known:
            raise ConfigError(f"arms: {folder} has no arm {name!r}{did_you_mean(name, known)}")
    return {name: _arm(folder, study, known[name]) for name in wanted}


def _arm(folder: Path, study: dict[str, Any], arm: dict[str, Any]) -> PretrainedArm:
    name, rate = arm["name"], study["selected"].get(arm["name"])
    finished = [
        r
        for r in study["results"]
        if r["arm"] == name and r["learning_rate"] == rate and r["status"] == "finished"
    ]
    if rate is None or not finished:
        raise ConfigError(
            f"pretrained: arm {name!r} of {folder} has no finished run to start from; leave it out of arms"
        )
    runs = {
        r["seed"]: folder / "runs" / name / f"lr-{rate:g}_seed-{r['seed']}"
        for r in sorted(finished, key=lambda r: r["seed"])
    }
    for run in runs.values():
        if not intact(run / MODEL):
            raise CheckpointError(
                f"{run / MODEL} is missing or damaged; run arch-lab compare on that study again"
            )
    judged = measures(study)[0]
    mean = sum(r[judged.key] for r in finished) / len(finished)
    return PretrainedArm(
        name=name, runs=runs, learning_rate=rate, entry=arm, score=f"{mean:.3f} {judged.name}"
    )

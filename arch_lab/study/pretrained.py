"""The arms of a finished study as bodies to go on from, each at the learning rate that study chose for it.

A study whose arms do not meet one budget is refused here: what is compared further on must have cost the same
before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from arch_lab.checkpoints import CheckpointError
from arch_lab.checkpoints.opening import MODEL
from arch_lab.fields import Name
from arch_lab.judge.records import FINISHED
from arch_lab.models import Model, Shape, recipe
from arch_lab.stored import Facts, Json
from arch_lab.study.body import Body, load_body
from arch_lab.study.code_identity import trial_code
from arch_lab.study.plan import PlannedArm
from arch_lab.study.recheck import require_matched
from arch_lab.study.storage import stored_run
from arch_lab.study.study import STUDY, Study, read_study
from arch_lab.study.trial import Trial
from arch_lab.training.saving import intact
from blocks.config import coerce
from blocks.errors import ConfigError, did_you_mean
from blocks.registry import import_only

FRESH = 1 << 40  # added to the seed of a fresh body, so that its numbers are not those of the head above it


@dataclass(frozen=True, kw_only=True)
class PretrainedArm:
    """An arm of a finished study at the learning rate chosen there.

    ``runs``: pretraining seed -> folder; ``planned``: the arm as its study planned it; ``score``: its first
    measure there, in words.
    """

    planned: PlannedArm
    runs: dict[int, Path]
    learning_rate: float
    score: str

    @property
    def name(self) -> str:
        return self.planned.name

    @property
    def width(self) -> int:
        return self.planned.shape.width

    @property
    def first(self) -> Path:
        """The run of the first seed that finished."""
        return next(iter(self.runs.values()))

    def seed(self, seed: int) -> int:
        """The pretraining seed behind ``seed``: itself, or the first where it was not pretrained."""
        return seed if seed in self.runs else next(iter(self.runs))

    def body(self, seed: int, *, scratch: bool = False) -> Body:
        """In evaluation mode; ``scratch``: the same blocks with fresh weights, a function of ``seed``."""
        body = load_body(self.runs[self.seed(seed)])
        if not scratch:
            return body
        torch.manual_seed(seed + FRESH)
        return Body(_network(body.config), body.tokenizer, body.config).eval()

    def fingerprint(self, seed: int) -> str:
        """Of the weights that ``seed`` starts from."""
        return (self.runs[self.seed(seed)] / f"{MODEL}.sha256").read_text(encoding="utf-8").strip()

    @cached_property
    def code(self) -> dict[str, str]:
        """The files that its network comes from (arch_lab.study.code_identity).

        Raises: TrustError for a module not registered.
        """
        config, _ = stored_run(self.first)
        with import_only(()), torch.device("meta"):
            return trial_code([_network(config), recipe(config["architecture"], config["options"])])

    @property
    def facts(self) -> Facts:
        """What a reader must know of it, for the tables."""
        arm = self.planned
        seeds = ", ".join(map(str, self.runs))
        return {
            "architecture": arm.architecture,
            "shape": f"{arm.width} × {arm.depth}",
            "body": arm.parameters["body"],
            "embedding": arm.parameters["embedding"],
            "pretraining": f"{self.score} at {self.learning_rate:g}, seeds {seeds}",
        }


def _network(config: Json) -> Model:
    """The model that a stored run is of, with fresh weights."""
    shape = Shape(width=config["width"], depth=config["depth"], ffn_width=config["ffn_width"])
    sizes = {"vocabulary": config["vocabulary"], "max_tokens": config["training"]["sequence_length"]}
    return recipe(config["architecture"], config["options"]).model(shape, **sizes)


def pretrained_arms(
    folder: str | Path, names: Sequence[str] = (), *, experiment: str = "masked"
) -> dict[str, PretrainedArm]:
    """Arms of the study in ``folder`` by name: ``names``, or all.

    Raises: UserError, one line: no such study, one of another ``experiment``, arms that are not matched, are
    not there or never finished, weights that are damaged.
    """
    folder = Path(folder).expanduser()
    study = read_study(folder)
    if study.experiment != experiment:
        raise ConfigError(
            f"pretrained: {folder} is a study of experiment {study.experiment!r}; "
            f"this study needs a {experiment} study (experiments/{experiment})"
        )
    study = require_matched(study, str(folder / STUDY))
    # they become names of folders in the study that goes on from them
    planned = {coerce(arm.name, Name, f"pretrained: {folder}: name of an arm"): arm for arm in study.arms}
    for name in names:
        if name not in planned:
            raise ConfigError(f"arms: {folder} has no arm {name!r}{did_you_mean(name, planned)}")
    return {name: _arm(folder, study, planned[name]) for name in names or planned}


def _arm(folder: Path, study: Study, planned: PlannedArm) -> PretrainedArm:
    choice = study.selected(planned.name)
    records = [r for r in study.records(arm=planned.name, reported=True) if r.status == FINISHED]
    if choice is None or choice.learning_rate is None or not records:
        raise ConfigError(
            f"pretrained: arm {planned.name!r} of {folder} has no finished run to start from; "
            "leave it out of arms"
        )
    runs = {}
    for record in sorted(records, key=lambda record: record.seed):
        runs[record.seed] = Trial.of(record).folder(folder)
    for run in runs.values():
        if not intact(run / MODEL):
            raise CheckpointError(
                f"{run / MODEL} is missing or damaged; run arch-lab compare on that study again"
            )
    measure = study.tasks[0].primary
    mean = sum(record.scores[measure.key] for record in records) / len(records)
    return PretrainedArm(
        planned=planned, runs=runs, learning_rate=choice.learning_rate, score=f"{mean:.3f} {measure.name}"
    )

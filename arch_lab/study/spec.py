"""One run of a study in data: what is trained, and the identity that its result is stored under."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from arch_lab.report.curves import run_path
from arch_lab.study.code_identity import conditions
from arch_lab.study.config import StudyConfig, Training


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything that determines a run's numbers, beside the data and the conditions it runs under (both are in its identity)."""

    arm: str
    architecture: str
    options: dict[str, Any]
    width: int
    depth: int
    ffn_width: int
    vocabulary: int
    steps: int
    flops_per_token: float
    learning_rate: float
    seed: int
    training: Training
    objective: dict[str, Any] = field(default_factory=dict)  # options of the experiment
    initial: dict[str, Any] = field(
        default_factory=dict
    )  # path and fingerprint of the weights it starts from; empty: drawn
    experiment: str = "perplexity"
    code: dict[str, str] = field(default_factory=dict)  # file -> hash, see code_identity.trial_code

    @property
    def label(self) -> str:
        return f"{self.arm} lr {self.learning_rate:g} seed {self.seed}"

    def folder(self, study: Path) -> Path:
        return run_path(study, {"arm": self.arm, "learning_rate": self.learning_rate, "seed": self.seed})

    def settings(self) -> dict[str, Any]:
        """Arguments of the run's LanguageModel, plain JSON."""
        t = self.training
        copied = ("architecture", "options", "width", "depth", "ffn_width", "vocabulary", "learning_rate")
        trained = ("weight_decay", "beta1", "beta2", "warmup_fraction", "final_fraction")
        return {
            **{name: getattr(self, name) for name in copied},
            **{name: getattr(t, name) for name in trained},
            "max_tokens": t.sequence_length,
            "total_steps": self.steps,
            "groups": [{**asdict(rule), "match": list(rule.match)} for rule in t.groups],
        }

    def identity(self, data: str) -> dict[str, Any]:
        """Everything that determines the run's numbers; ``data``: the fingerprint of its data."""
        return {**asdict(self), "initial": self.initial.get("fingerprint"), "data": data, **conditions()}


def spec_of(arm: dict[str, Any], rate: float, seed: int, config: StudyConfig, vocabulary: int) -> RunSpec:
    """The run of an arm (plan form) at one learning rate and seed."""
    assert vocabulary > 1
    return RunSpec(
        arm=arm["name"],
        architecture=arm["architecture"],
        options=arm["options"],
        width=arm["width"],
        depth=arm["depth"],
        ffn_width=arm["ffn_width"],
        vocabulary=vocabulary,
        steps=arm["steps"],
        flops_per_token=float(arm["flops_per_token"]),
        learning_rate=rate,
        seed=seed,
        training=config.training,
        objective=config.objective,
        initial=arm.get("initialise_from", {}),
        experiment=config.experiment,
        code=arm["code"],
    )

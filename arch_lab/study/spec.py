"""One training run in data: what is trained, and the identity that its result is stored under."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from arch_lab.stored import Facts, Json
from arch_lab.study.code_identity import conditions
from arch_lab.study.config import Training, TrainingStudyConfig
from arch_lab.study.plan import InitialWeights, PlannedArm
from arch_lab.study.search import Grid, with_values
from arch_lab.study.trial import Trial
from arch_lab.training.optimizer import OPTIMIZER_KEYS


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything that determines a run's numbers, without the data and the conditions it runs under (both are in its identity)."""

    arm: str
    task: str = ""  # its budget, where a study has several
    size: int | None = None  # nominal, and the draw of its search, where it has one
    draw: int | None = None
    architecture: str
    options: Facts
    width: int
    depth: int
    ffn_width: int
    vocabulary: int
    steps: int
    flops_per_token: float
    learning_rate: float
    seed: int
    training: Training
    objective: Facts = field(default_factory=dict)  # options of the experiment
    initial: InitialWeights | None = None  # the weights it starts from; None: drawn
    experiment: str = "perplexity"
    code: dict[str, str] = field(default_factory=dict)  # file -> hash, see code_identity.trial_code

    @property
    def tokens_per_step(self) -> int:
        return self.training.sequence_length * self.training.batch_size

    @property
    def stable_steps(self) -> int:
        """Steps before the decay of WSD."""
        return self.steps - round(self.training.decay_fraction * self.steps)

    def settings(self) -> Facts:
        """Arguments of the run's LanguageModel, plain JSON."""
        t = self.training
        copied = ("architecture", "options", "width", "depth", "ffn_width", "vocabulary", "learning_rate")
        return {
            **{name: getattr(self, name) for name in copied},
            **{name: getattr(t, name) for name in OPTIMIZER_KEYS},
            "max_tokens": t.sequence_length,
            "warmup_steps": t.warmup_steps,
            "total_steps": self.steps,
            "groups": [{**asdict(rule), "match": list(rule.match)} for rule in t.groups],
        }

    def identity(self, data: str) -> Json:
        """Everything that determines the run's numbers; ``data``: the fingerprint of its data."""
        initial = None if self.initial is None else self.initial.fingerprint
        return {**asdict(self), "initial": initial, "data": data, **conditions()}


def spec_of(
    arm: PlannedArm, trial: Trial, config: TrainingStudyConfig, grid: Grid, vocabulary: int
) -> RunSpec:
    """The run of an arm at one choice and seed."""
    assert vocabulary > 1 and arm.steps is not None and arm.flops_per_token is not None
    assert trial.learning_rate is not None
    shape = arm.shape
    values = {} if trial.draw is None else grid.values(trial.draw, trial.size)
    return RunSpec(
        arm=trial.arm,
        task=trial.task,
        size=trial.size,
        draw=trial.draw,
        architecture=arm.architecture,
        options=arm.options,
        width=shape.width,
        depth=shape.depth,
        ffn_width=shape.ffn_width,
        vocabulary=vocabulary,
        steps=arm.steps,
        flops_per_token=float(arm.flops_per_token),
        learning_rate=trial.learning_rate,
        seed=trial.seed,
        training=with_values(config.training, values),
        objective=config.objective,
        initial=arm.initialise_from,
        experiment=config.experiment,
        code=arm.code,
    )

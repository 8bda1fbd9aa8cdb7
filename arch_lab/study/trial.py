"""A trial: one unit of work of a study, and what it is handed while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arch_lab.judge.records import Choice, Record
from arch_lab.stored import Stored
from arch_lab.study.events import TrialLog
from arch_lab.study.loggers import LoggerConfig, TrialNames
from arch_lab.units import short
from blocks.errors import UserError

Observer = Callable[[str, dict[str, Any]], None]  # (event, facts): how a terminal follows a study
SAMPLES = "samples"  # folder in the folder of a study: <arm>.json holds {"prompt", "text"}
TRUNKS = "trunks"  # folder of the states that longer runs go on from
RUNS = "runs"  # folder of the trials in the folder of a study


@dataclass(frozen=True, kw_only=True)
class Trial(Stored):
    """Arm, task, choice and seed. ``arm`` is empty where one trial measures all arms together."""

    task: str = ""
    arm: str = ""
    learning_rate: float | None = None
    size: int | None = None
    draw: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, record: Record) -> Trial:
        """The trial of one arm that gave a record."""
        return cls(task=record.task, arm=record.arm, seed=record.seed, **record.choice.to_json())

    @property
    def choice(self) -> Choice:
        return Choice(learning_rate=self.learning_rate, size=self.size, draw=self.draw)

    @property
    def label(self) -> str:
        """The trial in words."""
        task = f"{self.task}: " if self.task and self.arm else self.task
        size = "" if self.size is None else f" {short(self.size)}"
        rate = "" if self.learning_rate is None else f" lr {self.learning_rate:g}"
        draw = "" if self.draw is None else f" draw {self.draw}"
        return f"{task}{self.arm}{size}{rate}{draw} seed {self.seed}" if self.arm else task

    def folder(self, study: Path) -> Path:
        """<study>/runs/[<task>/][<arm>/][<size>/][lr-<rate>_][draw-<index>_]seed-<seed>."""
        rate = "" if self.learning_rate is None else f"lr-{self.learning_rate:g}_"
        draw = "" if self.draw is None else f"draw-{self.draw}_"
        size = "" if self.size is None else str(self.size)
        names = [name for name in (self.task, self.arm, size) if name]
        return study.joinpath(RUNS, *names, f"{rate}{draw}seed-{self.seed}")


@dataclass
class Job:
    """What a running trial is handed: its folder, and where it reports to."""

    trial: Trial
    study: str
    folder: Path  # of the trial; files of its own may go there
    study_folder: Path
    observer: Observer
    loggers: list[LoggerConfig] = field(default_factory=list)
    failure: UserError | None = None  # of a logger, raised once the result is stored

    def step(self, step: int, steps: int, loss: float | None = None) -> None:
        """Report progress after a step."""
        self.observer("step", {"step": step, "steps": steps, "loss": loss})

    def detail(self, text: str) -> None:
        """Tell the user what the trial is at."""
        self.observer("detail", {"label": self.trial.label, "text": text})

    def note(self, text: str) -> None:
        """Tell the user something that stays on the screen."""
        self.observer("note", {"text": text})

    @contextmanager
    def log(self, hparams: Mapping[str, Any]) -> Iterator[TrialLog]:
        """The TensorBoard events and the user's loggers of the trial.

        Raises: LoggerError before anything is trained when a logger cannot start.
        """
        from arch_lab.study.trial_loggers import TrialLoggers  # imports Lightning

        name = self.folder.relative_to(self.study_folder / RUNS).as_posix()
        loggers = TrialLoggers(self.loggers, TrialNames(self.study_folder, self.study, name))
        with loggers.opened(hparams):
            yield TrialLog(self.folder, hparams, loggers)
        self.failure = loggers.failure

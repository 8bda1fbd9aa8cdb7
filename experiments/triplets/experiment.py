"""Triplets: an embedding learned from who is near whom, against simpler maps, on regression sets or classes.

A study has one of two protocols, ``regression`` or ``verification`` (see the modules of these names), and
names tasks of that one. Seed s draws split s: training, validation (which chooses the learning rate and the
round) and test rows that are disjoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any

from arch_lab.data import DataError
from arch_lab.data.files import file_hash
from arch_lab.judge.measures import Task
from arch_lab.study.identity import digest
from arch_lab.study.open_study import Experiment, Progress
from arch_lab.study.task_study import Fitted, TaskStudy, TaskStudyConfig
from arch_lab.study.trial import Job, Trial
from blocks.config import Doc
from blocks.errors import ConfigError, did_you_mean
from experiments.triplets import regression, verification
from experiments.triplets.cohorts import Draw, characters, speakers
from experiments.triplets.effort import Effort
from experiments.triplets.readers.common import RegressionSet, find_in
from experiments.triplets.readers.japanese_vowels import FOLDER as VOWELS
from experiments.triplets.readers.japanese_vowels import read_utterances
from experiments.triplets.readers.music import AXES, read_music
from experiments.triplets.readers.music import FILE as MUSIC_FILE
from experiments.triplets.readers.music import FOLDER as MUSIC
from experiments.triplets.readers.omniglot import FOLDER as OMNIGLOT
from experiments.triplets.readers.omniglot import read_drawings, read_one_shot
from experiments.triplets.readers.uci import ARCHIVE, UCI_SETS, UciArchive
from experiments.triplets.readers.uci import FOLDER as UCI
from experiments.triplets.regression import RegressionProtocol
from experiments.triplets.verification import VerificationProtocol

FILES: dict[str, tuple[tuple[str, str], ...]] = {  # of every task: folder and name
    **dict.fromkeys(UCI_SETS, ((UCI, ARCHIVE),)),
    **{f"music_{axis}": ((MUSIC, MUSIC_FILE),) for axis in AXES},
    "speakers": tuple((VOWELS, f"ae.{split}.gz") for split in ("train", "test")),
    "omniglot": tuple(
        (OMNIGLOT, name)
        for name in ("images_background_small1.zip", "images_background_small2.zip", "all_runs.zip")
    ),
}
TASKS = {
    "regression": [*UCI_SETS, *(f"music_{axis}" for axis in AXES)],
    "verification": ["speakers", "omniglot"],
}


@dataclass(frozen=True, kw_only=True)
class TripletsConfig(TaskStudyConfig):
    """Exactly one of ``regression`` and ``verification``: the protocol, whose tasks ``tasks`` names."""

    regression: Annotated[
        RegressionProtocol | None, Doc("The protocol of regression tasks; {} takes its defaults.")
    ] = None
    verification: Annotated[
        VerificationProtocol | None, Doc("The protocol of verification tasks; {} takes its defaults.")
    ] = None
    effort: Annotated[Effort, Doc("How long every trained network is trained.")] = field(
        default_factory=Effort
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        protocols = [name for name in TASKS if getattr(self, name) is not None]
        if len(protocols) != 1:
            raise ConfigError(
                f"study {self.name!r}: give one protocol, regression or verification (an empty mapping "
                "takes its defaults)"
            )
        for task in self.tasks:
            if task not in TASKS[protocols[0]]:
                raise ConfigError(
                    f"study {self.name!r}: no {protocols[0]} task "
                    f"{task!r}{did_you_mean(task, TASKS[protocols[0]])}"
                )


class TripletStudy(TaskStudy):
    """One study of triplets."""

    config: TripletsConfig

    def __init__(self, config: TripletsConfig) -> None:
        super().__init__(config)
        self._draw = lru_cache(maxsize=4)(self._drawn)  # a memo, not state

    def read(self, progress: Progress) -> None:
        config = self.config
        self.absent = {}
        self._sets: dict[str, Any] = {}
        self._hashes: dict[str, str] = {}
        self._archive: UciArchive | None = None
        for name in config.tasks:
            progress(f"reading {name}")
            try:
                self._sets[name] = self._read(name)
                paths = [find_in(config.folder, folder, file) for folder, file in FILES[name]]
                self._hashes[name] = digest([file_hash(path) for path in paths])
            except DataError as error:
                self.absent[name] = str(error)
        if not self._sets:
            raise DataError(self.absent[config.tasks[0]])
        self.arms = regression.arms() if config.regression is not None else verification.arms()
        self.tasks = tuple(self._task(name) for name in self._sets)

    def fingerprint(self, task: str) -> str:
        return self._hashes[task]

    def fit(self, trial: Trial, job: Job) -> Fitted:
        config = self.config
        if config.regression is not None:
            return regression.fit(self._sets[trial.task], config.regression, config.effort, trial)
        assert config.verification is not None
        return verification.fit(self._draw(trial.task, trial.seed), config.verification, config.effort, trial)

    def _read(self, name: str) -> Any:
        """A RegressionSet, or what ``_drawn`` draws from. Raises: DataError."""
        root = self.config.folder
        if name in UCI_SETS:
            self._archive = self._archive or UciArchive(root)  # one archive for all sets
            return self._archive.read(name)
        if name.startswith("music_"):
            return read_music(root)[name]
        if name == "speakers":
            return read_utterances(root, "train"), read_utterances(root, "test")
        assert self.config.verification is not None
        side = self.config.verification.omniglot.side
        return read_drawings(root, 1, side), read_drawings(root, 2, side), read_one_shot(root, side)

    def _task(self, name: str) -> Task:
        """With every seed's split checked: a fit should not fail after an hour. Raises: UserError."""
        if self.config.regression is not None:
            data: RegressionSet = self._sets[name]
            for seed in self.config.seeds:
                regression.check_radii(data, self.config.regression, seed)
            return regression.task(data, self.config.regression)
        draws = [self._drawn(name, seed) for seed in self.config.seeds]
        return verification.task(name, draws[0])

    def _drawn(self, name: str, seed: int) -> Draw:
        assert self.config.verification is not None
        if name == "speakers":
            train, test = self._sets[name]
            return speakers(train, test, self.config.verification.speakers, seed)
        first, second, runs = self._sets[name]
        return characters(first, second, runs, self.config.verification.omniglot, seed)


class Triplets(Experiment):
    """Embeddings learned from triplets."""

    config = TripletsConfig

    def open(self, config: TripletsConfig) -> TripletStudy:
        return TripletStudy(config)


EXPERIMENT = Triplets()

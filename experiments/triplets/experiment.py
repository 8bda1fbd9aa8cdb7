"""Triplets: an embedding learned from who is near whom, against simpler maps, on regression sets or on classes (speakers, characters).

A study has one of two protocols, ``regression`` or ``verification`` (see the modules of these names), and names tasks of that one.
Seed s draws split s: training, validation (which chooses the learning rate and the round) and test rows that are disjoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from arch_lab.data import DataError
from arch_lab.data.files import file_hash
from arch_lab.study.identity import digest
from arch_lab.tasks import Cell, Fitted, Method, Task, TaskEngine, TaskStudyConfig, Tell
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
        given = [name for name in TASKS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                f"study {self.name!r}: give one protocol, regression or verification (an empty mapping takes its defaults)"
            )
        for task in self.tasks:
            if task not in TASKS[given[0]]:
                raise ConfigError(
                    f"study {self.name!r}: no {given[0]} task {task!r}{did_you_mean(task, TASKS[given[0]])}"
                )


class PreparedTriplets:
    """Sets that are read and checked (arch_lab.tasks.contract.Prepared)."""

    def __init__(self, config: TripletsConfig, tell: Tell) -> None:
        self.config, self.root = config, config.folder
        self.absent: dict[str, str] = {}
        self._sets: dict[str, Any] = {}
        self._hashes: dict[str, str] = {}
        self._archive: UciArchive | None = None
        for name in config.tasks:
            tell(f"reading {name}")
            try:
                self._sets[name] = self._read(name)
                self._hashes[name] = digest([file_hash(find_in(self.root, *place)) for place in FILES[name]])
            except DataError as error:
                self.absent[name] = str(error)
        if not self._sets:
            raise DataError(self.absent[config.tasks[0]])
        self.methods: tuple[Method, ...] = (
            regression if config.regression is not None else verification
        ).methods()
        self.tasks: tuple[Task, ...] = tuple(self._task(name) for name in self._sets)
        self._draw = lru_cache(maxsize=4)(self._drawn)

    def fingerprint(self, task: str) -> str:
        return self._hashes[task]

    def fit(self, cell: Cell, folder: Path, tell: Tell) -> Fitted:
        config = self.config
        if config.regression is not None:
            return regression.fit(self._sets[cell.task], config.regression, config.effort, cell)
        assert config.verification is not None
        return verification.fit(self._draw(cell.task, cell.seed), config.verification, config.effort, cell)

    def finish(self, chosen: dict[tuple[str, str], list[Path]], folder: Path, tell: Tell) -> list[str]:
        return []

    def _read(self, name: str) -> Any:
        """A RegressionSet, or what ``_drawn`` draws from. Raises: DataError."""
        if name in UCI_SETS:
            self._archive = self._archive or UciArchive(self.root)  # one archive for all sets
            return self._archive.read(name)
        if name.startswith("music_"):
            return read_music(self.root)[name]
        if name == "speakers":
            return read_utterances(self.root, "train"), read_utterances(self.root, "test")
        assert self.config.verification is not None
        side = self.config.verification.omniglot.side
        return (
            read_drawings(self.root, 1, side),
            read_drawings(self.root, 2, side),
            read_one_shot(self.root, side),
        )

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


class TripletsExperiment:
    """arch_lab.tasks.contract.TaskExperiment."""

    config: type[TaskStudyConfig] = TripletsConfig

    def open(self, config: TripletsConfig, cache: Path, tell: Tell) -> PreparedTriplets:
        return PreparedTriplets(config, tell)


EXPERIMENT = TaskEngine(TripletsExperiment())

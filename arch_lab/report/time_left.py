"""How long a study still takes: every phase, every worker, each arm at its own speed."""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

SOON = 0.1  # share of its steps from which a running trial shows the speed of its arm
RECENT = 3  # trials of an arm that its speed is taken from
RATE_AND_SEED = re.compile(r"( lr \S+)?( draw \d+)? seed \d+$")


def subject(label: str) -> str:
    """'sst2: gemma3 lr 0.004 seed 0' -> 'sst2: gemma3': trials with the same subject take the same time."""
    return RATE_AND_SEED.sub("", label)


@dataclass
class Running:
    """A trial that has begun.

    ``share``: of its steps done, ``seconds`` after it began; ``first_share`` and ``start_up``: the same at its
    first step. ``is_first``: of its worker, where starting up takes longer than it will again.
    """

    work: float
    began: float
    is_first: bool
    share: float = 0.0
    seconds: float = 0.0
    first_share: float = 0.0
    start_up: float = 0.0

    def step(self, share: float, seconds: float) -> None:
        if not self.share and share <= SOON:
            self.first_share, self.start_up = share, seconds
        self.share, self.seconds = share, seconds

    def pace(self, seconds: float, share: float = 1.0) -> float:
        """Seconds per unit of work without the start-up, when ``share`` of it took ``seconds``."""
        return (seconds - self.start_up) / max(self.work * (share - self.first_share), 1e-12)


class TimeLeft:
    """Seconds until the last trial ends, from the trials that ended here."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.waiting: dict[str, float] = {}  # label -> work, in the order in which they start
        self.running: dict[str, Running] = {}
        self.paces: dict[str, list[float]] = {}  # subject -> seconds per unit of work of its trials
        self.start_ups: list[float] = []  # seconds before the first step, of trials that no worker began with
        self.started = 0
        self.workers, self.following_trials = 1, 0
        self.following: dict[str, float] = {}  # subject -> work of the trials that follow this batch
        self.later = 0.0  # work of everything after those

    def batch(
        self, labels: Sequence[str], work: Sequence[float], workers: int, after: int, later: float = 0.0
    ) -> None:
        """Trials to run next, how many of their kind are sure to follow, and the work of everything later."""
        self.later = later
        self.waiting = dict(zip(labels, work, strict=True))
        self.workers, self.following_trials = max(1, workers), after
        tuned = {subject(label): size for label, size in self.waiting.items() if " lr " in label}
        self.following = tuned or {subject(label): size for label, size in self.waiting.items()}

    def start(self, label: str) -> None:
        work = self.waiting.pop(label, None)
        if work is None and label in self.running:  # its worker died: it begins again
            work = self.running[label].work
        self.running[label] = Running(
            1.0 if work is None else work, self.clock(), self.started < self.workers
        )
        self.started += 1

    def step(self, label: str, share: float) -> None:
        if label in self.running:
            trial = self.running[label]
            trial.step(share, self.clock() - trial.began)

    def end(self, label: str, wall: float) -> None:
        trial = self.running.pop(label, None)
        if trial is None:
            return
        self.paces.setdefault(subject(label), []).append(trial.pace(wall))
        if trial.share and not trial.is_first:
            self.start_ups.append(trial.start_up)

    def skip(self, label: str) -> None:
        """A trial that an earlier call has finished."""
        self.waiting.pop(label, None)

    def seconds(self) -> float | None:
        """None before a trial has ended here, and when nothing is left."""
        if not self.paces or not (self.waiting or self.running or self.following_trials or self.later):
            return None
        now = self.clock()
        free = [self._remainder(label, trial, now) for label, trial in self.running.items()]
        free += [0.0] * (self.workers - len(free))
        batch = _last_end(free, [self._seconds(subject(label), work) for label, work in self.waiting.items()])
        subjects = list(self.following.items())
        phase = (
            [self._seconds(*subjects[i % len(subjects)]) for i in range(self.following_trials)]
            if subjects
            else []
        )
        later = self.later * median(pace for recent in self.paces.values() for pace in recent) / self.workers
        return batch + _last_end([0.0] * self.workers, phase) + later

    def _remainder(self, label: str, trial: Running, now: float) -> float:
        """By what the arm took before; for a trial that runs slower than that, by the share of its steps."""
        total, elapsed = self._seconds(subject(label), trial.work), now - trial.began
        elapsed -= trial.start_up if trial.is_first else 0.0
        return max(total - elapsed, total * (1 - trial.share) if trial.share else 0.0, 0.0)

    def _seconds(self, name: str, work: float) -> float:
        start_up = median(self.start_ups[-RECENT:]) if self.start_ups else 0.0
        return start_up + work * self._pace(name)

    def _pace(self, name: str) -> float:
        """Seconds per unit of work.

        Of the subject, ended or running; else of other arms on its task; else of all.
        """
        if name in self.paces:
            return median(self.paces[name][-RECENT:])
        for label, trial in self.running.items():
            if subject(label) == name and trial.share - trial.first_share > SOON:
                return trial.pace(trial.seconds, trial.share)
        task = name.partition(": ")[0]
        paces = {other: median(recent[-RECENT:]) for other, recent in self.paces.items()}
        same = [pace for other, pace in paces.items() if ": " in name and other.startswith(f"{task}: ")]
        return median(same or list(paces.values()))


def _last_end(free: Sequence[float], seconds: Sequence[float]) -> float:
    """When the last trial ends, if each goes to the worker that is free first."""
    ends = list(free)
    heapq.heapify(ends)
    for duration in seconds:
        heapq.heappush(ends, heapq.heappop(ends) + duration)
    return max(ends, default=0.0)

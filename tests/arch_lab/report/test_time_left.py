"""The time left of a study, on studies whose trials take a known time."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import pytest

from arch_lab.report.time_left import TimeLeft


@dataclass(frozen=True)
class Batch:
    """Trials of (label, seconds) that start together, and how many follow the batch."""

    trials: list[tuple[str, float]]
    after: int


def grid(arms: dict[str, float], rates: int, seeds: range) -> list[tuple[str, float]]:
    """As the engine runs them: the arms take turns."""
    labels = [
        (f"{arm} lr 0.{rate + 1} seed {seed}", arm) for rate in range(rates) for seed in seeds for arm in arms
    ]
    return [(label, arms[arm]) for label, arm in labels]


def estimates(batches: list[Batch], workers: int) -> list[tuple[int, float, float]]:
    """(trials that ended, seconds estimated, seconds that were really left) after each trial, and in the middle of the next."""
    now = [0.0]
    clock = TimeLeft(lambda: now[0])
    points: list[tuple[int, float, float | None]] = []
    ended = 0

    def note(running: list[tuple[float, str, float]]) -> None:
        for end, label, seconds in running:
            clock.step(label, 1 - (end - now[0]) / seconds)
        points.append((ended, now[0], clock.seconds()))

    for batch in batches:
        clock.batch([label for label, _ in batch.trials], [1.0] * len(batch.trials), workers, batch.after)
        waiting, running = list(batch.trials), list[tuple[float, str, float]]()
        while waiting or running:
            while waiting and len(running) < workers:
                label, seconds = waiting.pop(0)
                clock.start(label)
                heapq.heappush(running, (now[0] + seconds, label, seconds))
            end, label, seconds = heapq.heappop(running)
            now[0] += (end - now[0]) / 2
            note([*running, (end, label, seconds)])
            now[0] = end
            clock.end(label, seconds)
            ended += 1
            note(running)
    return [(count, left, now[0] - at) for count, at, left in points if left is not None]


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("slower", [0.7, 1.0, 1.4])
def test_from_the_second_trial_on_it_is_within_a_quarter(workers: int, slower: float) -> None:
    arms = {"gemma3": 10.0, "m2_gpt": 10.0 * slower}
    tuning = Batch(grid(arms, 4, range(1)), after=4)
    others = Batch([(f"{arm} lr 0.1 seed {seed}", arms[arm]) for seed in (1, 2) for arm in arms], after=0)
    for count, estimate, left in estimates([tuning, others], workers):
        if count >= 2 and left >= 10.0:
            assert estimate == pytest.approx(left, rel=0.25), (count, estimate, left)


def test_arms_of_very_different_speed_are_known_once_each_has_ended() -> None:
    arms = {"majority": 0.01, "small": 2.0, "large": 60.0}
    trials = [(f"task: {arm} lr 0.1 seed {seed}", arms[arm]) for seed in range(4) for arm in arms]
    for count, estimate, left in estimates([Batch(trials, after=0)], 1):
        if count >= 3:
            assert estimate == pytest.approx(left, rel=0.01, abs=1e-6)


def test_nothing_is_said_before_a_trial_has_ended() -> None:
    clock = TimeLeft(lambda: 0.0)
    clock.batch(["a seed 0", "a seed 1"], [1.0, 1.0], 1, 3)
    clock.start("a seed 0")
    assert clock.seconds() is None


def test_trials_of_an_earlier_call_are_not_waited_for() -> None:
    clock = TimeLeft(lambda: 0.0)
    clock.batch(["a seed 0", "a seed 1", "a seed 2"], [1.0, 1.0, 1.0], 1, 0)
    clock.skip("a seed 0")
    clock.start("a seed 1")
    clock.end("a seed 1", 5.0)
    assert clock.seconds() == 5.0


def test_a_trial_that_runs_slower_than_its_arm_did_is_waited_for() -> None:
    now = [0.0]
    clock = TimeLeft(lambda: now[0])
    clock.batch(["a seed 0", "a seed 1"], [1.0, 1.0], 1, 0)
    clock.start("a seed 0")
    clock.end("a seed 0", 10.0)
    clock.start("a seed 1")
    now[0] = 15.0
    clock.step("a seed 1", 0.5)
    assert clock.seconds() == 5.0


def test_a_trial_whose_worker_died_counts_once() -> None:
    clock = TimeLeft(lambda: 0.0)
    clock.batch(["a seed 0", "a seed 1"], [2.0, 2.0], 1, 0)
    clock.start("a seed 0")
    clock.start("a seed 0")
    clock.end("a seed 0", 6.0)
    assert clock.seconds() == 6.0


def test_what_a_worker_takes_to_start_is_not_expected_of_every_trial() -> None:
    now = [0.0]
    clock = TimeLeft(lambda: now[0])
    clock.batch([f"a seed {seed}" for seed in range(4)], [1.0] * 4, 1, 0)
    for seed, start_up in ((0, 30.0), (1, 1.0)):
        clock.start(f"a seed {seed}")
        began = now[0]
        now[0] = began + start_up
        clock.step(f"a seed {seed}", 0.0001)
        now[0] += 10.0
        clock.end(f"a seed {seed}", now[0] - began)
    assert clock.seconds() == pytest.approx(2 * 11.0, rel=0.01)

"""Studies of triplets on small sets: what is apart stays apart, nothing of the test has a say, equal effort."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from arch_lab.study.engine import compare
from arch_lab.study.task_study import Fitted
from experiments.triplets import regression, verification
from experiments.triplets.cohorts import BACKGROUND, Characters, Speakers, characters, speakers
from experiments.triplets.experiment import TripletsConfig, TripletStudy
from experiments.triplets.readers.common import RegressionSet
from experiments.triplets.readers.japanese_vowels import read_utterances
from experiments.triplets.readers.omniglot import read_drawings
from experiments.triplets.regression import RegressionProtocol
from experiments.triplets.verification import VerificationProtocol, nearest
from tests.experiments import trials
from tests.experiments.triplets.small_triplets import SMALL, opened, options, trial_of

STUDIES = Path(regression.__file__).parent


# --- what is apart --------------------------------------------------------------------------------------------------


def test_training_validation_and_test_rows_of_a_fold_are_disjoint_and_whole(yacht: RegressionSet) -> None:
    numbered = replace(yacht, target=np.arange(len(yacht.target), dtype=float))
    part = regression.fold(numbered, RegressionProtocol(), 1)
    labels = [set(y.tolist()) for _, y in (part.train, part.valid, part.test)]
    assert len(set.union(*labels)) == sum(map(len, labels)) == len(yacht.target)
    assert (min(labels[0]), max(labels[0])) == (-1, 1)


def test_men_of_the_background_of_validation_and_test_and_of_the_list_are_different(root: Path) -> None:
    train, test = (read_utterances(root, split) for split in ("train", "test"))
    for seed in range(4):
        drawn = speakers(train, test, Speakers(), seed)
        # five men on the list with five utterances each; 25 later ones and two strangers of 30 in validation
        assert (
            len(drawn.train) == 25
            and (drawn.valid.identities != BACKGROUND).sum() == 125
            and (drawn.valid.identities == BACKGROUND).sum() == 60
        )
        counts = np.bincount(test.speakers)
        order = np.random.default_rng(seed).permutation(9)
        assert (drawn.test.identities == BACKGROUND).sum() == counts[order[7:]].sum()
        assert [int((drawn.test.identities == i).sum()) for i in range(5)] == counts[order[:5]].tolist()


def test_characters_of_training_validation_and_test_are_of_different_alphabets(root: Path) -> None:
    first, second = (read_drawings(root, which, 8) for which in (1, 2))
    for seed in range(3):
        drawn = characters(first, second, [], Characters(side=8, enrolled=2), seed)
        assert len(drawn.train) == 2 * 4 * 6 and drawn.labels.tolist() == np.repeat(np.arange(8), 6).tolist()
        assert (
            len(drawn.valid.enrol) == 2 * 2 and len(drawn.valid.probes) == 2 * 4 + 2 * 6
        )  # the one alphabet that is left
        assert (
            len(drawn.test.enrol) == 3 * 2 and len(drawn.test.probes) == 3 * 4 + 3 * 6
        )  # Delta: Alpha stands in both sets
        rows = [
            {row.tobytes() for row in part}
            for part in (drawn.train, drawn.valid.probes, drawn.test.enrol, drawn.test.probes)
        ]
        assert len(set.union(*rows)) == sum(map(len, rows))


# --- nothing of the test has a say ----------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["triplets", "supervised", "autoencoder"])
def test_a_test_fold_of_other_numbers_changes_scores_and_no_choice(arm: str, yacht: RegressionSet) -> None:
    _, test = yacht.split(0)
    features, target = yacht.features.copy(), yacht.target.copy()
    features[test] = 3 * features[test][::-1] + 1
    target[test] = 50 - target[test]
    twisted = replace(yacht, features=features, target=target)
    before, after = (
        regression.fit(data, RegressionProtocol(), SMALL, trial_of("yacht", arm)) for data in (yacht, twisted)
    )
    assert before.tuned == after.tuned and before.facts["round chosen"] == after.facts["round chosen"]
    assert before.scores != after.scores


def test_other_test_speakers_change_scores_and_no_choice(root: Path) -> None:
    train, test = (read_utterances(root, split) for split in ("train", "test"))
    twisted = replace(test, frames=tuple(frames[::-1] ** 2 for frames in test.frames))
    found = [
        verification.fit(
            speakers(train, t, Speakers(), 0), VerificationProtocol(), SMALL, trial_of("speakers", "triplets")
        )
        for t in (test, twisted)
    ]
    assert (
        found[0].tuned == found[1].tuned and found[0].facts["round chosen"] == found[1].facts["round chosen"]
    )
    assert found[0].scores != found[1].scores


# --- what is fitted -------------------------------------------------------------------------------------------------


def fit_all(study: TripletStudy, task: str, rate: float, folder: Path) -> dict[str, Fitted]:
    """Every arm on a task at seed 0."""
    return {
        arm.name: trials.fit(study, trial_of(task, arm.name, rate if arm.tuned else None), folder)
        for arm in study.arms
    }


def score(fitted: Fitted, key: str) -> float:
    assert fitted.scores is not None
    return fitted.scores[key]


def test_every_arm_of_regression_is_scored_and_triplets_beat_the_layer_as_drawn(
    root: Path, tmp_path: Path
) -> None:
    study = opened(root, effort={"rounds": 4, "epochs": 1, "triplets": 3840, "rows": 96})
    (task,) = study.tasks
    fits = fit_all(study, task.name, 0.01, tmp_path)
    for arm in study.arms:
        assert set(fits[arm.name].scores or {}) == {m.key for m in task.measures}
        assert (fits[arm.name].tuned is not None) == arm.tuned
    assert score(fits["triplets"], "r2_gbm") > score(fits["untrained"], "r2_gbm") + 0.1
    assert fits["triplets"].tuned == max(v for _, tag, v in fits["triplets"].curve if tag == "tune/r2_gbm")


@pytest.mark.parametrize("task", ["speakers", "omniglot"])
def test_every_arm_of_verification_scores_every_measure(task: str, root: Path, tmp_path: Path) -> None:
    effort = {"rounds": 3, "epochs": 2, "triplets": 1280, "rows": 96}
    study = opened(
        root,
        tasks=[task],
        regression=None,
        verification={"omniglot": {"side": 10, "enrolled": 2}},
        effort=effort,
    )
    fits = fit_all(study, task, 0.003, tmp_path)
    for arm in study.arms:
        scores = fits[arm.name].scores or {}
        assert set(scores) == {m.key for m in study.tasks[0].measures}
        assert (fits[arm.name].tuned is not None) == arm.tuned
        assert all(0 <= v <= 1 for v in scores.values())
    assert ("one_shot" in (fits["triplets"].scores or {})) == (task == "omniglot")
    if task == "speakers":  # eight characters of random strokes teach nothing about others
        assert score(fits["triplets"], "top1_eer") < score(fits["untrained"], "top1_eer")
    curve = [v for _, tag, v in fits["triplets"].curve if tag == "tune/top_s_eer"]
    assert fits["triplets"].tuned == min(curve)  # an error rate


def test_peers_take_as_many_steps_as_triplets_on_as_many_rows(yacht: RegressionSet) -> None:
    found = [
        regression.fit(yacht, RegressionProtocol(), SMALL, trial_of("yacht", m))
        for m in ("triplets", "supervised", "autoencoder")
    ]
    assert {f.facts["steps"] for f in found} == {3 * 10}  # 1280 triplets in batches of 128, three times
    assert len({f.facts["parameters"] for f in found}) == 1
    from experiments.triplets.training import LabelledSteps, TripletSteps

    part = regression.fold(yacht, RegressionProtocol(), 0)
    given = (*(torch.from_numpy(a) for a in part.train), RegressionProtocol().miner(), SMALL, 0)
    mined, labelled = TripletSteps(*given).steps(1), LabelledSteps(*given).steps(1)
    assert [sum(len(x) for x in batch) for batch in mined] == [len(x) for x, _ in labelled] == [384] * 10


def test_a_fit_is_a_function_of_the_trial_and_leaves_the_generators_alone(yacht: RegressionSet) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = regression.fit(yacht, RegressionProtocol(), SMALL, trial_of("yacht", "triplets"))
    assert torch.equal(torch.rand(3), expected)
    again, other = (
        regression.fit(yacht, RegressionProtocol(), SMALL, trial_of("yacht", "triplets", seed=s))
        for s in (0, 1)
    )
    assert first.scores == again.scores and first.curve == again.curve
    assert first.scores != other.scores


def test_every_round_mines_anew_and_a_seed_mines_the_same(yacht: RegressionSet) -> None:
    from experiments.triplets.training import mined

    labels = torch.from_numpy(regression.fold(yacht, RegressionProtocol(), 0).train[1])
    mine = partial(mined, labels, RegressionProtocol().miner(), SMALL)
    assert torch.equal(mine(3)[1], mine(3)[1])
    assert not torch.equal(mine(3)[1], mine(4)[1])
    a, p, n = labels[mine(3)[1]]
    assert (a - p).abs().max() <= 0.2 + 1e-6 and (
        a - n
    ).abs().min() >= 0.4 - 1e-6  # 2·pos_radius, neg_radius - pos_radius


@pytest.mark.parametrize("arm", ["triplets", "supervised"])
def test_a_fit_that_diverges_has_no_scores_and_breaks_nothing(arm: str, yacht: RegressionSet) -> None:
    found: Fitted = regression.fit(yacht, RegressionProtocol(), SMALL, trial_of("yacht", arm, 1e30))
    assert found.scores is None and found.tuned is None


def test_three_neighbours_vote_and_the_nearest_breaks_a_tie() -> None:
    angles = np.deg2rad([0, 10, 20, 90, 100, 180])
    enrol, classes = np.stack([np.cos(angles), np.sin(angles)], axis=1), np.array([0, 1, 1, 2, 3, 4])
    asked = np.deg2rad([0, 170])
    scores, named = nearest(enrol, classes, 2 * np.stack([np.cos(asked), np.sin(asked)], axis=1))
    assert named.tolist() == [1, 4]  # 0, 1, 1 out of three; then 4, 3 and 2, of which 4 is nearest
    assert scores[0] == pytest.approx(np.mean(np.cos(angles[:3])), abs=1e-6)


# --- whole studies --------------------------------------------------------------------------------------------------


def test_a_study_goes_from_files_to_a_verdict_and_is_kept(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    content = options(tasks=["yacht", "wine"], seeds=[0, 1], tuning_seeds=[0])
    path.write_text(yaml.safe_dump(content))
    call: dict[str, Any] = {"output": tmp_path / "runs", "data_root": str(root)}
    study = compare(str(path), **call)
    assert [task.name for task in study.tasks] == ["yacht"]
    assert "no member wine-quality-red/data/data.txt" in study.absent["wine"]
    arms = {"triplets", "supervised", "autoencoder", "pca", "raw", "untrained"}
    assert {standing.arm for standing in study.summary} == arms
    events: list[str] = []
    assert compare(str(path), **call, observer=lambda event, facts: events.append(event)) == study
    assert "run" not in events


@pytest.mark.parametrize("name", ["regression", "speakers", "omniglot"])
def test_the_studies_of_the_folder_are_sound(name: str) -> None:
    content = yaml.safe_load((STUDIES / f"{name}.yaml").read_text(encoding="utf-8"))
    config = TripletsConfig.from_options({"name": name, **content}, where=f"study {name!r}")
    assert len(config.learning_rates) >= 4 and len(config.seeds) >= 5  # a grid and an interval

"""Studies of triplets on small sets: what is apart stays apart, nothing of the test has a say, equal effort, and bad input in one line."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from arch_lab.data import DataError
from arch_lab.study.engine import silent
from arch_lab.tasks import Cell, Fitted
from blocks.errors import ConfigError, UserError
from experiments.triplets import regression, verification
from experiments.triplets.cohorts import BACKGROUND, Characters, Speakers, characters, speakers
from experiments.triplets.effort import Effort
from experiments.triplets.experiment import EXPERIMENT, TripletsConfig
from experiments.triplets.readers.common import RegressionSet
from experiments.triplets.readers.japanese_vowels import read_utterances
from experiments.triplets.readers.omniglot import read_drawings, read_one_shot
from experiments.triplets.readers.uci import UciArchive
from experiments.triplets.regression import RegressionProtocol
from experiments.triplets.verification import VerificationProtocol, nearest
from tests.experiments.triplets.triplet_files import (
    uci_members,
    write_music,
    write_omniglot,
    write_uci,
    write_vowels,
)

SMALL = Effort(rounds=3, epochs=1, triplets=1280, batch=128, rows=96)
STUDIES = Path(regression.__file__).parent


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_uci(folder, uci_members())
    write_music(folder)
    write_omniglot(folder)
    for split in ("train", "test"):
        write_vowels(folder, split)
    return folder


@pytest.fixture(scope="module")
def yacht(root: Path) -> RegressionSet:
    return UciArchive(root).read("yacht")


def cell(task: str, method: str, rate: float | None = 0.01, seed: int = 0) -> Cell:
    return Cell(task=task, method=method, learning_rate=rate, seed=seed)


def options(**changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "experiment": "triplets",
        "tasks": ["yacht"],
        "regression": {},
        "effort": {"rounds": 2, "epochs": 1, "triplets": 256, "rows": 64},
        "learning_rates": [0.01],
        "seeds": [0],
        **changes,
    }


def opened(root: Path, **changes: Any) -> Any:
    config = TripletsConfig.from_options(options(root=str(root), **changes), where="study 'small'")
    return EXPERIMENT.experiment.open(config, root, lambda line: None)


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


@pytest.mark.parametrize("method", ["triplets", "supervised", "autoencoder"])
def test_a_test_fold_of_other_numbers_changes_scores_and_no_choice(method: str, yacht: RegressionSet) -> None:
    _, test = yacht.split(0)
    features, target = yacht.features.copy(), yacht.target.copy()
    features[test] = 3 * features[test][::-1] + 1
    target[test] = 50 - target[test]
    twisted = replace(yacht, features=features, target=target)
    before, after = (
        regression.fit(data, RegressionProtocol(), SMALL, cell("yacht", method)) for data in (yacht, twisted)
    )
    assert before.tuned == after.tuned and before.facts["round chosen"] == after.facts["round chosen"]
    assert before.scores != after.scores


def test_other_test_speakers_change_scores_and_no_choice(root: Path) -> None:
    train, test = (read_utterances(root, split) for split in ("train", "test"))
    twisted = replace(test, frames=tuple(frames[::-1] ** 2 for frames in test.frames))
    found = [
        verification.fit(
            speakers(train, t, Speakers(), 0), VerificationProtocol(), SMALL, cell("speakers", "triplets")
        )
        for t in (test, twisted)
    ]
    assert (
        found[0].tuned == found[1].tuned and found[0].facts["round chosen"] == found[1].facts["round chosen"]
    )
    assert found[0].scores != found[1].scores


# --- what is fitted -------------------------------------------------------------------------------------------------


def test_every_method_of_regression_scores_every_measure_and_triplets_beat_the_layer_as_drawn(
    root: Path,
) -> None:
    prepared = opened(root, effort={"rounds": 4, "epochs": 1, "triplets": 3840, "rows": 96})
    (task,) = prepared.tasks
    found = {
        m.name: prepared.fit(cell("yacht", m.name, 0.01 if m.tuned else None), root, print)
        for m in prepared.methods
    }
    for method in prepared.methods:
        assert set(found[method.name].scores) == {m.key for m in task.measures}
        assert (found[method.name].tuned is not None) == method.tuned
    assert found["triplets"].scores["r2_gbm"] > found["untrained"].scores["r2_gbm"] + 0.1
    assert found["triplets"].tuned == max(v for _, tag, v in found["triplets"].curve if tag == "tune/score")


@pytest.mark.parametrize("task", ["speakers", "omniglot"])
def test_every_method_of_verification_scores_every_measure(task: str, root: Path) -> None:
    effort = {"rounds": 3, "epochs": 2, "triplets": 1280, "rows": 96}
    prepared = opened(
        root,
        tasks=[task],
        regression=None,
        verification={"omniglot": {"side": 10, "enrolled": 2}},
        effort=effort,
    )
    found = {
        m.name: prepared.fit(cell(task, m.name, 0.003 if m.tuned else None), root, print)
        for m in prepared.methods
    }
    for method in prepared.methods:
        assert set(found[method.name].scores) == {m.key for m in prepared.tasks[0].measures}
        assert (found[method.name].tuned is not None) == method.tuned
        assert all(0 <= v <= 1 for v in found[method.name].scores.values())
    assert ("one_shot" in found["triplets"].scores) == (task == "omniglot")
    if task == "speakers":  # eight characters of random strokes teach nothing about others
        assert found["triplets"].scores["top1_eer"] < found["untrained"].scores["top1_eer"]
    assert found["triplets"].tuned == min(
        v for _, tag, v in found["triplets"].curve if tag == "tune/score"
    )  # an error rate


def test_peers_take_as_many_steps_as_triplets_on_as_many_rows(yacht: RegressionSet) -> None:
    found = [
        regression.fit(yacht, RegressionProtocol(), SMALL, cell("yacht", m))
        for m in ("triplets", "supervised", "autoencoder")
    ]
    assert {f.facts["steps"] for f in found} == {3 * 10}  # 1280 triplets in batches of 128, three times
    assert len({f.facts["parameters"] for f in found}) == 1
    from experiments.triplets.training import LabelledSteps, TripletSteps

    part = regression.fold(yacht, RegressionProtocol(), 0)
    given = (*(torch.from_numpy(a) for a in part.train), RegressionProtocol().miner(), SMALL, 0)
    mined, labelled = TripletSteps(*given).steps(1), LabelledSteps(*given).steps(1)
    assert [sum(len(x) for x in batch) for batch in mined] == [len(x) for x, _ in labelled] == [384] * 10


def test_a_fit_is_a_function_of_the_cell_and_leaves_the_generators_alone(yacht: RegressionSet) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = regression.fit(yacht, RegressionProtocol(), SMALL, cell("yacht", "triplets"))
    assert torch.equal(torch.rand(3), expected)
    again, other = (
        regression.fit(yacht, RegressionProtocol(), SMALL, cell("yacht", "triplets", seed=s)) for s in (0, 1)
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


@pytest.mark.parametrize("method", ["triplets", "supervised"])
def test_a_fit_that_diverges_has_no_scores_and_breaks_nothing(method: str, yacht: RegressionSet) -> None:
    found: Fitted = regression.fit(yacht, RegressionProtocol(), SMALL, cell("yacht", method, 1e30))
    assert found.scores is None and found.tuned is None


def test_three_neighbours_vote_and_the_nearest_breaks_a_tie() -> None:
    angles = np.deg2rad([0, 10, 20, 90, 100, 180])
    enrol, classes = np.stack([np.cos(angles), np.sin(angles)], axis=1), np.array([0, 1, 1, 2, 3, 4])
    asked = np.deg2rad([0, 170])
    scores, named = nearest(enrol, classes, 2 * np.stack([np.cos(asked), np.sin(asked)], axis=1))
    assert named.tolist() == [1, 4]  # 0, 1, 1 out of three; then 4, 3 and 2, of which 4 is nearest
    assert scores[0] == pytest.approx(np.mean(np.cos(angles[:3])), abs=1e-6)


# --- whole studies --------------------------------------------------------------------------------------------------


def test_a_study_goes_from_files_to_a_report_and_is_kept(root: Path, tmp_path: Path) -> None:
    study = tmp_path / "small.yaml"
    given = {
        k: v
        for k, v in options(tasks=["yacht", "wine"], seeds=[0, 1], tuning_seeds=[0]).items()
        if k != "name"
    }
    study.write_text(yaml.safe_dump(given))
    kwargs: dict[str, Any] = {
        "overrides": [],
        "output": tmp_path / "runs",
        "data_root": str(root),
        "threads": None,
        "observer": silent,
    }
    found = EXPERIMENT.compare(str(study), **kwargs)
    assert [t["name"] for t in found["tasks"]] == ["yacht"]
    assert "no member wine-quality-red/data/data.txt" in found["absent"]["wine"]
    assert {s["method"] for s in found["summary"]} == {
        "triplets",
        "supervised",
        "autoencoder",
        "pca",
        "raw",
        "untrained",
    }
    assert (tmp_path / "runs" / "small" / "report.html").is_file()
    assert "| triplets |" in EXPERIMENT.markdown(tmp_path / "runs" / "small")
    labels: list[str] = []
    EXPERIMENT.compare(str(study), **{**kwargs, "observer": lambda event, facts: labels.append(event)})
    assert "fit" not in labels and labels[-1] == "report"


@pytest.mark.parametrize("name", ["regression", "speakers", "omniglot"])
def test_the_studies_of_the_folder_are_sound(name: str) -> None:
    content = yaml.safe_load((STUDIES / f"{name}.yaml").read_text(encoding="utf-8"))
    config = TripletsConfig.from_options({"name": name, **content}, where=f"study {name!r}")
    assert len(config.learning_rates) >= 4 and len(config.seeds) >= 5  # a grid and an interval


# --- refusals -------------------------------------------------------------------------------------------------------

BAD = [
    ({"regression": None}, "give one protocol, regression or verification"),
    ({"verification": {}}, "give one protocol, regression or verification"),
    ({"tasks": ["speakers"]}, "no regression task 'speakers'"),
    ({"tasks": ["yatch"]}, "no regression task 'yatch'; did you mean 'yacht'"),
    (
        {"regression": {"embeding_share": 1}},
        "unknown option 'embeding_share'; did you mean 'embedding_share'",
    ),
    ({"regression": {"embedding_share": 0}}, "embedding_share: must be positive, got 0"),
    ({"regression": {"validation_share": 0.6}}, "validation_share: must be at most 0.5, got 0.6"),
    ({"regression": {"margin": 0}}, "regression.margin: must be positive, got 0"),
    ({"regression": {"pos_radius": 0.6}}, "pos_radius < neg_radius must hold, got 0.6 and 0.5"),
    ({"effort": {"rounds": 0}}, "effort.rounds: must be at least 1, got 0"),
    ({"seeds": [2]}, "yacht: no split 2; it comes with splits 0 … 1"),
]
CLASSES = [
    ({"speakers": {"enrolled": 1}}, "speakers.enrolled: must be at least 2, got 1"),
    (
        {"speakers": {"enrolled": 7, "background": 2}},
        "7 enrolled and a background of 2 in validation must leave at least one of nine men",
    ),
    ({"speakers": {"utterances": 26}}, "utterances: must be at most 25, got 26"),
    ({"omniglot": {"enrolled": 20}}, "enrolled: must be at most 19, got 20"),
    ({"omniglot": {"side": 1}}, "side: must be at least 2, got 1"),
    (
        {"omniglot": {"side": 8, "enrolled": 6}},
        r"omniglot: class Gamma/character\d\d has 6 drawings, which leaves none after 6 enrolled",
    ),
    ({"margin": -1}, "verification.margin: must be positive"),
    ({"ap_pairs": 0}, "ap_pairs: must be at least 1"),
]


def refused(root: Path, message: str, **changes: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        opened(root, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_a_wrong_study_is_one_line(changes: dict[str, Any], message: str, root: Path) -> None:
    refused(root, message, **changes)


@pytest.mark.parametrize(("changes", "message"), CLASSES)
def test_a_wrong_protocol_of_classes_is_one_line(changes: dict[str, Any], message: str, root: Path) -> None:
    refused(root, message, tasks=["omniglot"], regression=None, verification=changes, seeds=[2])


@pytest.mark.parametrize(
    ("radii", "message"),
    [
        (
            (0.1, 2.5),
            r"yacht: regression\.neg_radius 2\.5 leaves no negative for any of the 77 training labels of split 0, .* -1 … 1",
        ),
        ((0.0, 0.5), r"yacht: regression\.pos_radius 0 leaves no positive for any of the 77 training labels"),
    ],
)
def test_radii_that_leave_a_set_without_triplets_name_the_radius_and_the_labels(
    radii: tuple[float, float], message: str, root: Path
) -> None:
    refused(root, message, regression={"pos_radius": radii[0], "neg_radius": radii[1]})


def test_labels_whose_neighbours_have_no_negatives_are_refused_before_training(yacht: RegressionSet) -> None:
    # pairs only in the middle, which reaches neither end: no centre has both
    target = np.linspace(-0.01, 0.01, len(yacht.target))
    (train, test), held = yacht.split(0), 96 // 5
    lonely = replace(yacht, target=target, splits=((train, test),))
    target[np.random.default_rng(0).permutation(train)[[held, held + 1]]] = -1, 1
    with pytest.raises(
        ConfigError,
        match=r"has both a neighbour within .* 0\.1 and one .* 1\.5 away; the labels lie in -1 … 1",
    ):
        regression.check_radii(lonely, RegressionProtocol(neg_radius=1.5), 0)


def test_labels_that_are_all_alike_are_refused(yacht: RegressionSet) -> None:
    with pytest.raises(
        ConfigError, match="yacht: every training label of split 0 is 3, so there is nothing to learn"
    ):
        regression.fold(replace(yacht, target=np.full(len(yacht.target), 3.0)), RegressionProtocol(), 0)


def test_a_study_without_any_of_its_sets_is_refused_and_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file 'uci_regression\.tar\.gz'"):
        opened(tmp_path, tasks=["yacht", "music_arousal"])


def test_alphabets_that_leave_nothing_new_are_refused(root: Path) -> None:
    first = read_drawings(root, 1, 8)
    with pytest.raises(
        ConfigError, match="a new one to test on are needed; found Alpha, Beta, Gamma and none"
    ):
        characters(first, first, read_one_shot(root, 8), Characters(side=8, enrolled=2), 0)


def test_without_scikit_learn_one_line_says_what_to_install(
    yacht: RegressionSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"needs scikit-learn .* \(pip install 'arch-lab\[tasks\]'\)"):
        regression.fit(yacht, RegressionProtocol(), SMALL, cell("yacht", "pca", None))

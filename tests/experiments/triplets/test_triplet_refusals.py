"""What a study of triplets refuses: one line each, before anything is trained."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arch_lab.data import DataError
from blocks.errors import ConfigError, UserError
from experiments.triplets import regression
from experiments.triplets.cohorts import Characters, characters
from experiments.triplets.readers.common import RegressionSet
from experiments.triplets.readers.omniglot import read_drawings, read_one_shot
from experiments.triplets.regression import RegressionProtocol
from tests.experiments.triplets.small_triplets import SMALL, opened, trial_of

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
        regression.fit(yacht, RegressionProtocol(), SMALL, trial_of("yacht", "pca", None))

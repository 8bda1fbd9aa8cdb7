"""No study and no fit of a model that reads the future: what is refused before training, and what is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arch_lab.cli import main
from arch_lab.laws import LeakError, require_causal
from arch_lab.models import Shape, recipe
from blocks import registry
from tests.small_fit import small_fit
from tests.small_study import small_study

LEAKS, HONEST = "tests.contracts.edge_leaks", "tests.contracts.honest_mixers"


@pytest.fixture(autouse=True)
def _registry_as_before() -> Iterator[None]:
    before = dict(registry._entries)
    yield
    registry._entries.clear()
    registry._entries.update(before)
    for module in [name for name in sys.modules if name.startswith("tests.contracts.")]:
        del sys.modules[module]


def study_of(folder: Path, *mixers: str, **changes: object) -> list[str]:
    """Command line of a study of these mixers at 200 tokens."""
    arms = [
        {"name": f"mine{i}", "architecture": "custom", "options": {"mixer": mixer}}
        for i, mixer in enumerate(mixers)
    ]
    training = {"sequence_length": 200, "batch_size": 1, "evaluations": 1}
    path = small_study(
        folder,
        arms=arms,
        training=training,
        budget={"params": 3.0e4, "train_flops": 9.0e8, "tolerance": 0.05},
        **changes,
    )
    return ["compare", str(path), "--output", str(folder / "runs")]


@pytest.mark.parametrize(
    ("mixer", "place"),
    [
        ("NextTokenFrom64", "t=64, s=65"),
        ("CarryOneChunkLate", "t=64, s=65"),
        ("OnlyAtOneLength", "200 tokens, evaluation mode"),
        ("OnlyWithGradients", "training mode"),
    ],
)
def test_a_leaking_arm_is_refused_before_training(mixer, place, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ARCH_LAB_CACHE", str(tmp_path / "cache"))
    assert main(study_of(tmp_path, f"{LEAKS}:{mixer}")) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"arm 'mine0': block layers.0.mixer ({mixer}) is not causal" in line and place in line
    assert not list(tmp_path.glob("runs/**/result.json"))
    certificate = json.loads((tmp_path / "runs/small/certificates/mine0.json").read_text())
    assert certificate["passed"] is False and certificate["leak"]["t"] < certificate["leak"]["s"]


ALL_HONEST = (
    "LinearAttention",
    "GatedDeltaRule",
    "DiagonalStateSpace",
    "CausalMaxPool",
    "ParallelScan",
    "DropsOut",
)


@pytest.mark.parametrize(
    "names", [("LinearAttention", "DropsOut"), pytest.param(ALL_HONEST, marks=pytest.mark.slow)]
)
def test_honest_unusual_mixers_run_to_the_verdict(names, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ARCH_LAB_CACHE", str(tmp_path / "cache"))
    assert main(study_of(tmp_path, *(f"{HONEST}:{name}" for name in names))) == 0, capsys.readouterr().err
    certificate = json.loads((tmp_path / "runs/small/certificates/mine0.json").read_text())
    assert certificate["passed"] and {200, 199, 128, 64} <= set(certificate["lengths"])
    assert certificate["modes"] == ["evaluation", "training"] and certificate["flops"] > 0
    assert len(certificate["positions"]["200"]) > 20


def test_a_fit_of_a_leaking_model_ends_before_its_first_score(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = ["--data.sequence_length=96", "--model.max_tokens=96", "--trainer.max_steps=2"]
    mixer = [
        "--model.architecture",
        "custom",
        "--model.options",
        json.dumps({"mixer": f"{LEAKS}:NextTokenFrom64"}),
    ]
    assert main(["fit", *small_fit(tmp_path), *sizes, *mixer, "--trainer.logger", "false"]) == 2
    output = capsys.readouterr()
    assert (
        "layers.0.mixer (NextTokenFrom64) is not causal" in output.err and "bits_per_byte" not in output.out
    )


# --- the same gate as a function ------------------------------------------------------------------------------------


def model(mixer: str, tokens: int = 256):
    return recipe("custom", {"mixer": mixer}).model(
        Shape(width=16, depth=2, ffn_width=16), vocabulary=61, max_tokens=tokens
    )


@pytest.mark.parametrize(
    ("mixer", "words"),
    [
        ("OnlyLongRows", "is not causal"),
        ("OnlyWholeTiles", "128 tokens, evaluation mode"),
        ("OnlyInTraining", "training mode"),
        ("OnlyLongRowsInTraining", "64 tokens, training mode"),
        ("OnlyWithoutGradients", "evaluation mode"),
        ("BatchMean", "mixes the rows of a batch"),
        ("BatchNorm", "training mode"),
        ("ChoiceInGroupsOf128", "128 tokens, evaluation mode"),
        ("RescaledByLength", "depends on the length of the row"),
        ("RemembersCalls", "remembers earlier calls"),
        ("OnePair", "t=150, s=151; 256 tokens, training mode"),
        ("OnlyAlone", "is not causal"),
        ("OnlyInFloat32", "is not causal in float32"),
        ("NoSegments", "forward takes no segments: write forward(self, x, segments=None)"),
        ("OneChannelOut", "forward returns (1, 17, 1) for an input of shape (1, 17, 16)"),
    ],
)
def test_a_leak_behind_an_edge_is_refused_with_its_block(mixer, words):
    with pytest.raises(LeakError) as error:
        require_causal(model(f"{LEAKS}:{mixer}"), vocabulary=61, lengths=[256], training_length=256)
    assert f"layers.0.mixer ({mixer})" in str(error.value) and words in str(error.value)


@pytest.mark.parametrize(
    "mixer",
    ["GatedDeltaRule", "DiagonalStateSpace", "CausalMaxPool", "ParallelScan", "BestEight", "RunningMax"],
)
def test_an_unusual_mixer_that_is_right_passes(mixer):
    require_causal(model(f"{HONEST}:{mixer}", 80), vocabulary=61, lengths=[80], training_length=80)


def test_a_channel_mixer_that_leaks_one_pair_is_refused():
    leaking = recipe("custom", {"mixer": f"{HONEST}:CausalMaxPool", "channel": f"{LEAKS}:ChannelPair"})
    with pytest.raises(LeakError, match=r"layers.0.channel \(ChannelPair\).*t=150, s=151; 256 tokens"):
        require_causal(
            leaking.model(Shape(width=16, depth=1, ffn_width=16), vocabulary=61, max_tokens=256),
            vocabulary=61,
            lengths=[256],
        )


@pytest.mark.slow
def test_a_certificate_names_the_lengths_where_only_mixers_ran():
    wide = recipe("gemma1").model(Shape(width=512, depth=1, ffn_width=4096), vocabulary=61, max_tokens=256)
    assert require_causal(wide, vocabulary=61, lengths=[256]).least_lengths == (255, 256)


def test_noise_in_training_is_told_apart_from_a_leak():
    assert require_causal(
        model(f"{HONEST}:DropsOut"), vocabulary=61, lengths=[256], training_length=256
    ).noise_in_training

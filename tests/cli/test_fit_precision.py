"""Precisions a study and ``fit`` offer, trained for real; and scores of a large vocabulary in bounded memory."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from arch_lab import cli
from arch_lab.models import Shape, recipe
from arch_lab.study.study import read_study
from arch_lab.training import scoring
from tests.small_study import small_study


def study_scores(folder: Path, precision: str) -> dict[str, float]:
    """Held-out bits per byte of each arm of a tiny study."""
    training = {"sequence_length": 32, "batch_size": 2, "evaluations": 1, "precision": precision}
    budget = {"params": 6.0e4, "train_flops": 4.0e8, "tolerance": 0.05}
    study = small_study(folder, name=precision, training=training, budget=budget)
    assert cli.main(["compare", str(study), "--output", str(folder / "runs"), "--quiet"]) == 0
    results = read_study(folder / "runs" / precision).results
    return {r.arm: r.scores["bits_per_byte"] for r in results}


@pytest.mark.slow
def test_a_study_in_bf16_mixed_trains_near_its_float32_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    half, single = study_scores(tmp_path, "bf16-mixed"), study_scores(tmp_path, "32-true")
    for arm in ("gemma3", "m2_gpt"):
        assert math.isfinite(half[arm]) and half[arm] != single[arm]
        assert half[arm] == pytest.approx(single[arm], abs=0.05)  # 8 bits of mantissa, a few dozen steps


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_scores_of_262144_tokens_hold_a_bounded_slice_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary, limit = 262_144, 1 << 26
    torch.manual_seed(0)
    model = (
        recipe("gemma3")
        .model(Shape(width=8, depth=1, ffn_width=8), vocabulary=vocabulary, max_tokens=80)
        .eval()
    )
    inputs, targets = torch.randint(vocabulary, (2, 2, 80))
    with torch.no_grad():
        whole = scoring.token_nats(model, inputs, targets)
        monkeypatch.setattr(scoring, "LOGIT_BYTES", limit)
        with Largest() as largest:
            sliced = scoring.token_nats(model, inputs, targets)
    assert largest.elements * 4 <= limit < inputs.numel() * vocabulary * 4
    torch.testing.assert_close(sliced.double().sum(), whole.double().sum(), rtol=1e-6, atol=0)


def test_slices_score_each_token_as_the_whole_does_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = (
        recipe("gemma2")
        .model(Shape(width=16, depth=2, ffn_width=16), vocabulary=257, max_tokens=32)
        .double()
        .eval()
    )
    inputs, targets = torch.randint(257, (2, 3, 31))
    with torch.no_grad():
        whole = scoring.token_nats(model, inputs, targets)
        monkeypatch.setattr(
            scoring, "LOGIT_BYTES", 7 * 4 * 257
        )  # seven tokens a slice, which does not divide 93
        torch.testing.assert_close(scoring.token_nats(model, inputs, targets), whole, rtol=1e-12, atol=1e-12)
    assert whole.dtype == torch.float64


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU scores larger batches")
@pytest.mark.parametrize(
    ("tokens", "vocabulary", "windows"), [(256, 1024, 8), (32, 257, 64), (4096, 1024, 1), (64, 262_144, 8)]
)
def test_a_batch_that_is_scored_fits_the_cache(tokens: int, vocabulary: int, windows: int) -> None:
    assert scoring.windows_at_once(tokens, vocabulary) == windows

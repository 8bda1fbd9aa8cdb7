"""SIGTERM and Ctrl-C save a checkpoint from which the same numbers follow."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from arch_lab import cli
from tests.small_fit import lines_of, scores_of, small_fit, weights_of


class Signalled(Callback):
    """Sends this process a signal at ``step``, in training or while the tuning split is scored."""

    def __init__(self, step: int = 3, number: int = 15, scoring: bool = False) -> None:
        self.step, self.number, self.scoring = step, number, scoring

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if not self.scoring and trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        if self.scoring and trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "step", "scoring"),
    [
        (signal.SIGTERM, 3, False),
        (signal.SIGINT, 5, False),
        (signal.SIGTERM, 4, True),
        (signal.SIGTERM, 8, False),
    ],
)
def test_an_interrupted_fit_goes_on_to_the_same_weights(
    number: signal.Signals,
    step: int,
    scoring: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ["fit", *small_fit(tmp_path), "--trainer.max_steps=8", "--trainer.val_check_interval=4"]
    whole = scores_of(capsys, *fit)
    when = [
        f"--trainer.callbacks.step={step}",
        f"--trainer.callbacks.number={int(number)}",
        f"--trainer.callbacks.scoring={scoring}",
    ]
    assert cli.main([*fit, "--trainer.callbacks=tests.cli.test_fit_signals.Signalled", *when]) == 128 + number
    (line,) = lines_of(capsys.readouterr().err)
    assert line.startswith(f"fit was interrupted by {number.name} at step {step}; to continue: arch-lab fit ")
    resumed = scores_of(capsys, *shlex.split(line.partition("arch-lab ")[2]), "--trainer.callbacks=null")
    assert resumed["steps"] == 8
    assert resumed["scores"]["tune/bits_per_byte"] == whole["scores"]["tune/bits_per_byte"]
    before, after = weights_of(whole["checkpoint"]), weights_of(resumed["checkpoint"])
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)

"""A logger that cannot start, a callback that fails: one line, its cause first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger

from tests.small_fit import failure_of, scores_of, small_fit

HERE = "tests.cli.test_fit_failures"
Capture = pytest.CaptureFixture[str]


class ClosedStore(CSVLogger):
    """A logger whose server does not answer."""

    def __init__(self, save_dir: str = "x", level: int = 1) -> None:
        raise RuntimeError("the file store is\nin maintenance mode")


class Remote(Logger):
    """A logger that keeps no folder, as one of a server."""

    name = "remote"  # type: ignore[assignment]
    version = "abc"  # type: ignore[assignment]

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def log_metrics(self, *_: Any, **__: Any) -> None: ...


class Failing(Callback):
    """A callback with a mistake in it."""

    def __init__(self, at: int = 1) -> None:
        self.at = at

    def on_train_batch_end(self, *_: Any) -> None:
        raise ZeroDivisionError(f"nothing to divide at {self.at}")


class Unready(Callback):
    """A callback that cannot be built."""

    def __init__(self) -> None:
        raise ValueError("no folder for it")


UNREADY = Unready.__init__.__code__.co_firstlineno + 1
STORE = ClosedStore.__init__.__code__.co_firstlineno + 1
MISTAKE = Failing.on_train_batch_end.__code__.co_firstlineno + 1


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return [*small_fit(tmp_path), "--trainer.max_steps=2"]


@pytest.mark.parametrize(
    ("option", "part"),
    [
        (
            [f"--trainer.logger={HERE}.ClosedStore"],
            f"test_fit_failures.py line {STORE}, in __init__: RuntimeError: the file store is in maintenance mode",
        ),
        (
            [f"--trainer.logger={HERE}.Absent"],
            f"trainer.logger: {HERE}.Absent: module '{HERE}' has no attribute 'Absent'",
        ),
        (
            [f"--trainer.callbacks={HERE}.Failing"],
            f"test_fit_failures.py line {MISTAKE}, in on_train_batch_end: ZeroDivisionError: nothing to divide at 1",
        ),
        (
            [f"--trainer.callbacks={HERE}.Unready"],
            f"test_fit_failures.py line {UNREADY}, in __init__: ValueError: no folder for it",
        ),
        (
            [f"--trainer.callbacks={HERE}.Failing", "--trainer.callbacks.at=x"],
            "trainer.callbacks: at: expected int, got x",
        ),
        (
            ["--trainer.callbacks=EarlyStopping"],
            "trainer.callbacks: the following arguments are required: monitor",
        ),
        (
            ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val_loss"],
            "`val_loss` which is not available",
        ),
        (["--trainer.precision=bf17"], "trainer.precision: 'bf17' is not valid here"),
        (["--trainer.strategy=fsdp"], "`fsdp` requires a GPU"),
        (["--trainer.strategy=ddp_spawn", "--trainer.devices=2"], "ddp_spawn is not supported; use ddp"),
        (
            ["--trainer.devices=3", "--trainer.strategy=ddp", "--trainer.max_steps=0"],
            "trainer.max_steps: must be at least 1",
        ),
    ],
)
def test_a_failure_of_the_users_parts_is_one_line(
    option: list[str], part: str, options: list[str], capsys: Capture
) -> None:
    assert part in failure_of(capsys, "fit", *options, *option)


@pytest.mark.parametrize("logger", ["CSVLogger", "TensorBoardLogger"])
def test_the_loggers_of_lightning_write_what_was_trained(
    logger: str, options: list[str], capsys: Capture
) -> None:
    result = scores_of(capsys, "fit", *options, f"--trainer.logger={logger}", "--trainer.log_every_n_steps=1")
    written = {"CSVLogger": "metrics.csv", "TensorBoardLogger": "events.out.tfevents*"}[logger]
    assert list(Path(result["results"]).glob(written))


def test_a_logger_without_a_folder_leaves_its_run_beside_the_checkpoint(
    options: list[str], capsys: Capture
) -> None:
    result = scores_of(capsys, "fit", *options, f"--trainer.logger={HERE}.Remote")
    folder = Path(result["results"])
    assert folder.parts[-2:] == ("remote", "abc") and (folder / "config.yaml").is_file()
    assert Path(result["checkpoint"]).is_relative_to(folder)


def test_a_block_by_import_path_is_trained_and_scored(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    example = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
    code = next(
        part for part in example.read_text().split("```python\n")[1:] if "class TokenShift" in part
    ).partition("```")[0]
    (tmp_path / "my_blocks.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    custom = ["--model.architecture=custom", '--model.options={"mixer": "my_blocks:TokenShift"}']
    fit = scores_of(capsys, "fit", *options, *custom)
    again = scores_of(capsys, "validate", "--ckpt_path", fit["checkpoint"], "--trust=my_blocks")["scores"]
    assert again["tune/bits_per_byte"] == fit["scores"]["tune/bits_per_byte"]

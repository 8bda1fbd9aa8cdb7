"""Parts of a trainer that are ours: the saved configuration, the progress bar, the last scored step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import SaveConfigCallback

from arch_lab.stored import Json


class SavedConfig(SaveConfigCallback):
    """The configuration of a run, without the checkpoint it went on from.

    Read again, it must not undo ``--ckpt_path``.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.config.pop("ckpt_path", None)
        self.save_to_log_dir = trainer.log_dir is not None
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self.save_to_log_dir:
            folder = results_folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            self.parser.save(
                self.config, str(folder / self.config_filename), skip_none=False, overwrite=self.overwrite
            )


def results_folder(trainer: Trainer) -> Path:
    """Folder of configuration and weights.

    As Lightning's checkpoints where the logger has none (a server, a database).
    """
    if trainer.log_dir is not None:
        return Path(trainer.log_dir)
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(trainer.default_root_dir, str(logger.name), version)


class StepBar(RichProgressBar):
    """Counts optimizer steps: 12 of 12, not batches of an epoch that has no end."""

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training  "

    def get_metrics(self, *arguments: Any) -> Json:
        return {name: value for name, value in super().get_metrics(*arguments).items() if name != "v_num"}

    def _update(self, progress_bar_id: Any, current: int, visible: bool = True, hard: bool = False) -> None:
        if progress_bar_id is not None and progress_bar_id == self.train_progress_bar_id:
            current = self.trainer.global_step
        super()._update(progress_bar_id, current, visible, hard)


class LastScore(Callback):
    """The step at which the tuning split was last scored."""

    step = -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.step = trainer.global_step

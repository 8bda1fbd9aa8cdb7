"""The user's loggers while one trial runs: opened before it trains, closed however it ends.

A logger changes no number: the random state is put back after every call. One that fails is not called again and costs
no training: the trial is saved at the end of the step, or runs to its result, before the failure is raised.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.fabric.loggers import Logger
from lightning.pytorch.loggers import CometLogger, WandbLogger

from arch_lab.study.loggers import LoggerConfig, TrialNames, build, cannot_start, entry_names
from blocks.errors import UserError
from blocks.user_code import describe

GO_ON = "fix it, or remove it from loggers; the same command continues, and no training is lost"


class LoggerError(UserError):
    """A logger that does not work: its place in the study, its class, the file and line, and what to do."""


class TrialLoggers:
    """The loggers of one trial; with none, every method does nothing."""

    def __init__(self, configs: Sequence[LoggerConfig], names: TrialNames) -> None:
        self._configs, self._names = configs, names
        self._open: dict[str, Logger] = {}  # place in the study -> logger
        self.failure: LoggerError | None = None  # the first

    @contextlib.contextmanager
    def opened(self, hparams: Mapping[str, Any]) -> Iterator[None]:
        """Inside, records are written. Raises: LoggerError before anything is trained when a logger cannot start."""
        try:
            self._start(hparams)
            yield
        except BaseException:
            self.close("failed")
            raise

    def _start(self, hparams: Mapping[str, Any]) -> None:
        for where, config in entry_names(self._configs, f"study {self._names.study!r}.loggers"):
            try:
                with _isolated():
                    logger = build(config, self._names, where)
                    self._open[where] = logger
                    logger.log_hyperparams(dict(hparams))
                    logger.save()
            except UserError:
                raise
            except (Exception, SystemExit) as error:
                raise LoggerError(f"{where}: {cannot_start(config, error)}") from error

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Log one record of the trial, tag -> value."""
        for where, logger in list(self._open.items()):
            self._call(where, logger, f"step {step}", lambda logger: _log(logger, scalars, step))

    def close(self, status: str) -> None:
        """End every logger; ``status`` is "success" or "failed", as Lightning says it."""
        for where, logger in list(self._open.items()):
            self._call(where, logger, "its end", lambda logger: _end(logger, status))
        self._open.clear()

    def _call(self, where: str, logger: Logger, moment: str, call: Callable[[Logger], None]) -> None:
        try:
            with _isolated():
                call(logger)
        except (Exception, SystemExit) as error:
            del self._open[where]
            what = f"{type(logger).__name__} failed at {moment} of {self._names.trial}: {describe(error)}"
            failure = LoggerError(f"{where}: {what}; {GO_ON}")
            failure.__cause__ = error
            self.failure = self.failure or failure
            with contextlib.suppress(Exception, SystemExit), _isolated():
                _end(logger, "failed")


def _log(logger: Logger, scalars: Mapping[str, float], step: int) -> None:
    logger.log_metrics(dict(scalars), step)
    logger.save()


def _end(logger: Logger, status: str) -> None:
    """Finalize; a run of W&B or Comet would otherwise stay open and take the records of the next trial."""
    logger.finalize(status)
    if isinstance(logger, WandbLogger):
        logger.experiment.finish(exit_code=int(status != "success"))
    elif isinstance(logger, CometLogger):
        logger.experiment.end()


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Inside, a logger may draw random numbers and print: neither the trial nor what --json prints changes."""
    cpu, numbers, python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:  # Lightning's isolate_rng does not put them back after an error
        torch.set_rng_state(cpu)
        np.random.set_state(numbers)
        random.setstate(python)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)

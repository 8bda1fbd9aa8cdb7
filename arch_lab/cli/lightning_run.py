"""The LightningCLI behind ``fit | validate | test | predict``, with errors a person can read.

LightningCLI answers a wrong key with fifty lines of usage and never names the right one. Here every parser
error is one line with the nearest key, a checkpoint is checked before it is used, and ``--model.help`` prints
one group of keys. Importing this module imports lightning (seconds); only ``verbs.fit`` does, when a run
really starts.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ActionConfigFile, Namespace
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher

from arch_lab.checkpoints import open_decoder
from arch_lab.checkpoints.initialise import initial_settings, start_from
from arch_lab.cli.fit_checkpoint import SavedRun, plain, read_checkpoint, same
from arch_lab.cli.fit_failures import explained, one_line
from arch_lab.cli.fit_keys import Parser, group_help
from arch_lab.cli.fit_options import Command
from arch_lab.cli.fit_parts import LastScore, SavedConfig, StepBar, results_folder
from arch_lab.cli.ranks import run_ranks
from arch_lab.cli.verbs import UsageError
from arch_lab.data import WindowOrder
from arch_lab.files import atomic_path
from arch_lab.stored import Json
from arch_lab.study.experiment import Fittable, load_experiment
from arch_lab.training.callbacks import RandomState
from arch_lab.training.certification import Certification
from arch_lab.training.interruption import Interruption
from blocks.config import Options

GROUPS = ("model", "data", "trainer")
LOGGER = {
    "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
    "init_args": {"save_dir": "runs", "name": "fit"},
}
NEVER_STOPS = (
    "note: EarlyStopping cannot stop this run; it checks only when the tuning split is scored, "
    "which is once, at the end: give --trainer.val_check_interval N (batches)"
)
STEPS = 1000  # where nothing says how long to train


def start(command: Command) -> int:
    """Run ``command`` and return its exit code.

    Raises: UsageError, one line, for whatever its arguments cause.
    """
    verb, keeps_config = command.verb, command.verb in ("fit", "predict")
    group = next((g for g in GROUPS if f"--{g}.help" in command.arguments), None)
    model_class, data_class = lightning_classes(command.experiment)
    saved = (
        read_checkpoint(command.checkpoint, data_class, command.trust, resume=verb == "fit")
        if command.checkpoint
        else None
    )
    interruption = Interruption()
    cls = type("CommandLine", (CommandLine,), {"command": command, "group": group, "saved": saved})
    callbacks = [Certification(partial(print, file=sys.stderr)), RandomState(), interruption]
    precision = saved.precision if saved and verb != "fit" else None
    defaults: Options = {
        "enable_model_summary": False,
        "callbacks": callbacks,
        "logger": LOGGER if keeps_config else False,
        **({"precision": precision} if precision else {}),
    }
    try:
        with interruption.listening():
            cli = cls(
                model_class,
                data_class,
                args=[verb, *command.arguments, *(["--ckpt_path", saved.path] if saved else [])],
                seed_everything_default=0,
                auto_configure_optimizers=False,
                save_config_callback=SavedConfig if keeps_config else None,
                save_config_kwargs={"overwrite": True},
                trainer_defaults=defaults,
            )
    except Exception as error:
        explanation = explained(error)
        if explanation is None:
            raise
        raise explanation from error
    return cli.exit_code


def lightning_classes(name: str) -> tuple[type[LightningModule], type[LightningDataModule]]:
    """Module and data module of an experiment.

    Raises: ConfigError for an unknown one, UsageError for one without them.
    """
    experiment = load_experiment(name)
    if not isinstance(experiment, Fittable):
        raise UsageError(
            f"--experiment: {name} has no Lightning module for a single run; "
            "arch-lab compare runs its studies"
        )
    return experiment.fit_classes()


class CommandLine(LightningCLI):
    command: Command
    group: str | None
    saved: SavedRun | None
    exit_code = 0
    steps = STEPS

    def init_parser(self, **options: Any) -> LightningArgumentParser:
        parser = Parser(**options)
        parser.allow_abbrev = False  # else a misspelt `max_epoch` is taken for `max_epochs` without a word
        parser.add_argument(
            "-c",
            "--config",
            action=ActionConfigFile,
            help="YAML file with any of the keys; may be repeated, later files win",
        )
        return parser

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        verb = self.command.verb
        return {
            verb: LightningCLI.subcommands()[verb]
        }  # parsers of the other verbs would be built for nothing

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # a model has as many rows as its tokenizer has tokens: two settings that must agree are one setting
        parser.link_arguments("data", "model.vocabulary", compute_fn=_vocabulary, apply_on="instantiate")
        if self.saved:
            settings = {f"model.{key}": value for key, value in self.saved.model.items()}
            settings |= {f"data.{key}": value for key, value in self.saved.data.items()}
            try:
                parser.set_defaults(settings)
            except (KeyError, TypeError, ValueError) as error:
                raise UsageError(
                    f"--ckpt_path: {self.saved.path}: its settings are not those of a fit "
                    f"({one_line(str(error))})"
                ) from None

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if self.group:
            print(group_help(self._parser(self.command.verb), self.group))
            raise SystemExit(0)
        super().parse_arguments(parser, args)
        for note in self.command.notes:
            print(note, file=sys.stderr)

    def _parse_ckpt_path(self) -> None:
        """Settings that contradict the checkpoint are an error in the model, and a line in the data.

        Lightning's own version overrides what was given without a word, and trips over linked settings.
        """
        if not self.saved:
            self._take_initial()
            return
        config = self.config[self.command.verb]
        for key, value in self.saved.model.items():
            if not same(config.model[key], value):
                raise UsageError(
                    f"model.{key}: {plain(config.model[key])!r} contradicts the checkpoint, "
                    f"which was trained with {value!r}; leave it out"
                )
        if self.saved.data and config.data.source != self.saved.data["source"]:
            for key in ("files", "hub"):
                if key != config.data.source and same(config.data[key], self.saved.data.get(key)):
                    config.data[key] = None
        for key, value in self.saved.data.items():
            if not same(config.data[key], value):
                print(
                    f"note: data.{key}: {plain(config.data[key])} (the checkpoint was trained with {value})",
                    file=sys.stderr,
                )

    def _take_initial(self) -> None:
        """Architecture and shape are those of the checkpoint that training starts from."""
        verb = self.command.verb
        model = self.config[verb].get("model")
        path = model.get("initialise_from") if model else None
        if not path:
            return
        opened = open_decoder(Path(path).expanduser(), self.command.trust)
        model_class: Any = self.model_class
        defaults = {name: p.default for name, p in signature(model_class).parameters.items()}
        settings = initial_settings(opened, model.as_dict(), defaults, "--model.")
        self.config = self.parser.parse_object({verb: {"model": settings}}, self.config)

    def before_instantiate_classes(self) -> None:
        config = self.config[self.command.verb]
        if self.command.verb == "fit":
            for key, value in (
                ("trainer.max_steps", config.trainer.max_steps),
                ("data.steps", config.data.steps),
            ):
                if value is not None and value < 1 and value != -1:
                    raise UsageError(f"{key}: must be at least 1, got {value}")

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """The trainer, with one number of steps for loader, schedule and end."""
        if self.saved:
            self.saved.check_data(self.datamodule.data)
            if self.saved.fingerprint not in (None, self.datamodule.data.fingerprint):
                print("note: the text is not the one the checkpoint was trained on", file=sys.stderr)
        config = self.config[self.command.verb]
        extra: list[Callback] = []
        if self.command.verb == "fit":
            self.steps = config.trainer.max_steps = self.datamodule.steps = self._steps(config)
            for key, value in self.datamodule.settings.items():
                config.data[key] = (
                    value  # with its defaults, so that the saved configuration says what was trained on
                )
            # the steps end the run; a pass over the loader is the whole of it
            options |= {"max_steps": self.steps, "max_epochs": -1}
            self.last_score = LastScore()
            extra.append(self.last_score)
            self.model.start_from = start_from
        callbacks = self._get(self.config_init, "trainer", default={}).get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        has_bar = any(isinstance(c, ProgressBar) for c in callbacks)
        if config.trainer.enable_progress_bar is not False and not has_bar:
            if sys.stderr.isatty() and not self.command.json:
                extra.append(StepBar())
            else:
                options |= {"enable_progress_bar": False}
        stops_early = any(isinstance(c, EarlyStopping) for c in callbacks)
        if stops_early and config.trainer.val_check_interval in (None, 1.0):
            print(NEVER_STOPS, file=sys.stderr)
        trainer = super().instantiate_trainer(callbacks=[*callbacks, *extra], **options)
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise UsageError(
                f"trainer.strategy: {config.trainer.strategy} is not supported; "
                "use ddp, which starts a process per device"
            )
        return trainer

    def _steps(self, config: Namespace) -> int:
        """The lowest of the limits given, in optimizer steps."""
        limits = [n for n in (config.trainer.max_steps, config.data.steps) if n is not None and n > 0]
        if config.trainer.max_epochs is not None and config.trainer.max_epochs > 0:
            data = self.datamodule
            order = WindowOrder(data.data.train, tokens=data.tokens, batch=data.batch, seed=data.seed)
            limits.append(
                max(
                    1,
                    config.trainer.max_epochs
                    * order.steps_per_epoch
                    // config.trainer.accumulate_grad_batches,
                )
            )
        return min(limits, default=STEPS)

    def _run_subcommand(self, subcommand: str) -> None:
        launcher = self.trainer.strategy.launcher
        if (
            isinstance(launcher, _SubprocessScriptLauncher)
            and not launcher.cluster_environment.creates_processes_externally
        ):
            self.exit_code = self._run_ranks(launcher.cluster_environment)
        else:
            super()._run_subcommand(subcommand)

    def _run_ranks(self, environment: ClusterEnvironment) -> int:
        if self.command.verb == "predict":
            raise UsageError(
                "predict: runs on one device, so that its predictions are in one file; "
                "give --trainer.devices 1"
            )
        arguments = [self.command.verb, *self.command.original]
        ranks, nodes = self.trainer.num_devices, self.trainer.num_nodes
        del self.model, self.datamodule  # each rank builds its own
        return run_ranks(arguments, ranks=ranks, port=environment.main_port, nodes=nodes)

    def fit(self, **arguments: Any) -> None:
        self.trainer.fit(**arguments)
        scores = self._metrics()
        scored = self.last_score.step == self.trainer.global_step or getattr(
            self.trainer, "fast_dev_run", False
        )
        if not scored and self.trainer.limit_val_batches != 0:
            self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
            scores |= self._metrics()
        folder = results_folder(self.trainer)
        checkpoint = self._final_checkpoint(folder)
        facts = {"steps": self.trainer.global_step, "checkpoint": checkpoint, "results": str(folder)}
        self._show(scores, {key: value for key, value in facts.items() if value is not None})

    def _final_checkpoint(self, folder: Path) -> str | None:
        """The checkpoint of the weights that the printed scores are of; saved here unless Lightning did."""
        step, keepers = self.trainer.global_step, self.trainer.checkpoint_callbacks
        if not keepers or getattr(self.trainer, "fast_dev_run", False):
            return None
        for keeper in keepers:
            if getattr(keeper, "_last_global_step_saved", -1) == step:
                return str(getattr(keeper, "_last_checkpoint_saved", "")) or None
        path = folder / "checkpoints" / f"final-step={step}.ckpt"
        self.trainer.save_checkpoint(path)
        return str(path)

    def validate(self, **arguments: Any) -> None:
        self.trainer.validate(**{**arguments, "verbose": False})
        self._show(self._metrics(), {})

    def test(self, **arguments: Any) -> None:
        self.trainer.test(**{**arguments, "verbose": False})
        self._show(self._metrics(), {})

    def predict(self, **arguments: Any) -> None:
        """Keeps what Trainer.predict returns, which LightningCLI drops."""
        batches = self.trainer.predict(**arguments)
        path = Path(self.trainer.log_dir or ".") / "predictions.pt"
        with atomic_path(path) as temporary:
            torch.save(batches, temporary)
        self._show({}, {"predictions": str(path)})

    def _metrics(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.trainer.callback_metrics.items()}

    def _show(self, scores: dict[str, float], facts: Json) -> None:
        if not self.trainer.is_global_zero:
            return
        if self.command.json:
            print(json.dumps({"scores": scores, **facts}, indent=1))
            return
        lines = [f"{name}: {decimal(value)}" for name, value in sorted(scores.items())]
        print("\n".join(lines + [f"{name}: {value}" for name, value in facts.items()]))


def decimal(value: float) -> str:
    """Four decimals; five digits of what is too large or too small for them."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.4e}"


def _vocabulary(data: Any) -> int:
    return data.vocabulary

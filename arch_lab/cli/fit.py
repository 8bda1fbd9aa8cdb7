"""``arch-lab fit | validate | test | predict``: one run, configured through LightningCLI.

LightningCLI takes seven seconds to import, so plain ``--help`` is answered here; everything else is
lightning_run's.
"""

from __future__ import annotations

import logging
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from arch_lab.cli import ranks
from arch_lab.cli.fit_options import Command, read_command
from arch_lab.cli.verbs import VERBS
from arch_lab.memory import keep_memory

if TYPE_CHECKING:  # imports torch
    from arch_lab.training.interruption import Interrupted

HELP = """usage: arch-lab {verb} [--config FILE ...] [--KEY VALUE ...]

{text}.

  --config FILE              YAML file with the keys below; may be repeated, later files win
  --print_config             print the resulting configuration and stop
  --ckpt_path PATH           {checkpoint}
  --trust MODULE             your module that defines blocks of the checkpoint; no other is imported
  --experiment NAME          whose Lightning module to run (default perplexity); a name or
                             package.module:EXPERIMENT
  --seed_everything N        seed of the weights and of the order of batches
  --json                     print the scores as JSON

  --model.architecture NAME  gemma1, gemma2, gemma3, m2_gpt, hybrid, custom
  --model.options JSON       options of that architecture
  --model.width N            model width
  --model.depth N            number of layers
  --model.ffn_width N        hidden width of the channel mixers
  --model.learning_rate X    peak rate of AdamW (warm-up, then cosine)
  --data.source NAME         embedded, files or hub; the keys are those of a study's data block
  --data.files.train FILE    text to train on, for source files (also .validation, .tune, .test)
  --data.hub.name NAME       dataset on the hub, for source hub (also .subset, .revision, …)
  --data.tokenizer.kind K    bytes, bpe or file (also .vocabulary, .path)
  --data.sequence_length N   tokens in a window
  --data.batch_size N        windows in a batch, over all devices

  --trainer.max_steps N      optimizer steps to train (default 1000); the schedule follows
  --trainer.devices N        devices to train on, with --trainer.strategy ddp (on GPUs also fsdp)
  --trainer.precision P      32-true, bf16-mixed, ...

Every key of a group: arch-lab {verb} --model.help (or --data.help, --trainer.help)
Example: {example}
{results}"""

TRAINED = {
    "checkpoint": "continue from this checkpoint, or folder of a fit, with its model and data settings",
    "example": "arch-lab fit --config experiments/perplexity/fit.yaml --model.depth 4",
    "results": "Results: runs/fit/version_N with config.yaml, checkpoints and TensorBoard events",
}
SCORED = {
    "checkpoint": "checkpoint, or folder of a run or fit; its settings are the defaults of the keys below",
    "example": "arch-lab {verb} --ckpt_path runs/fit/version_0/checkpoints/epoch=0-step=200.ckpt",
    "results": "Results: on the terminal (predict: predictions.pt in runs/fit/version_N)",
}
NOISE = (
    "many workers",
    "sampler has shuffling enabled",
    "log_every_n_steps",
    "isinstance\\(treespec",
    "srun",
    "dirpath has changed",
    "sync_dist=True",  # the metrics are sums over all ranks already
    "callbacks used to create the checkpoint",  # scoring needs none of them
)


def main(verb: str, argv: list[str]) -> int:
    if "-h" in argv or "--help" in argv or (verb == "fit" and not argv):
        print(help_text(verb))
        return 0 if argv else 2
    if ranks.is_rank():
        return run_as_rank(verb, argv)
    code, interrupted = run(read_command(verb, argv))
    if interrupted:
        print(interrupted, file=sys.stderr)
    return code


def help_text(verb: str) -> str:
    texts = {key: text.format(verb=verb) for key, text in (TRAINED if verb == "fit" else SCORED).items()}
    return HELP.format(verb=verb, text=VERBS[verb].help[:1].upper() + VERBS[verb].help[1:], **texts)


def run(command: Command) -> tuple[int, str]:
    """Exit code, and the line to print when a signal ended the run (else empty). Raises: UsageError."""
    hush()
    keep_memory()  # before torch is imported
    from arch_lab.cli.lightning_run import start
    from arch_lab.training.interruption import Interrupted

    # LightningCLI warns when the process has arguments beside the ones it is given; they are the same
    process_arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        return start(command), ""
    except Interrupted as stop:
        return stop.exit_code, how_to_resume(stop, command.verb)
    finally:
        sys.argv = process_arguments


def run_as_rank(verb: str, argv: list[str]) -> int:
    """Run one of several processes; the parent reports how it ended."""
    from arch_lab.cli.failures import explain

    ranks.end_with_watcher()
    try:
        code, message = run(read_command(verb, argv))
    except Exception as error:
        message, code = explain(error)
        ranks.report(message, code)
        return code
    if message:
        ranks.report(message, code, interrupted=True)
    return code


def how_to_resume(stop: Interrupted, verb: str) -> str:
    if stop.checkpoint is None:
        return f"{verb} was interrupted by {stop} with nothing to save; the same command starts again"
    config = Path(stop.checkpoint).parents[1] / "config.yaml"
    options = ["--config", str(config), "--ckpt_path", str(stop.checkpoint)]
    return (
        f"{verb} was interrupted by {stop} at step {stop.step}; to continue: "
        f"arch-lab {verb} {shlex.join(options)}"
    )


def hush() -> None:
    """Silence unrequested advice and deprecations between pinned libraries."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for text in NOISE:
        warnings.filterwarnings("ignore", message=f".*{text}")
    import lightning.pytorch  # noqa: F401  the import resets the levels, so it comes first

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    profiler = logging.getLogger("lightning.pytorch.profilers.profiler")  # what --trainer.profiler asked for
    profiler.setLevel(logging.INFO)
    profiler.handlers, profiler.propagate = [OnStderr()], False


class OnStderr(logging.Handler):
    """A log handler that prints plain lines to the current standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)

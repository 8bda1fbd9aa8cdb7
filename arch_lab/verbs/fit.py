"""``arch-lab fit | validate | test | predict``: one run, configured through LightningCLI.

LightningCLI takes seven seconds to import, so plain ``--help`` is answered here; everything else is lightning_run's.
"""

from __future__ import annotations

import logging
import sys
import warnings

from arch_lab.verbs import VERBS

HELP = """usage: arch-lab {verb} [--config FILE ...] [--KEY VALUE ...]

{text}.

  --config FILE              YAML with the keys below; given twice, the later file wins
  --print_config             print the configuration that results, and stop
  --ckpt_path PATH           checkpoint, or folder of a run or fit (fit: resume; else: the model to run)
  --trust MODULE             a module of yours that the checkpoint's blocks come from; no other is imported
  --seed_everything N        seed of weights and order

  --model.architecture NAME  gemma1, gemma2, gemma3, m2_gpt, hybrid, custom
  --model.options JSON       options of that architecture
  --model.width N            model width
  --model.depth N            number of layers
  --model.ffn_width N        hidden width of the channel mixers
  --model.learning_rate X    peak rate of AdamW (warm-up, then cosine)
  --data.source NAME         embedded, files or hub
  --data.sequence_length N   tokens in a window
  --data.batch_size N        windows in a step

  --trainer.max_steps N      steps to train (default 1000)
  --trainer.devices N        devices to train on (with --trainer.strategy ddp or fsdp)
  --trainer.precision P      32-true, bf16-mixed, ...

Every key of a group: arch-lab {verb} --model.help (or --data.help, --trainer.help)
Example: arch-lab fit --config experiments/perplexity/fit.yaml --model.depth 4
Results: runs/fit/version_N with config.yaml, checkpoints and TensorBoard events"""

NOISE = ("many workers", "sampler has shuffling enabled", "log_every_n_steps", "isinstance\\(treespec", "srun", "dirpath has changed")


def main(verb: str, argv: list[str]) -> int:
    if "-h" in argv or "--help" in argv:
        print(HELP.format(verb=verb, text=VERBS[verb].help[:1].upper() + VERBS[verb].help[1:]))
        return 0
    hush()
    from arch_lab.verbs.lightning_run import start

    # LightningCLI warns when the process has arguments beside the ones it is given; they are the same
    process_arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        start(verb, argv)
    finally:
        sys.argv = process_arguments
    return 0


def hush() -> None:
    """Silence advice that nobody asked for, and deprecations between two libraries that are pinned against each other."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for text in NOISE:
        warnings.filterwarnings("ignore", message=f".*{text}")
    import lightning.pytorch  # noqa: F401  the import resets the levels, so it comes first

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

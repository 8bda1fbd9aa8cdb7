"""The arms: bodies of a finished masked study, each at the learning rate that study chose for it.

A study whose arms do not meet one budget is refused here: what is fine-tuned must have cost the same before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from arch_lab.architecture import Shape, recipe
from arch_lab.report import html
from arch_lab.study import files
from arch_lab.study.body import Body, load_body
from arch_lab.study.load import CheckpointError
from arch_lab.study.run import MODEL
from arch_lab.training.callbacks import intact
from blocks.errors import ConfigError, did_you_mean
from experiments.glue.config import GlueStudyConfig

FRESH = 1 << 40  # added to the seed of a fresh body, so that its numbers are not those of the head above it


@dataclass(frozen=True, kw_only=True)
class PretrainedArm:
    """``runs``: pretraining seed -> folder, the first one standing in for seeds that were not pretrained."""

    name: str
    width: int
    runs: dict[int, Path]
    facts: dict[str, Any] = field(default_factory=dict)

    def seed(self, seed: int) -> int:
        return seed if seed in self.runs else next(iter(self.runs))

    def body(self, seed: int, *, scratch: bool = False) -> Body:
        """In evaluation mode; ``scratch``: the same blocks with fresh weights, a function of ``seed``."""
        found = load_body(self.runs[self.seed(seed)])
        if not scratch:
            return found
        config = found.config
        shape = Shape(width=config["width"], depth=config["depth"], ffn_width=config["ffn_width"])
        torch.manual_seed(seed + FRESH)
        network = recipe(config["architecture"], config["options"]).network(
            shape, vocabulary=config["vocabulary"], max_tokens=config["training"]["sequence_length"]
        )
        return Body(network, found.tokenizer, config).eval()  # type: ignore[arg-type]

    def fingerprint(self, seed: int) -> str:
        """Of the weights that fine-tuning seed starts from."""
        return (self.runs[self.seed(seed)] / f"{MODEL}.sha256").read_text(encoding="utf-8").strip()


def open_arms(config: GlueStudyConfig) -> dict[str, PretrainedArm]:
    """Raises: UserError, one line: no such study, not a masked one, arms that are not matched or not there, weights that are damaged."""
    folder = Path(config.pretrained).expanduser()
    said = files.read_json(folder / "study.json")
    kind = said.get("experiment") if isinstance(said, dict) else "masked"
    if kind != "masked":
        raise ConfigError(f"pretrained: {folder} is a study of experiment {kind!r}; GLUE starts from a masked one (experiments/masked)")
    study = html.load(folder)
    known = {arm["name"]: arm for arm in study["arms"]}
    wanted = config.arms or list(known)
    for name in wanted:
        if name not in known:
            raise ConfigError(f"arms: {folder} has no arm {name!r}{did_you_mean(name, known)}")
    return {name: _arm(folder, study, known[name]) for name in wanted}


def _arm(folder: Path, study: dict[str, Any], arm: dict[str, Any]) -> PretrainedArm:
    name, rate = arm["name"], study["selected"].get(arm["name"])
    finished = [r for r in study["results"] if r["arm"] == name and r["learning_rate"] == rate and r["status"] == "finished"]
    if rate is None or not finished:
        raise ConfigError(
            f"pretrained: arm {name!r} of {folder} has no finished run, so there is nothing to fine-tune; leave it out of arms"
        )
    runs = {r["seed"]: folder / "runs" / name / f"lr-{rate:g}_seed-{r['seed']}" for r in sorted(finished, key=lambda r: r["seed"])}
    for run in runs.values():
        if not intact(run / MODEL):
            raise CheckpointError(f"{run / MODEL} is missing or damaged; run arch-lab compare on that study again")
    bits = sum(r["masked_bits"] for r in finished) / len(finished)
    facts = {
        "architecture": arm["architecture"],
        "shape": f"{arm['width']} × {arm['depth']}",
        "body": arm["parameters"]["body"],
        "embedding": arm["parameters"]["embedding"],
        "pretraining": f"{bits:.3f} bits per masked token at {rate:g}, seeds {', '.join(map(str, runs))}",
    }
    return PretrainedArm(name=name, width=arm["width"], runs=runs, facts=facts)

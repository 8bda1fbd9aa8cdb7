"""The noise of an experiment on file: what the last A/A control in a folder of runs measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from arch_lab import sealed
from arch_lab.judge.control import Noise, noise_of
from arch_lab.judge.records import Pair
from arch_lab.study.plan import Plan
from arch_lab.study.study import STUDY
from blocks.errors import UserError

NO_CONTROL = b'"controls": []'


def with_noise(plan: Plan, runs: Path) -> Plan:
    """``plan`` with the noise of the last control of its experiment and measure in ``runs``, if there is one."""
    if plan.has_tasks or not plan.has_models:
        return plan
    return replace(plan, noise=noise_on_file(runs, plan))


def noise_on_file(runs: Path, plan: Plan) -> Noise | None:
    """Noise of the latest study in ``runs`` with a control of the same experiment and first measure."""
    studies = sorted(runs.glob(f"*/{STUDY}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in studies:
        if NO_CONTROL in path.read_bytes():  # nearly all of them: a search is faster than reading the JSON
            continue
        content = sealed.read_or_none(path)
        if content is None or content.get("experiment") != plan.experiment or not content.get("controls"):
            continue
        try:
            pairs = [Pair.from_json(pair) for pair in content["controls"]]
        except UserError:
            continue  # of another version
        noise = noise_of(pairs, source=str(path.parent))
        if noise is not None and noise.measure == plan.primary.name:
            return noise
    return None

"""What earlier studies in a folder of runs measured: the noise of an experiment, and its compute-optimal sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from arch_lab import sealed
from arch_lab.judge.control import Noise, noise_of
from arch_lab.judge.records import Pair
from arch_lab.judge.regime import FittedRule
from arch_lab.judge.slices import Slices
from arch_lab.stored import Json
from arch_lab.study.judged_sizes import SLICES
from arch_lab.study.plan import Plan
from arch_lab.study.study import STUDY
from blocks.errors import UserError

NO_CONTROL, NO_LAWS = b'"controls": []', b'"slices": {'


def with_earlier(plan: Plan, runs: Path) -> Plan:
    """``plan`` with the noise and the rule of sizes of its experiment and measure from earlier studies in ``runs``."""
    if not plan.has_models:
        return plan
    noise = None if plan.has_tasks else noise_on_file(runs, plan)
    return replace(plan, noise=noise, rule=rule_on_file(runs, plan))


def noise_on_file(runs: Path, plan: Plan) -> Noise | None:
    """Noise of the latest study in ``runs`` with a control of the same experiment and first measure."""
    for path in _studies(runs):
        if NO_CONTROL in path.read_bytes():  # nearly all of them: a search is faster than reading the JSON
            continue
        content = _content(path, plan)
        if content is None or not content.get("controls"):
            continue
        try:
            pairs = [Pair.from_json(pair) for pair in content["controls"]]
        except UserError:
            continue  # of another version
        noise = noise_of(pairs, source=str(path.parent))
        if noise is not None and noise.measure == plan.primary.name:
            return noise
    return None


def rule_on_file(runs: Path, plan: Plan) -> FittedRule | None:
    """Laws of the latest study in ``runs`` with some of the same experiment and measure, for arms that it had too."""
    for path in _studies(runs):
        if NO_LAWS not in path.read_bytes():
            continue
        content = _content(path, plan)
        try:
            slices = Slices.from_json((content or {})["details"][SLICES])
        except (UserError, KeyError, TypeError):
            continue
        if content is None or not slices.fits or slices.measure != plan.primary.name:
            continue
        fitted = slices.fits[0].laws
        known = {
            (arm.get("architecture"), str(arm.get("options"))): fitted[arm["name"]]
            for arm in content["arms"]
            if arm.get("name") in fitted
        }
        laws = {
            arm.name: law
            for arm in plan.arms
            if (law := known.get((arm.architecture, str(arm.options)))) is not None
        }
        if laws:
            return FittedRule(source=str(path.parent), laws=laws)
    return None


def _studies(runs: Path) -> Iterator[Path]:
    """Every study.json, the latest first."""
    yield from sorted(runs.glob(f"*/{STUDY}"), key=lambda path: path.stat().st_mtime, reverse=True)


def _content(path: Path, plan: Plan) -> Json | None:
    """Of a whole study.json of the same experiment."""
    content = sealed.read_or_none(path)
    return content if content is not None and content.get("experiment") == plan.experiment else None

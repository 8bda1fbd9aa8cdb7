"""Write a forecast of a finished study, and hold a later study against it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from arch_lab import sealed, units
from arch_lab.judge.forecast import SAME_BUDGET, VERSION, Forecast, Outcomes, expected, outcomes
from arch_lab.judge.records import Judgement
from arch_lab.judge.slices import Slices, frontiers
from arch_lab.stored import Json
from arch_lab.study.judged_sizes import SLICES, models_of
from arch_lab.study.plan import Plan
from arch_lab.study.sources import PACKAGE_ROOT
from arch_lab.study.study import Study
from blocks.errors import ConfigError

ADVICE = "write it again with arch-lab forecast, before anything is trained at its budgets"
FACTORS = (3, 10)  # budgets of a forecast where none are given: these times the largest that was trained


def forecast_of(study: Study, budgets: Sequence[float] = ()) -> Forecast:
    """What the laws of a study say at larger budgets, and how sure they are.

    Raises: ConfigError for a study without sizes, laws that cannot be fitted, or a budget that was trained.
    """
    if SLICES not in study.details:
        raise ConfigError(
            f"forecast: study {study.study!r} has no sizes (budget.sizes), so there is no law to go by"
        )
    largest = max(study.budgets)
    wanted = sorted(budgets) or [factor * largest for factor in FACTORS]
    if wanted[0] <= largest * (1 + SAME_BUDGET):
        raise ConfigError(
            f"forecast: {units.short(wanted[0], 'FLOP')} is not beyond {units.short(largest, 'FLOP')}, "
            "the largest budget that was trained"
        )
    slices = Slices.from_json(study.details[SLICES])
    fitted = frontiers(study.results, slices.slices, models_of(study), study.primary)
    losses, differences = expected(fitted, wanted)
    return Forecast(
        source=study.study,
        identity=study.identity,
        measure=study.primary.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        trained_to=largest,
        expected=losses,
        differences=differences,
    )


def write_forecast(path: Path, forecast: Forecast) -> str:
    """Write a forecast sealed; returns its checksum. Raises: ConfigError when the file is there already."""
    if path.exists():
        raise ConfigError(
            f"forecast: {path} is there already; a forecast is written once (delete it, or name another)"
        )
    content: Json = sealed.write(path, forecast.to_json())
    return str(content[sealed.CHECKSUM])


def read_forecast(name: str) -> tuple[Forecast, str]:
    """A forecast and its checksum; a relative path starts at the current folder, or at arch-lab's own.

    Raises: DamagedError for a file that is missing or was edited; ConfigError for one of another version.
    """
    path = Path(name)
    if not path.is_absolute() and not path.exists() and (PACKAGE_ROOT / path).exists():
        path = PACKAGE_ROOT / path
    content = sealed.read(path, advice=ADVICE)
    checksum = str(content.pop(sealed.CHECKSUM))
    if content.get("version") != VERSION:
        raise ConfigError(f"{path} is a forecast of another version; {ADVICE}")
    return Forecast.from_json(content, where=str(path)), checksum


def tested(name: str, plan: Plan, judgement: Judgement) -> Outcomes:
    """The forecast of a file against what a study measured at its budgets."""
    forecast, checksum = read_forecast(name)
    at = dict(zip([task.name for task in plan.tasks], plan.budgets, strict=True))
    measured = {
        (s.arm, at[s.task]): score
        for s in judgement.summary
        if not s.baseline and (score := s.scores[plan.primary.key].mean) is not None
    }
    better = {(p.a, p.b, at[p.task]): p.better for p in judgement.pairs if p.task in at}
    return outcomes(forecast, checksum, measured, better)


def check_forecast(name: str, plan: Plan) -> None:
    """Refuse a forecast that a study cannot test, before anything trains.

    Raises: ConfigError for another measure, or when no budget and arm of the study is in it.
    """
    forecast, _ = read_forecast(name)
    if forecast.measure != plan.primary.name:
        raise ConfigError(
            f"forecast: {name} is about {forecast.measure}, this study about {plan.primary.name}"
        )
    arms = {arm.name for arm in plan.arms} & {one.arm for one in forecast.expected}
    if not any(forecast.at(arm, flops, tied=True) for arm in arms for flops in plan.budgets):
        budgets = units.words([units.short(c, "FLOP") for c in forecast.budgets])
        raise ConfigError(
            f"forecast: {name} is about {budgets} of {units.words(sorted({e.arm for e in forecast.expected}))}; this study "
            "trains none of them there"
        )

"""The results of a throughput study as its tables and figures read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from arch_lab.judge.crossover import Crossover, Ratio, Series, crossovers, ratios
from arch_lab.stored import Stored
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.study.study import Study
from experiments.throughput.config import LEVELS, MODES, PlanSettings
from experiments.throughput.timing import Timing


@dataclass(frozen=True, kw_only=True)
class Details(Stored):
    """What the judge of speed adds to a study. ``clock``: "processor" or "wall"."""

    ratios: tuple[Ratio, ...]
    crossovers: tuple[Crossover, ...]
    clock: str

    @classmethod
    def of(cls, timings: Sequence[Timing], subject: str, clock: str) -> Details:
        pairs = ratios(timings, subject)
        return cls(ratios=tuple(pairs), crossovers=tuple(crossovers(pairs)), clock=clock)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Plan, settings, timings, ratios and crossovers of a study."""

    plan: Plan
    settings: PlanSettings
    timings: tuple[Timing, ...]
    details: Details

    @classmethod
    def of(cls, study: Study) -> Results:
        """The results in a study. Raises: ConfigError for content that no throughput study wrote."""
        return cls(
            plan=study,
            settings=PlanSettings.from_json(study.settings),
            timings=tuple(Timing.of(record) for record in study.results),
            details=Details.from_json(study.details),
        )

    @property
    def names(self) -> list[str]:
        """Names of the arms."""
        return [arm.name for arm in self.plan.arms]

    @property
    def series(self) -> list[Series]:
        """Those that were timed, mixers first."""
        timed = {timing.series for timing in self.timings}
        every = (
            Series(level=level, mode=mode, compiled=compiled)
            for level, mode, compiled in product(LEVELS, MODES, (False, True))
        )
        return [series for series in every if series in timed]

    @property
    def series_of_models(self) -> list[Series]:
        """Those of whole models that do not decode; of parts where no model was timed."""
        series = [series for series in self.series if series.mode != "decode"]
        return [s for s in series if s.level == "model"] or series

    def timings_of(self, series: Series) -> list[Timing]:
        return [timing for timing in self.timings if timing.series == series]

    def of_models(self, mode: str) -> list[Timing]:
        """Timings of whole models, T ascending: eager ones, compiled where there are no others."""
        timings = [t for t in self.timings if (t.level, t.mode) == ("model", mode)]
        eager = [t for t in timings if not t.compiled]
        return sorted(eager or timings, key=lambda t: t.tokens)


def parameters_at(arm: PlannedArm) -> dict[int, int]:
    """Sequence length -> all parameters of an arm that is built for it."""
    return {int(tokens): count for tokens, count in arm.facts["parameters_at"].items()}

"""Where a study stands: tokens per parameter, the compute-optimal size, and what its verdict may say.

Legend: N model size (`n_eff`, training FLOPs per token / 6: head and attention count), D training tokens,
C = 6·N·D training FLOPs.
Source: 20 tokens per parameter, Chinchilla (arXiv 2203.15556).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from arch_lab.judge.records import Baseline, Standing
from arch_lab.judge.scaling import FLOPS_PER_PARAMETER, ScalingLaw
from arch_lab.stored import Stored

TOKENS_PER_PARAMETER = 20
FACTOR = 5  # a size further than this from the compute-optimal one is warned of
BAR = "bigram"  # baseline that uses one token of context
BETTER, STARTS_FASTER = "is better", "starts faster"


@dataclass(frozen=True, kw_only=True)
class Regime(Stored):
    """Size and training tokens of one arm."""

    size: float
    tokens: float

    @classmethod
    def of(cls, flops_per_token: float, tokens: float) -> Regime:
        """``flops_per_token``: of training."""
        return cls(size=flops_per_token / FLOPS_PER_PARAMETER, tokens=tokens)

    @property
    def tokens_per_parameter(self) -> float:
        return self.tokens / self.size

    @property
    def best_size(self) -> float:
        """Compute-optimal size for the same FLOPs by the rule of 20 tokens per parameter."""
        return math.sqrt(self.size * self.tokens / TOKENS_PER_PARAMETER)

    @property
    def ratio(self) -> float:
        """Size over the compute-optimal one."""
        return self.size / self.best_size

    @property
    def is_far(self) -> bool:
        """Whether the size is more than a factor of ``FACTOR`` from the compute-optimal one."""
        return not 1 / FACTOR <= self.ratio <= FACTOR


@dataclass(frozen=True, kw_only=True)
class FittedRule(Stored):
    """Compute-optimal sizes by laws that a study of this machine fitted. ``source``: its folder; ``laws``: by arm of a plan."""

    source: str
    laws: dict[str, ScalingLaw]

    def best_size(self, arm: str, flops: float) -> float | None:
        """Size of least loss for ``flops`` of training; None for an arm without a law."""
        law = self.laws.get(arm)
        return None if law is None else law.best_size(flops)


def claim(standings: Iterable[Standing], baselines: Iterable[Baseline]) -> str:
    """What may be said of the arm with the better score: "is better" only where every arm beats the bigram.

    A study without that baseline is judged by its own.
    """
    has_bar = any(baseline.name == BAR for baseline in baselines)
    beaten = all(BAR in standing.beats for standing in standings if not standing.baseline)
    return BETTER if beaten or not has_bar else STARTS_FASTER

"""What a comparison holds fixed.

Default axes: parameters of body + head and training FLOPs (canonical: 3 x forward). A tied table is one tensor counted
as embedding; its matmul is counted in FLOPs whatever the parameters say. Source of the default: body + head gave the
cleanest scaling in nanochat's log of 2026-01-27; ``match_on: total`` holds everything fixed instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blocks.contract import BlockConfig
from blocks.errors import ConfigError, UserError

MatchOn = Literal["body+head", "body", "total"]


class BudgetError(UserError):
    """A budget that no shape meets, or a comparison whose arms are not matched."""


@dataclass(frozen=True, kw_only=True)
class Budget(BlockConfig):
    """``params`` parameters (of ``match_on``) and ``train_flops`` training FLOPs an arm, or ``tokens`` instead of FLOPs.

    ``tolerance`` is relative. ``allow_unmatched`` lets a study run all the same; its report then carries a red banner.
    """

    params: int
    train_flops: float | None = None
    tokens: int | None = None
    match_on: MatchOn = "body+head"
    tolerance: float = 0.01
    allow_unmatched: bool = False

    def __post_init__(self) -> None:
        if self.params < 1:
            raise ConfigError(f"budget.params must be positive, got {self.params}")
        if (self.train_flops is None) == (self.tokens is None):
            raise ConfigError("budget: give exactly one of train_flops and tokens")
        if (self.train_flops or self.tokens or 0) <= 0:
            raise ConfigError("budget: train_flops (or tokens) must be positive")
        if not 0 < self.tolerance <= 0.1:
            raise ConfigError(f"budget.tolerance must lie in (0, 0.1], got {self.tolerance}")

    def matched_parameters(self, counts: dict[str, int]) -> int:
        """The count this budget is about, from embedding, head, body, total."""
        if self.match_on == "body+head":
            return counts["body"] + counts["head"]
        return counts[self.match_on]

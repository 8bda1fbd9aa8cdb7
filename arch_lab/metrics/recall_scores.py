"""What the split of a loss by recall gives (arch_lab.metrics.recall_split), read without torch."""

from __future__ import annotations

from dataclasses import dataclass

from arch_lab.stored import Stored

FEWEST = 1000  # recall tokens; fewer are not reported


@dataclass(frozen=True, kw_only=True)
class RecallScores(Stored):
    """Losses in bits per token, and how many tokens each is a mean of.

    ``at_most``: how often a bigram of the training text may occur and still be rare. ``positions``: last position of
    each bin, counted from 1. ``by_position``: loss of each bin.
    """

    at_most: int
    recall_tokens: int
    rest_tokens: int
    recall_bits: float | None
    rest_bits: float | None
    positions: tuple[int, ...]
    by_position: tuple[float | None, ...]

    @property
    def share(self) -> float:
        """Share of the tokens that are recall tokens."""
        return self.recall_tokens / max(1, self.recall_tokens + self.rest_tokens)

    @property
    def is_enough(self) -> bool:
        return self.recall_tokens >= FEWEST

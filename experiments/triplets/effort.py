"""How long every trained network of a study is trained: one rule for all."""

from __future__ import annotations

from dataclasses import dataclass

from blocks.contract import BlockConfig
from blocks.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Effort(BlockConfig):
    """What every trained network gets: ``rounds`` x ``epochs`` passes over at most ``triplets`` triplets, ``batch`` a step.

    ``rows``: from how many of the training rows a round's triplets are mined (drawn anew each round; all where there are fewer).
    A peer that has no triplets takes as many steps, with 3·batch rows in each: a step of triplets shows it as many.
    """

    rounds: int = 8
    epochs: int = 2
    triplets: int = 6_400
    batch: int = 128
    rows: int = 512

    def __post_init__(self) -> None:
        for name in ("rounds", "epochs", "triplets", "batch", "rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"effort.{name} must be at least 1, got {getattr(self, name)}")

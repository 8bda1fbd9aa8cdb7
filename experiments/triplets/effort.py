"""The training length of every network of a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from arch_lab.fields import BatchSize, Count
from blocks.config import Config, Doc


@dataclass(frozen=True, kw_only=True)
class Effort(Config):
    """Training length of every network: rounds, epochs, triplets and batch size.

    ``rows``: from how many of the training rows a round's triplets are mined (drawn anew each round; all
    where there are fewer). A peer that has no triplets takes as many steps, with 3·batch rows in each: a step
    of triplets shows it as many.
    """

    rounds: Annotated[Count, Doc("How many times triplets are mined again.")] = 8
    epochs: Annotated[Count, Doc("Passes over the triplets of a round.")] = 2
    triplets: Annotated[Count, Doc("Largest number of triplets per round.")] = 6_400
    batch: Annotated[BatchSize, Doc("Triplets per step.")] = 128
    rows: Annotated[
        Count, Doc("Largest number of training rows that the triplets of a round are mined from.")
    ] = 512

"""What one examination of a model covers, and what it has measured so far.

Legend: B rows of one call, T tokens, s first token that changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import TypedDict

import torch
from torch import Tensor, nn

from arch_lab.laws.lengths import SHORT, probe_lengths, sizes_of, splits
from arch_lab.laws.probe import Mode

MOST_TOKENS = 1 << 15  # of one call


class Leak(TypedDict):
    """Output ``t`` of ``block`` moves with token ``s`` by ``size`` of the scale."""

    t: int
    s: int
    size: float
    block: str
    length: int
    mode: str


class Failure(Exception):
    """A reason why the model does not pass, with the leak where there is one."""

    def __init__(self, reason: str, leak: Leak | None = None) -> None:
        super().__init__(reason)
        self.reason, self.leak = reason, leak


@dataclass
class Findings:
    """The largest moves of one examination (of ``live``, the smallest), and what was tried for them."""

    leak: float = 0.0
    gradient: float = 0.0
    prefix: float = 0.0
    live: float = float("inf")
    noisy: bool = False  # the model draws random numbers in training mode
    flops: float = 0.0
    positions: dict[str, list[int]] = field(default_factory=dict)
    whole_model_lengths: list[int] = field(default_factory=list)
    sparse_lengths: list[int] = field(default_factory=list)  # one row costs so much that only the mixers run
    stage: str = ""  # what is running, for an exception of the model's own code

    def add_positions(self, length: int, positions: Iterable[int]) -> None:
        key = str(length)
        self.positions[key] = sorted({*self.positions.get(key, []), *positions})


class Scope:
    """Lengths, rows and random positions of one examination.

    ``targets``: lengths that train or are scored; ``longest``: tokens of the longest row the model takes;
    ``batch``: rows of one call. Tokens come from torch's global generator, positions from ``seed``.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: set[int],
        *,
        vocabulary: int,
        longest: int | None,
        batch: int,
        seed: int,
    ) -> None:
        self.targets, self.vocabulary, self.batch = targets, vocabulary, batch
        self.sizes = sizes_of(model, max(targets))
        self.lengths = probe_lengths(targets, self.sizes, limit=longest)
        self.random = Random(seed)
        self.row = torch.randint(vocabulary, (1, max(self.lengths)))
        self.findings = Findings()

    def rows(self, length: int, batch: int) -> Tensor:
        """The unchanged row ``batch`` times (B, T), less often where that is too many tokens."""
        return self.row[:, :length].expand(max(1, min(batch, MOST_TOKENS // length)), -1)

    def short_row(self) -> Tensor:
        """The first tokens of the row (1, T), for checks that do not depend on the length."""
        return self.row[:, : min(SHORT, self.row.shape[1])]

    def other_tokens(self, rows: Tensor) -> Tensor:
        """Another token at each position."""
        return (rows + torch.randint(1, self.vocabulary, rows.shape)) % self.vocabulary

    def splits(self, length: int, count: int) -> list[int]:
        """At most ``count`` positions, spread over a row of ``length``."""
        return splits(length, count, self.random, self.sizes)

    def enter(self, length: int, mode: Mode) -> None:
        """Note what runs next, for an exception of the model's own code."""
        self.findings.stage = f" at {length} tokens in {mode}"

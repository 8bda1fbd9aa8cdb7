"""The result of a law on a block: passed, failed with an example, or not applicable."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, Self

from arch_lab.stored import Json
from blocks.config import Options

Status = Literal["passed", "failed", "not_applicable"]


class Broken(Exception):
    """Raised by a probe when a law does not hold: what happened, where (output t, input s), by how much.

    ``size`` and ``bound`` share a ``unit``; a size of None means a statement that is true or false.
    """

    def __init__(
        self,
        message: str,
        *,
        size: float | None = None,
        bound: float | None = None,
        unit: str = "",
        t: int | None = None,
        s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.size, self.bound, self.unit, self.t, self.s = message, size, bound, unit, t, s


class Share(float):
    """How much of its bound a deviation uses: 1 = at the bound. ``value`` and ``bound`` are in ``unit``."""

    value: float
    bound: float
    unit: str

    def __new__(cls, value: float, bound: float, unit: str) -> Self:
        share = super().__new__(cls, value / bound if bound else (float("inf") if value else 0.0))
        share.value, share.bound, share.unit = value, bound, unit
        return share


@dataclass(frozen=True, kw_only=True)
class Example:
    """The smallest input that breaks a law: options of the block, shape, pair (t, s) of positions, size."""

    case: str
    options: Options
    batch: int
    tokens: int
    what: str
    t: int | None = None  # the output that reacted
    s: int | None = None  # the input that was changed
    size: float | None = None
    bound: float | None = None
    unit: str = ""

    @property
    def text(self) -> str:
        """One line: what broke, by how much, at which shape and with which options."""
        amount = "" if self.size is None else f": {self.size:.2g} {self.unit}".rstrip() + self._limit()
        pair = "" if self.t is None or self.s is None else f", t={self.t}, s={self.s}"
        options = ", ".join(f"{k}={v!r}" for k, v in self.options.items())
        return f"{self.what}{amount} (B={self.batch}, T={self.tokens}{pair}; {options})"

    def _limit(self) -> str:
        return "" if self.bound is None else f", bound {self.bound:g}"


@dataclass(frozen=True, kw_only=True)
class LawResult:
    """One law on one block.

    ``share``: the worst deviation divided by its bound, None if nothing was measured.
    """

    law: str
    status: Status
    reason: str = ""
    share: Share | None = None
    example: Example | None = None
    notes: tuple[str, ...] = ()  # cases the law does not apply to, with the reason

    @property
    def text(self) -> str:
        if self.status == "failed":
            assert self.example is not None
            return self.example.text
        return self.reason

    def to_dict(self) -> Json:
        return {
            "law": self.law,
            "status": self.status,
            "reason": self.text,
            "share": None if self.share is None or math.isinf(self.share) else float(self.share),
            "value": None if self.share is None else self.share.value,
            "bound": None if self.share is None else self.share.bound,
            "unit": None if self.share is None else self.share.unit,
            "example": None if self.example is None else asdict(self.example),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class BlockReport:
    """Every law on one block."""

    block: str
    kind: str
    cases: tuple[str, ...]
    laws: tuple[LawResult, ...]

    @property
    def passed(self) -> bool:
        return all(law.status != "failed" for law in self.laws)

    def __getitem__(self, law: str) -> LawResult:
        return next(result for result in self.laws if result.law == law)

    def to_dict(self) -> Json:
        return {
            "block": self.block,
            "kind": self.kind,
            "passed": self.passed,
            "cases": list(self.cases),
            "laws": [law.to_dict() for law in self.laws],
        }

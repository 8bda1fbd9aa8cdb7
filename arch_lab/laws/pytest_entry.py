"""The laws as parameters of a pytest test, for blocks that live in packages of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from arch_lab.laws.cases import Case, cases
from arch_lab.laws.laws import LAWS, check, entry_of
from arch_lab.laws.subject import Subject, subject_of
from blocks.contract import Block
from blocks.registry import Entry


class LawBroken(AssertionError):
    """A law does not hold; the message holds the smallest failing example."""


@dataclass(frozen=True)
class BoundLaw:
    """One law on one configuration of one block: a call passes, skips or raises LawBroken."""

    law: str
    entry: Entry
    case: Case

    def __str__(self) -> str:
        return f"{self.entry.name}-{self.law.replace(' ', '_')}-{self.case}"

    def __call__(self) -> None:
        result = check(LAWS[self.law], _subject(self.entry, self.case))
        if result.status == "failed":
            raise LawBroken(f"{self.entry.name}: {self.law}: {result.text}")
        if result.status == "not_applicable":
            import pytest

            pytest.skip(f"{self.law} does not apply to {self.entry.name} ({self.case}): {result.reason}")


@cache
def _subject(entry: Entry, case: Case) -> Subject:
    """Built once for all laws, which leave it as they found it."""
    return subject_of(entry, case)


def laws_for(block: str | Entry | type[Block], *, laws: Iterable[str] | None = None) -> list[Any]:
    """``pytest.param``s of every law on every configuration of a block (name, class or import path).

    Use: ``@pytest.mark.parametrize("law", laws_for("my_package:MyBlock"))`` over ``def test_laws(law):
    law()``. Raises: ConfigError as ``certify_block`` does.
    """
    import pytest

    entry = entry_of(block)
    bound = [BoundLaw(law, entry, case) for case in cases(entry) for law in (laws or LAWS)]
    return [pytest.param(law, id=str(law)) for law in bound]

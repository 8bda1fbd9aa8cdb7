"""Comparison of a block's cost formula with its counted graph.

Legend: B batch, T tokens, D width.
A formula that returns 0, forgets a factor, or counts parameters where work happens is found here, not in a
result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from arch_lab.accounting.counter import Counted, count_forward
from arch_lab.models.model import Model, Part
from blocks.cost import Cost
from blocks.errors import UserError
from blocks.user_code import describe


class AccountingError(UserError):
    """A block whose formula and graph disagree, or whose graph has an unpriced operator."""


class Uncountable(UserError):
    """A block whose graph does not run on the meta device, so its formula is unproven."""


def prove(model: Model, tokens: int, *, batch: int = 1, built_in: bool = True) -> int:
    """Count every distinct part of a model on the meta device; returns how many parts.

    Two batch sizes, so that work done once a forward cannot pass for work done for every sequence.
    ``built_in=False`` passes over the blocks of this library, which its tests prove: torch needs seconds to
    get ready to count.
    The row counted is that of ``Model.proof_length``.
    Raises: AccountingError naming the block and both numbers; Uncountable when a block cannot run without
    values.
    """
    tokens, proven = model.proof_length(tokens), 0
    for component in _distinct(model.components(tokens)):
        if not built_in and type(component.block).__module__.startswith("blocks."):
            continue
        for b in (batch, batch + 1):
            check(_title(component), component.cost, _counted(component, b), batch=b, tokens=tokens)
        proven += 1
    return proven


def _title(component: Part) -> str:
    return f"{component.name} ({type(component.block).__name__})"


def check(title: str, formula: Cost, counted: Counted, *, batch: int, tokens: int) -> None:
    """Raises: AccountingError unless ``formula`` is what was ``counted``, to the last FLOP."""
    if counted.unknown:
        raise AccountingError(
            f"accounting: {title} executes {', '.join(counted.unknown)}, whose FLOPs are unknown; "
            "register a formula (torch.utils.flop_counter.register_flop_formula) or write it as matmuls"
        )
    if formula.forward(batch) != counted.total:
        raise AccountingError(
            f"accounting: {title} says {formula.forward(batch):,} FLOPs for {batch} x {tokens} tokens, "
            f"its graph executes {counted.total:,} ({counted.matmul:,} matmul, {counted.fft:,} FFT); "
            "correct its cost()"
        )


def _counted(component: Part, batch: int) -> Counted:
    try:
        return count_forward(lambda: component.run(batch))
    except UserError:
        raise
    except Exception as error:  # a third-party block may do anything, .item() above all
        raise Uncountable(
            f"accounting: {_title(component)} cannot run on the meta device, "
            f"so its formula cannot be checked ({describe(error, limit=120)})"
        ) from error


def _distinct(components: list[Part]) -> Iterator[Part]:
    """One part of each kind of block in each stack."""
    kinds: list[tuple[str, type, Any]] = []  # a list: configs of third parties need not hash
    for component in components:
        stack = re.split(r"\d", component.name)[0]
        kind = (stack, type(component.block), getattr(component.block, "config", None))
        if kind not in kinds:
            kinds.append(kind)
            yield component

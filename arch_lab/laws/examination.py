"""One run of the certificate's protocol: which checks, at which lengths and positions, in which order.

Legend: B rows of one call, T tokens, s first token that changes.
Order: the form of the mixers and repeated calls; every length in both modes, where layers of equal
configuration run once; every position of the lengths that train or are scored, on one kind of part
(``arch_lab.laws.parts``); the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from arch_lab.laws.lengths import ODD, SHORT
from arch_lab.laws.moves import Change, in_batches, moved
from arch_lab.laws.parts import examine_parts
from arch_lab.laws.probe import EVALUATION, MODES, Mode, Probe
from arch_lab.laws.scope import Failure, Scope
from arch_lab.laws.tolerances import MODEL
from arch_lab.laws.witnesses import BaseRun, check_form

WORK = 5e8  # FLOPs of the changed rows of one length in one mode
IMPORTANT = 2  # times as many at the lengths that train and are scored, one token less, and half of them
MOST_POSITIONS = 32  # of one length in one mode
EXPENSIVE = 3e9  # FLOPs of one row from which on only the mixers run: long rows of a wide model
WHOLE = 2e10  # FLOPs spent on the model with all of its layers


def examine(model: nn.Module, scope: Scope) -> None:
    """Run the whole protocol and store the measurements in ``scope.findings``.

    Raises: Failure.
    """
    thin = Probe(model, thin=True)
    check_form(thin, scope.short_row())
    _check_repeats(scope, thin)
    findings = scope.findings
    findings.sparse_lengths = [n for n in scope.lengths if n > ODD and thin.flops(n) > EXPENSIVE]
    dense_lengths = [n for n in scope.lengths if n not in findings.sparse_lengths]
    _lengths(scope, thin, dense_lengths)
    examine_parts(model, scope)
    if not thin.skips:
        findings.whole_model_lengths = dense_lengths
        return
    model_probe = Probe(model)
    affordable = [n for n in scope.lengths if 12 * model_probe.flops(n) <= WHOLE]
    findings.whole_model_lengths = sorted({*affordable[-1:], *(n for n in affordable if n == SHORT)})
    _lengths(scope, model_probe, findings.whole_model_lengths, brief=True)


def _check_repeats(scope: Scope, probe: Probe) -> None:
    """Another seed may change outputs in training mode only (dropout); the same seed and row never may."""
    for mode in MODES:
        run = BaseRun(scope, probe, scope.short_row(), mode)
        run.check_repeat()
        if not moved(probe(run.rows, mode, seed=1), run.outputs).max() <= MODEL.bound:
            if mode is EVALUATION:
                text = "evaluation mode draws random numbers"
                raise Failure(f"{text}: the same row scores differently each time")
            scope.findings.noisy = True


def _lengths(scope: Scope, probe: Probe, lengths: Sequence[int], *, brief: bool = False) -> None:
    for mode in MODES:  # evaluation first: training may move running statistics
        shorter: Tensor | None = None
        for length in lengths:
            scope.enter(length, mode)
            run = _length(scope, probe, length, mode, brief=brief)
            if mode is EVALUATION or not scope.findings.noisy:
                run.check_prefix(shorter)
                shorter = run.outputs[:1]


def _length(scope: Scope, probe: Probe, length: int, mode: Mode, *, brief: bool) -> BaseRun:
    """Every check of one length in one mode, fewer in ``brief``. Raises: Failure."""
    cost = probe.flops(length)
    positions = scope.splits(length, 2 if brief else _position_count(scope, length, cost))
    changes = _changes(positions, length, brief=brief)
    rows = scope.rows(length, max(2, min(scope.batch, len(changes))))
    run = BaseRun(scope, probe, rows, mode, splits=positions)
    run.check_finite()
    for batch in in_batches(changes, len(rows)):
        run.check_changes(batch)
    run.check_gradient()
    thorough = length in scope.targets and not brief
    if thorough or not changes:
        run.check_repeat()
    if thorough:
        run.check_alone(positions[-2:])
    calls = len(rows) * (3 if mode.train else 1) + len(changes) + (len(rows) + 3 if thorough else 0)
    scope.findings.flops += cost * calls
    scope.findings.add_positions(length, positions)
    return run


def _changes(positions: list[int], length: int, *, brief: bool) -> list[Change]:
    """Suffixes, which show selections, and single tokens, which show a wrapped transform."""
    changes = [Change(s, True) for s in positions]
    if not brief:
        changes += [Change(s, False) for s in positions[:: 1 if length == SHORT else 3] if s < length - 1]
    return changes


def _position_count(scope: Scope, length: int, cost: float) -> int:
    """As many positions as the budget pays for, all of a short row."""
    if length == SHORT:
        return SHORT
    important = bool(scope.targets & {length, length + 1, 2 * length})
    return max(2, min(MOST_POSITIONS, int((IMPORTANT if important else 1) * WORK / cost)))

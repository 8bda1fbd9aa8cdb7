"""Checks of every position at the training and scoring lengths, per mixer.

Legend: B rows of one call, T tokens, s first token that changes.
One kind alone costs a fraction of the model, and no residual path hides where a leak comes from.
"""

from __future__ import annotations

from statistics import median

import torch
from torch import Tensor, nn

from arch_lab.laws.moves import Change, earlier, in_batches, moved
from arch_lab.laws.probe import MODES, Mode, Probe
from arch_lab.laws.scope import Failure, Scope
from arch_lab.laws.tolerances import MODEL, MODEL_FLOAT32
from arch_lab.laws.witnesses import BaseRun

ALL_POSITIONS = 1.5e11  # FLOPs up to which every position of a length is tried, in one mode
SOME_POSITIONS = 2e10  # FLOPs spent on positions of such a length where every one is too much
UNUSUAL = 10  # times the median move in float32, from which on float64 decides


def examine_parts(model: nn.Module, scope: Scope) -> None:
    """Raises: Failure."""
    mixers = Probe(model, thin=True, without="channel")
    channels = Probe(model, thin=True, without="mixer") if mixers.skips_parts else None
    cheap = [n for n in sorted(scope.targets) if 4 * mixers.flops(n) <= SOME_POSITIONS]
    single = Probe(model, thin=True, without="channel", dtype=torch.float32) if cheap else None
    for mode in MODES:
        _sparse_lengths(scope, mixers, mode)
        for length in sorted(scope.targets):
            scope.enter(length, mode)
            if single is not None and length in cheap:
                _every_position(scope, mixers, single, length, mode)
            if channels is not None and not _is_pointwise(scope, channels, length, mode):
                _every_position(scope, channels, channels, length, mode)


def _every_position(scope: Scope, probe: Probe, single: Probe, length: int, mode: Mode) -> None:
    """Each position once in ``single`` (float32), as many rows per call as a step; unusual ones in float64.

    Of a row that is too expensive, some of the positions. What float64 does not confirm is rounding.
    """
    cost = probe.flops(length)
    count = length if length * cost <= ALL_POSITIONS else max(4, int(SOME_POSITIONS / cost))
    positions = scope.splits(length, count)
    changes, rows = [Change(s, True) for s in positions], scope.rows(length, scope.batch)
    unusual = _unusual_in_float32(BaseRun(scope, single, rows, mode), changes)
    scope.findings.flops += cost * (len(rows) + len(changes) + len(unusual))
    scope.findings.add_positions(length, positions)
    if unusual:
        run = BaseRun(scope, probe, rows, mode)
        for batch in in_batches(unusual, len(rows)):
            run.check_changes(batch)


def _unusual_in_float32(run: BaseRun, changes: list[Change]) -> list[Change]:
    """Changes that move earlier outputs much more than the median. Raises: Failure if that is no rounding."""
    sizes: list[float] = []
    for batch in in_batches(changes, len(run.rows)):
        s, changed = run.changed(batch)
        sizes += earlier(moved(run.probe(changed, run.mode), run.outputs), s).amax(dim=1).tolist()
    usual = median(sizes[: len(changes)]) if run.outputs.isfinite().all() else 0.0
    if usual > MODEL_FLOAT32.bound:
        _fail_in_float32(run, changes[len(changes) // 2].s, usual)
    return [change for change, size in zip(changes, sizes, strict=False) if not size <= UNUSUAL * usual]


def _fail_in_float32(run: BaseRun, s: int, size: float) -> None:
    """Fail on what half of the positions show, because that is not rounding.

    Always raises Failure.
    """
    _, changed = run.changed([Change(s, True)])
    base, outputs = run.probe.outputs(run.rows, run.mode), run.probe.outputs(changed, run.mode)
    block = run.probe.first_to_move(base, outputs, 0, s, MODEL_FLOAT32.bound)
    raise Failure(
        f"block {block} is not causal in float32: half of all splits move earlier outputs "
        f"by {size:.1e} of the scale and more ({run.setting})"
    )


def _sparse_lengths(scope: Scope, probe: Probe, mode: Mode) -> None:
    """Check long rows: two positions and gradients, or one position."""
    shorter: Tensor | None = None
    for length in scope.findings.sparse_lengths:
        scope.enter(length, mode)
        target, cost = length in scope.targets, probe.flops(length)
        if mode.train and not target:
            continue
        positions = scope.splits(length, 2)
        positions = positions if target and not mode.train else positions[-1:]
        run = BaseRun(scope, probe, scope.rows(length, 1), mode, splits=positions)
        run.check_finite()
        for s in positions:
            run.check_changes([Change(s, True)])
        run.check_gradient()
        if not mode.train:
            run.check_prefix(shorter)
            shorter = run.outputs
        scope.findings.flops += cost * ((3 if mode.train else 1) + len(positions))
        scope.findings.add_positions(length, positions)


def _is_pointwise(scope: Scope, probe: Probe, length: int, mode: Mode) -> bool:
    """Whether no output depends on any other token.

    Positions are changed by each bit of their number, and by its reverse: any two positions differ in some
    bit, so each pair is tried both ways. A long row: one random half of it.
    """
    t, cost = torch.arange(length), probe.flops(length)
    patterns = [(t >> bit & 1).bool() for bit in range((length - 1).bit_length())]
    patterns = patterns + [~pattern for pattern in patterns]
    if len(patterns) * cost > SOME_POSITIONS:
        patterns = [torch.rand(length) < 0.5]
    if len(patterns) == 1 and mode.train:
        return True
    run = BaseRun(scope, probe, scope.row[:, :length], mode)
    scope.findings.flops += cost * (1 + len(patterns))
    for pattern in patterns:
        rows = torch.where(pattern, scope.other_tokens(run.rows), run.rows)
        moves = moved(probe(rows, mode), run.outputs)
        if not torch.where(pattern, 0.0, moves).max() <= MODEL.bound:
            return False
    return True

"""The seven laws as one table, and the runner that tries them on a block.

Legend: B batch, T tokens, w window.
Deterministic: the same lengths and seeds each time. The lengths are short, odd, prime, powers of two plus one
and those around the block's window, in rising order; when one fails, shorter ones and single rows are tried
until the smallest failing example is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from arch_lab.laws.accounting_law import accounting
from arch_lab.laws.cases import LONGEST, Case, cases
from arch_lab.laws.causality import causality, prefix_consistency
from arch_lab.laws.decoding import decoding, refusal
from arch_lab.laws.isolation import isolation, rows
from arch_lab.laws.long_rows import long_lengths
from arch_lab.laws.numerics import numerics
from arch_lab.laws.result import BlockReport, Broken, Example, LawResult, Share
from arch_lab.laws.round_trip import round_trip
from arch_lab.laws.subject import Subject, subject_of
from arch_lab.laws.tolerances import NOTHING, Tolerance, other_shape, same_length
from arch_lab.laws.tolerances import decoding as decoding_bound
from blocks.contract import Block
from blocks.errors import ConfigError, did_you_mean
from blocks.registry import Entry, lookup
from blocks.user_code import describe

CHEAP = 17  # tokens up to which every draw and batch size is tried
Probe = Callable[[Subject, int, int, int], float]


@dataclass(frozen=True, kw_only=True)
class Law:
    """``probe(subject, batch, tokens, seed)`` returns the worst number and raises Broken when the law fails.

    ``bound``: the most that number may be on a module; a probe with several bounds returns a Share instead.
    """

    name: str
    says: str
    probe: Probe
    lengths: tuple[int, ...]
    bound: Callable[[Any], Tolerance] = lambda module: NOTHING
    around_window: bool = False  # also at w-1, w, w+1, 2w+1
    long: bool = False  # also on rows of up to 1,100 tokens (arch_lab.laws.long_rows)
    draws: int = 1  # seeds a length: hard selections change for some draws only


MUST = "must not change outputs before s, and must change outputs from s on"
NEAR = "float32 is near float64 and bfloat16 near float32"
LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law(
            name="causality",
            says=f"changing tokens at positions >= s {MUST}",
            probe=causality,
            bound=same_length,
            lengths=(1, 2, 3, 7, 17, 33, 65),
            around_window=True,
            long=True,
            draws=2,
        ),
        Law(
            name="prefix consistency",
            says="the first n tokens alone give the first n outputs of the whole sequence",
            probe=prefix_consistency,
            bound=other_shape,
            lengths=(1, 2, 3, 7, 17, 33, 65),
            around_window=True,
            long=True,
        ),
        Law(
            name="decoding",
            says="decoding token by token and prefill in any chunks equal the parallel forward",
            probe=decoding,
            bound=decoding_bound,
            lengths=(1, 2, 3, 8, 17, 33),
            around_window=True,
        ),
        Law(
            name="isolation",
            says="packed documents, padding and other rows of the batch change no output",
            probe=isolation,
            bound=other_shape,
            lengths=(1, 2, 3, 7, 17, 33, 64),
            around_window=True,
            draws=2,
        ),
        Law(
            name="accounting",
            says="declared FLOPs, parameters and state bytes equal those of the block that runs",
            probe=accounting,
            lengths=(1, 2, 5, 13, 16, 17, 65),
            around_window=True,
        ),
        Law(
            name="numerics",
            says=f"{NEAR}; compiled equals eager; gradients equal finite differences",
            probe=numerics,
            lengths=(1, 5, 9, 33),
        ),
        Law(
            name="round trip",
            says="state dict, config and registered name rebuild the same function",
            probe=round_trip,
            lengths=(1, 9),
        ),
    )
}
POSITION_WISE = "acts on each position alone and keeps no state"
POOLED = "one vector per sequence: no output belongs to a token"
BIDIRECTIONAL = "bidirectional: every output may depend on every token"


def inapplicable(law: Law, subject: Subject) -> str:
    """Why ``law`` does not apply to this case; empty when it does.

    Raises: Broken when the block excuses itself from a law that its own claims put it under; ConfigError when
    the law it names does not exist.
    """
    for name in subject.declared:
        if name not in LAWS:
            text = f"not_applicable names an unknown law {name!r}{did_you_mean(name, LAWS)}"
            raise ConfigError(f"block {subject.name!r}: {text}")
    if subject.pools and law.name in ("causality", "prefix consistency", "decoding"):
        return POOLED
    if law.name == "decoding" and not subject.mixes:
        return POSITION_WISE
    if law.name in ("causality", "prefix consistency", "decoding") and not subject.causal:
        if law.name == "decoding":
            refusal(subject)
        return BIDIRECTIONAL
    reason = subject.declared.get(law.name, "")
    if reason and law.name == "causality":
        text = f"the block is marked causal but declares causality not applicable ({reason})"
        raise Broken(f"{text}; set `causal` to False instead")
    if reason and law.name == "isolation" and subject.mixes:
        _refuses_documents(subject, reason)
    return reason


def _refuses_documents(subject: Subject, reason: str) -> None:
    """Check that a mixer without isolation refuses packed input and keeps rows separate.

    Raises: Broken.
    """
    x = subject.input(2, 3, 0)
    try:
        subject.module(x, torch.tensor([[1, 1, 2]] * 2))
    except ConfigError:
        rows(subject, 2, 3, 0)
        return
    text = f"the block declares isolation not applicable ({reason}) but accepts packed documents"
    raise Broken(f"{text}; raise ConfigError")


def shapes(law: Law, subject: Subject) -> list[tuple[int, int, int]]:
    """(batch, tokens, seed) to try, short ones first; the batch goes round 1, 2, 3 while that is cheap."""
    w = subject.window
    window_edges = (w - 1, w, w + 1, 2 * w + 1) if law.around_window and w else ()
    candidates = (*law.lengths, *window_edges, min(subject.longest, max(law.lengths)))
    lengths = sorted({n for n in candidates if 1 <= n <= subject.longest})
    plan = []
    for i, n in enumerate(lengths):
        draws, batches = (law.draws, 3) if n <= CHEAP else (1, 1 + (n < LONGEST))
        plan += [(1 + (i + draw) % batches, n, 100 * n + draw) for draw in range(draws)]
    return plan + [(1, n, 100 * n) for n in (long_lengths(subject) if law.long else ())]


def check(law: Law, subject: Subject) -> LawResult:
    """One law on one case: every shape until one fails, then the smallest failing one."""
    try:
        reason = inapplicable(law, subject)
    except Broken as broken:
        return _failed(law, subject, 1, 1, broken)
    if reason:
        return LawResult(law=law.name, status="not_applicable", reason=reason)
    limit = law.bound(subject.module)
    worst = Share(0.0, limit.bound, limit.of)
    for batch, tokens, seed in shapes(law, subject):
        outcome = attempt(law, subject, batch, tokens, seed)
        if isinstance(outcome, Broken):
            return _smallest(law, subject, batch, tokens, seed, outcome)
        worst = max(worst, outcome if isinstance(outcome, Share) else Share(outcome, limit.bound, limit.of))
    return LawResult(law=law.name, status="passed", share=worst)


def attempt(law: Law, subject: Subject, batch: int, tokens: int, seed: int) -> float | Broken:
    """The worst number of one probe, or how the law is broken: an exception of the block counts as broken."""
    try:
        return law.probe(subject, batch, tokens, seed)
    except Broken as broken:
        return broken
    except Exception as error:  # third-party code: anything may happen, and it happens to the law being tried
        # raised while a law compared what came back: an output of the wrong kind, say
        is_ours = Path(_innermost(error)).parent == Path(__file__).parent
        problem = "the outputs could not be checked" if is_ours else "the block raised"
        return Broken(f"{problem}: {describe(error)}")


def _innermost(error: BaseException) -> str:
    """The file whose line raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename if trace is not None else ""


def _smallest(law: Law, subject: Subject, batch: int, tokens: int, seed: int, broken: Broken) -> LawResult:
    if tokens > subject.longest:
        return _shortest_long(law, subject, tokens, seed, broken)
    for n in range(1, tokens + 1):
        for b in range(1, batch + 1):
            outcome = attempt(law, subject, b, n, seed)
            if isinstance(outcome, Broken):
                return _failed(law, subject, b, n, outcome)
    return _failed(law, subject, batch, tokens, broken)


def _shortest_long(law: Law, subject: Subject, tokens: int, seed: int, broken: Broken) -> LawResult:
    """Halve the gap between a length that passes and one that fails: exact for a leak with one threshold."""
    shorter = (n for n in (subject.longest, *long_lengths(subject)) if n < tokens)
    passes = max(shorter, default=subject.longest)
    while tokens - passes > 1:
        middle = (passes + tokens) // 2
        outcome = attempt(law, subject, 1, middle, seed)
        if isinstance(outcome, Broken):
            tokens, broken = middle, outcome
        else:
            passes = middle
    return _failed(law, subject, 1, tokens, broken)


def _failed(law: Law, subject: Subject, batch: int, tokens: int, broken: Broken) -> LawResult:
    example = Example(
        case=subject.case.name,
        options=dict(subject.case.options),
        batch=batch,
        tokens=tokens,
        what=broken.message,
        t=broken.t,
        s=broken.s,
        size=broken.size,
        bound=broken.bound,
        unit=broken.unit,
    )
    is_measured = broken.size is not None and broken.bound is not None
    share = Share(broken.size, broken.bound, broken.unit) if is_measured else None  # type: ignore[arg-type]
    return LawResult(law=law.name, status="failed", share=share, example=example)


def entry_of(block: str | Entry | type[Block]) -> Entry:
    """A registered name, an import path ``package.module:Class``, a registered class or its entry.

    Raises: ConfigError for anything else, with the nearest name.
    """
    if isinstance(block, Entry):
        return block
    return lookup(block if isinstance(block, str) else f"{block.__module__}:{block.__qualname__}")


def certify_block(block: str | Entry | type[Block], *, laws: Iterable[str] | None = None) -> BlockReport:
    """Every law on every case of one block.

    Raises: ConfigError when the block is unknown or has no configuration to try (see arch_lab.laws.cases).
    """
    entry = entry_of(block)
    all_cases = cases(entry)
    subjects, broken = _built(entry, all_cases)
    results = [broken.get(name) or _combined(LAWS[name], subjects) for name in (laws or LAWS)]
    names = tuple(case.name for case in all_cases)
    return BlockReport(block=entry.name, kind=entry.kind, cases=names, laws=tuple(results))


def _built(entry: Entry, all_cases: list[Case]) -> tuple[list[Subject], dict[str, LawResult]]:
    """The subjects, or a failure of every law when a block cannot be built."""
    subjects: list[Subject] = []
    for case in all_cases:
        try:
            subjects.append(subject_of(entry, case))
        except Exception as error:
            reason = f"the block cannot be built: {describe(error)}"
            example = Example(case=case.name, options=case.options, batch=0, tokens=0, what=reason)
            return [], {name: LawResult(law=name, status="failed", example=example) for name in LAWS}
    return subjects, {}


def _combined(law: Law, subjects: list[Subject]) -> LawResult:
    """One result for all cases: the first failure, else the worst number."""
    worst: Share | None = None
    reasons: dict[str, str] = {}
    for subject in subjects:
        result = check(law, subject)
        if result.status == "failed":
            return result
        if result.status == "not_applicable":
            reasons[subject.case.name] = result.reason
        else:
            assert result.share is not None
            worst = result.share if worst is None else max(worst, result.share)
    if worst is None:
        reason = next(iter(reasons.values()), "no case to try it on")
        return LawResult(law=law.name, status="not_applicable", reason=reason)
    return LawResult(law=law.name, status="passed", share=worst, notes=exceptions(reasons))


def exceptions(reasons: dict[str, str]) -> tuple[str, ...]:
    """One note for each reason: the configurations a law does not apply to. ``reasons`` by configuration."""
    by_reason: dict[str, list[str]] = {}
    for case, reason in reasons.items():
        by_reason.setdefault(reason, []).append(case)
    return tuple(f"not for {'; '.join(names)}: {reason}" for reason, names in by_reason.items())

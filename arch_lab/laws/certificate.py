"""The causality law on a built model, before any score of it is written.

Legend: B rows of one call, T tokens, s split (tokens from s on, or s alone, are changed), t output that moved.
Protocol (``PROTOCOL``): float64 on a copy, parameters re-drawn at order 1 (initial values hide leaks: zeroed projections, fast
decays), in evaluation mode and in training mode with gradients recorded. Lengths are those the model trains and is scored at, one
token less, every power of two below, and the window and chunk sizes of its blocks (``arch_lab.laws.lengths``). At each length
rows of one batch are changed from different splits on, spread over the whole row; nothing before s may move by more than 1e-9 of the
scale. Witnesses beside it: the gradient of y[:s] with respect to later embeddings is zero; a shorter row gives the first outputs of a
longer one; a row gives the same outputs whatever stands in the other rows, and again after other calls; and position s itself *does*
react, so a dead block cannot pass. At the lengths that train and are scored, *every* split is tried on the sequence mixers alone, as
far as the budget goes (in float32, and in float64 where it moves more than usual); channel mixers are shown to be pointwise there,
or tried at every split too. A row has the same outputs alone and among others.
Cost: layers configured alike are probed once, and rows per length follow from a FLOP budget, so that long rows of a wide model are
probed at few positions, without their channel mixers. The certificate says which. A training step at that length costs more.
Why relative and in float64: an FFT padded to 2T-2 leaks 6.6e-6 of the scale at T = 8192, which a loose float32 tolerance would pass;
rounding of a correct one stays below 1e-15.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from inspect import signature
from math import isfinite
from random import Random
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from arch_lab.laws.lengths import ODD, SHORT, probe_lengths, sizes_of, splits
from arch_lab.laws.probe import EVALUATION, MODES, TINY, Mode, Probe, kept_random_state, moved, redraw
from blocks.contract import ChannelMixer, SequenceMixer
from blocks.errors import UserError
from blocks.user_code import describe

__all__ = ["LEAK", "LIVE", "TINY", "Certificate", "LeakError", "certify_model", "redraw", "require_causal"]

PROTOCOL = 3  # raised with every change of what is probed: certificates of another protocol are not kept
LEAK = 1e-9  # of max |hidden|, float64, whole models (depth amplifies rounding; a single block is held to 1e-12)
GRADIENT_LEAK = 1e-9
LIVE = 1e-6  # a position must move by at least this share of the scale when its own token changes
UNKNOWN = 48  # tokens probed where nobody says how long rows are
WORK = 5e8  # FLOPs of the changed rows of one length in one mode
NEAR = 2  # times as many at the lengths that train and are scored, one token less, and half of them
EXPENSIVE = 3e9  # FLOPs of one row from which on only the least is probed: long rows of a wide model
MOST = 32  # splits of one length in one mode
EVERY = 1.5e11  # FLOPs up to which every split of a length that trains or is scored is tried, in one mode
SOME = 2e10  # FLOPs spent on splits of such a length where every one is too much
SINGLE = 1e-3  # the median move in float32 that no rounding explains
UNUSUAL = 10  # times the median move in float32 from which on float64 decides; a causal mixer without transforms moves nothing
MOST_TOKENS = 1 << 15  # of one call
WHOLE = 2e10  # FLOPs spent on the model with all of its layers
BATCH = 4


class LeakError(UserError):
    """A model whose past depends on its future (or on nothing): it gets no metric."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was checked and what came out. ``leak`` names block, t, s, size, length and mode when the model is not causal.

    ``positions``: the splits of each length, both modes together; ``flops``: what all probes together cost by the blocks' own formulas.
    """

    passed: bool
    protocol: int = PROTOCOL
    lengths: tuple[int, ...]
    whole_model_lengths: tuple[int, ...] = ()  # where all layers ran, not only one of each configuration
    modes: tuple[str, ...] = tuple(mode.name for mode in MODES)
    positions: dict[str, list[int]] = field(default_factory=dict)
    least_lengths: tuple[int, ...] = ()  # where a row is so expensive that only the mixers ran
    dtype: str = "float64"
    threshold: float = LEAK
    flops: float = 0.0
    leak_ratio: float
    gradient_ratio: float
    prefix_ratio: float
    live_ratio: float
    noise_in_training: bool = False
    blocks: tuple[str, ...]
    leak: dict[str, Any] | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a number that was never measured is None."""
        return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in asdict(self).items()}


def require_causal(
    model: nn.Module,
    *,
    vocabulary: int,
    lengths: Sequence[int],
    training_length: int | None = None,
    batch: int | None = None,
    name: str = "the model",
) -> Certificate:
    """The certificate of ``model``, which must pass before any score of it is shown.

    ``lengths``: tokens of the rows it is scored on; ``training_length``: of those it trains on; ``batch``: rows of one call there.
    Raises: LeakError, one line with block, positions, length and mode.
    """
    certificate = certify_model(model, vocabulary=vocabulary, lengths=lengths, training_length=training_length, batch=batch)
    if not certificate.passed:
        raise LeakError(f"refused: {name}: {certificate.reason}; no score is written")
    return certificate


def certify_model(
    model: nn.Module,
    *,
    vocabulary: int,
    lengths: Iterable[int] = (),
    training_length: int | None = None,
    batch: int | None = None,
    seed: int = 0,
) -> Certificate:
    """Run the protocol on copies of ``model``; never changes it. ``passed`` is False with a reason on any failure."""
    longest = getattr(getattr(model, "config", None), "max_tokens", None)
    targets = {*lengths, *([training_length] if training_length else [])} or {min(longest or UNKNOWN, UNKNOWN)}
    targets = {min(t, longest) if longest else t for t in targets}
    with kept_random_state(seed):
        return _Examination(model, targets, vocabulary=vocabulary, longest=longest, batch=batch or BATCH, seed=seed).certificate()


class _Failure(Exception):
    """A reason why the model does not pass, with the leak where there is one."""

    def __init__(self, reason: str, leak: dict[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.reason, self.leak = reason, leak


@dataclass
class _Worst:
    leak: float = 0.0
    gradient: float = 0.0
    prefix: float = 0.0
    live: float = float("inf")


class _Examination:
    """One run of the protocol: one mode after the other, lengths in rising order."""

    def __init__(self, model: nn.Module, targets: set[int], *, vocabulary: int, longest: int | None, batch: int, seed: int) -> None:
        self.model, self.targets, self.vocabulary, self.batch = model, targets, vocabulary, batch
        self.sizes = sizes_of(model, max(targets))
        self.lengths = probe_lengths(targets, self.sizes, most=longest)
        self.draw = Random(seed)
        self.row = torch.randint(vocabulary, (1, max(self.lengths)))
        self.worst, self.flops, self.noisy = _Worst(), 0.0, False
        self.positions: dict[str, list[int]] = {}
        self.whole_lengths: list[int] = []
        self.least_lengths: list[int] = []
        self.place = ""  # what is being run, for an exception of the model

    def certificate(self) -> Certificate:
        failure: _Failure | None = None
        try:
            self._examine()
        except _Failure as error:
            failure = error
        except Exception as error:  # the model's own code: anything may happen in it, and none of it may train
            failure = _Failure(f"the model raised an error{self.place}: {describe(error)}")
        return Certificate(
            passed=failure is None,
            lengths=tuple(self.lengths),
            whole_model_lengths=tuple(self.whole_lengths),
            positions=self.positions,
            least_lengths=tuple(self.least_lengths),
            flops=self.flops,
            leak_ratio=self.worst.leak,
            gradient_ratio=self.worst.gradient,
            prefix_ratio=self.worst.prefix,
            live_ratio=self.worst.live,
            noise_in_training=self.noisy,
            blocks=_block_names(self.model),
            leak=None if failure is None else failure.leak,
            reason="" if failure is None else failure.reason,
        )

    def _examine(self) -> None:
        thin = Probe(self.model, thin=True)
        self._keeps_shapes(thin)
        self._repeats(thin)
        self.least_lengths = [n for n in self.lengths if n > ODD and thin.flops(n) > EXPENSIVE]
        self._all(thin, [n for n in self.lengths if n not in self.least_lengths])
        self._parts()
        if thin.skips:
            whole = Probe(self.model)
            fits = [n for n in self.lengths if 12 * whole.flops(n) <= WHOLE]
            self.whole_lengths = sorted({*fits[-1:], *(n for n in fits if n == SHORT)})
            self._all(whole, self.whole_lengths, least=True)
        else:
            self.whole_lengths = [n for n in self.lengths if n not in self.least_lengths]

    def _keeps_shapes(self, probe: Probe) -> None:
        """Mixers take ``segments`` and return the shape of their input: one that is broadcast would train without a word."""

        def look(module: nn.Module, args: Any, y: Any) -> None:
            if not args:
                return
            shape, expected = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__, tuple(args[0].shape)
            if shape != expected:
                raise _Failure(
                    f"block {probe.name_of(module)}: forward returns {shape} for an input of shape {expected}: "
                    "a mixer's output has the shape of its input"
                )

        mixers = [part for _, part in probe.parts() if isinstance(part, SequenceMixer | ChannelMixer)]
        for mixer in mixers:
            if isinstance(mixer, SequenceMixer) and not _takes_segments(mixer):
                raise _Failure(f"block {probe.name_of(mixer)}: forward takes no segments: write forward(self, x, segments=None)")
        hooks = [mixer.register_forward_hook(look) for mixer in mixers]
        try:
            probe(self.row[:, : min(SHORT, self.row.shape[1])], EVALUATION)
        finally:
            for hook in hooks:
                hook.remove()

    # --- the same call twice ------------------------------------------------------------------------------------------

    def _repeats(self, probe: Probe) -> None:
        """Another seed may change outputs in training mode only (dropout); the same seed and row never may."""
        tokens = self.row[:, : min(SHORT, self.row.shape[1])]
        for mode in MODES:
            first = probe(tokens, mode)
            self._unchanged(probe, tokens, first, mode)
            if not moved(probe(tokens, mode, seed=1), first).max() <= LEAK:
                if mode is EVALUATION:
                    raise _Failure("evaluation mode draws random numbers: the same row scores differently each time")
                self.noisy = True

    def _unchanged(self, probe: Probe, rows: Tensor, base: Tensor, mode: Mode) -> None:
        again = moved(probe(rows, mode), base)
        if not again.max() <= LEAK:
            t, tokens = int((~(again <= LEAK)).any(dim=0).nonzero()[0]), rows.shape[1]
            block = self._blame(probe, rows, rows, 0, tokens, mode)
            raise _Failure(
                f"block {block} remembers earlier calls: output {t} of the same {tokens} tokens differs the second time ({mode})"
            )

    # --- lengths and modes --------------------------------------------------------------------------------------------

    def _all(self, probe: Probe, lengths: Sequence[int], *, least: bool = False) -> None:
        for mode in MODES:  # evaluation first: training may move running statistics
            shorter: Tensor | None = None
            for length in lengths:
                base = self._length(probe, length, mode, least=least)
                if mode is EVALUATION or not self.noisy:
                    self._prefix(probe, base, shorter, mode)
                    shorter = base

    def _length(self, probe: Probe, length: int, mode: Mode, *, least: bool) -> Tensor:
        """Every probe of one length in one mode; the outputs (1, T, D) of the unchanged row. Raises: _Failure."""
        self.place = f" at {length} tokens in {mode}"
        target, cost = length in self.targets, probe.flops(length)
        chosen = splits(length, self._count(length, cost, least=least), self.draw, self.sizes)
        # a suffix shows what a single token hides (selections), a single token what a suffix drowns (a wrapped transform)
        changes = [(s, True) for s in chosen]
        if not least:
            changes += [(s, False) for s in chosen[:: 1 if length == SHORT else 3] if s < length - 1]
        rows = self._rows(length, max(2, min(self.batch, len(changes))))
        batch = len(rows)
        base, gradients = self._base(probe, rows, mode, chosen)
        for part in _parts_of(changes, batch):
            self._change(probe, rows, base, part, mode)
        if gradients is not None:
            self._gradient(probe, rows, *gradients, mode)
        if (target and not least) or not changes:
            self._unchanged(probe, rows, base, mode)
        if target and not least:
            self._alone(probe, base, chosen[-2:], mode)
        self.flops += cost * (batch * (3 if mode.train else 1) + len(changes) + (target and not least) * (batch + 3))
        self._tried(length, chosen)
        return base[:1]

    def _rows(self, length: int, batch: int) -> Tensor:
        """The unchanged row ``batch`` times (B, T), less often where that is too many tokens."""
        return self.row[:, :length].expand(max(1, min(batch, MOST_TOKENS // length)), -1)

    def _tried(self, length: int, chosen: list[int]) -> None:
        key = str(length)
        self.positions[key] = sorted({*self.positions.get(key, []), *chosen})

    def _count(self, length: int, cost: float, *, least: bool) -> int:
        """How many splits: as many as the budget pays for, all of a short row."""
        near = bool(self.targets & {length, length + 1, 2 * length})
        if least:
            return 2
        if length == SHORT:
            return SHORT
        return max(2, min(MOST, int((NEAR if near else 1) * WORK / cost)))

    # --- one kind of part -----------------------------------------------------------------------------------------------

    def _parts(self) -> None:
        """Every split of the lengths that train and are scored, mixers and channel mixers each without the other."""
        mixers = Probe(self.model, thin=True, without="channel")
        channels = Probe(self.model, thin=True, without="mixer") if mixers.skips_parts else None
        cheap = [n for n in sorted(self.targets) if 4 * mixers.flops(n) <= SOME]
        single = Probe(self.model, thin=True, without="channel", dtype=torch.float32) if cheap else None
        for mode in MODES:
            self._least(mixers, mode)
            for length in sorted(self.targets):
                self.place = f" at {length} tokens in {mode}"
                if single is not None and length in cheap:
                    self._every(mixers, single, length, mode)
                if channels is not None and not self._pointwise(channels, length, mode):
                    self._every(channels, channels, length, mode)

    def _every(self, probe: Probe, single: Probe, length: int, mode: Mode) -> None:
        """Each split once in float32, in calls of as many rows as a step has; again in float64 where more moves than usual.

        Of a row that is too expensive, some of the splits. What float64 does not confirm is rounding.
        """
        cost = probe.flops(length)
        chosen = splits(length, length if length * cost <= EVERY else max(4, int(SOME / cost)), self.draw, self.sizes)
        changes, rows = [(s, True) for s in chosen], self._rows(length, self.batch)
        base = single(rows, mode)
        sizes: list[float] = []
        for part in _parts_of(changes, len(rows)):
            s, changed = self._changed(rows, part)
            move = moved(single(changed, mode), base)
            sizes += torch.where(torch.arange(length) < s, move, 0.0).amax(dim=1).tolist()
        usual = median(sizes[: len(changes)]) if base.isfinite().all() else 0.0
        if usual > SINGLE:
            self._only_in_float32(single, rows, changes, usual, mode)
        changes = [change for change, size in zip(changes, sizes, strict=False) if not size <= UNUSUAL * usual]
        self.flops += cost * (len(rows) + len(chosen) + len(changes))
        self._tried(length, chosen)
        if changes:
            base = probe(rows, mode)
            for part in _parts_of(changes, len(rows)):
                self._change(probe, rows, base, part, mode)

    def _only_in_float32(self, single: Probe, rows: Tensor, changes: list[tuple[int, bool]], size: float, mode: Mode) -> None:
        """What half of the splits show is no rounding, whatever float64 says. Always raises: _Failure."""
        middle = changes[len(changes) // 2][0]
        _, changed = self._changed(rows, [(middle, True)])
        block = _first_to_move(single, single.outputs(rows, mode), single.outputs(changed, mode), 0, middle, SINGLE)
        raise _Failure(
            f"block {block} is not causal in float32: half of all splits move earlier outputs by {size:.1e} of the scale and more "
            f"({rows.shape[1]} tokens, {mode})"
        )

    def _least(self, probe: Probe, mode: Mode) -> None:
        """Two positions of a long row, one of other lengths; gradients of a row that is as long as one that trains."""
        shorter: Tensor | None = None
        for length in self.least_lengths:
            self.place = f" at {length} tokens in {mode}"
            target, cost = length in self.targets, probe.flops(length)
            if mode.train and not target:
                continue
            rows = self._rows(length, 1)
            chosen = splits(length, 2, self.draw, self.sizes)
            chosen = chosen if target and not mode.train else chosen[-1:]
            base, gradients = self._base(probe, rows, mode, chosen)
            for s in chosen:
                self._change(probe, rows, base, [(s, True)], mode)
            if gradients is not None:
                self._gradient(probe, rows, *gradients, mode)
            if not mode.train:
                self._prefix(probe, base, shorter, mode)
                shorter = base
            self.flops += cost * ((3 if mode.train else 1) + len(chosen))
            self._tried(length, chosen)

    def _pointwise(self, probe: Probe, length: int, mode: Mode) -> bool:
        """Whether no output depends on any other token: positions are changed by each bit of their number, and by its reverse.

        Any two positions differ in some bit, so each pair is tried both ways. A long row: one random half of it.
        """
        t, cost = torch.arange(length), probe.flops(length)
        patterns = [(t >> bit & 1).bool() for bit in range((length - 1).bit_length())]
        patterns = patterns + [~pattern for pattern in patterns]
        if len(patterns) * cost > SOME:
            patterns = [torch.rand(length) < 0.5]
        if len(patterns) == 1 and mode.train:
            return True
        row = self.row[:, :length]
        base = probe(row, mode)
        self.flops += cost * (1 + len(patterns))
        for pattern in patterns:
            other = torch.where(pattern, self._other(row), row)
            if not torch.where(pattern, 0.0, moved(probe(other, mode), base)).max() <= LEAK:
                return False
        return True

    def _alone(self, probe: Probe, base: Tensor, chosen: list[int], mode: Mode) -> None:
        """A row on its own, as the last batch of a split may be: causal, and with the outputs that it has among others."""
        row = self.row[:, : base.shape[1]]
        alone = probe(row, mode)
        for s in chosen:
            self._change(probe, row, alone, [(s, True)], mode)
        if mode is EVALUATION or not self.noisy:
            move = moved(alone, base[:1])
            if not move.max() <= LEAK:
                t = int((~(move[0] <= LEAK)).nonzero()[0])
                few, many = (probe.outputs(self._rows(base.shape[1], n), mode) for n in (1, len(base)))
                block = _first_to_move(probe, few, {name: y[:1] for name, y in many.items()}, 0, base.shape[1])
                raise _Failure(
                    f"block {block} depends on the size of the batch: output {t} of a row alone differs among {len(base)} rows "
                    f"({move.max().item():.1e} of the scale; {base.shape[1]} tokens, {mode})"
                )

    def _other(self, rows: Tensor) -> Tensor:
        """Another token at each position."""
        return (rows + torch.randint(1, self.vocabulary, rows.shape)) % self.vocabulary

    def _base(self, probe: Probe, rows: Tensor, mode: Mode, chosen: list[int]) -> tuple[Tensor, tuple[Tensor, list[int]] | None]:
        """Outputs of the unchanged rows; in training mode also (sizes, splits) of the gradient witness, one split a row."""
        y, witness = None, None
        if mode.train and chosen:
            some = [chosen[i * len(chosen) // len(rows)] for i in range(len(rows))]
            y, sizes = probe.gradients(rows, some, mode)
            witness = None if sizes is None else (sizes, some)
        y = probe(rows, mode) if y is None else y
        if not y.isfinite().all():
            raise _Failure(f"outputs are not finite ({rows.shape[1]} tokens, {mode})")
        return y, witness

    # --- witnesses ----------------------------------------------------------------------------------------------------

    def _change(self, probe: Probe, rows: Tensor, base: Tensor, changes: list[tuple[int, bool]], mode: Mode) -> None:
        """Row i differs from the base row at changes[i] only; nothing before may move, the position itself must."""
        s, changed = self._changed(rows, changes)
        move = moved(probe(changed, mode), base)
        before = torch.where(torch.arange(rows.shape[1]) < s, move, 0.0)
        self.worst.leak = max(self.worst.leak, before.max().item())
        if not before.max() <= LEAK:
            first_t = int((~(before <= LEAK)).any(dim=0).nonzero()[0])
            i = min(int((~(before[:, first_t] <= LEAK)).nonzero()[0]), len(changes) - 1)
            self._explain(probe, rows, base, changed, i, changes[i], first_t, before[i, first_t].item(), mode)
        if mode is EVALUATION:
            live = move[torch.arange(len(rows)), s[:, 0]].min().item()
            self.worst.live = min(self.worst.live, live)
            if not live >= LIVE:
                raise _Failure(f"outputs hardly react to their own token ({live:.1e} of the scale): the check would show nothing")

    def _changed(self, rows: Tensor, changes: list[tuple[int, bool]]) -> tuple[Tensor, Tensor]:
        """Splits (B, 1), and ``rows`` changed from there on, or there alone; rows beyond the changes repeat the last one."""
        t = torch.arange(rows.shape[1])
        changes = changes + [changes[-1]] * (len(rows) - len(changes))
        s = torch.tensor([position for position, _ in changes])[:, None]
        suffix = torch.tensor([whole for _, whole in changes])[:, None]
        return s, torch.where((t == s) | ((t > s) & suffix), self._other(rows), rows)

    def _explain(
        self, probe: Probe, rows: Tensor, base: Tensor, changed: Tensor, i: int, change: tuple[int, bool], t: int, size: float, mode: Mode
    ) -> None:
        """Time, another row, or an earlier call? Always raises: _Failure."""
        self._unchanged(probe, rows, base, mode)
        alone = rows.clone()
        alone[i] = changed[i]
        s, suffix = change
        tokens = rows.shape[1]
        where = f"{tokens} tokens, {mode}"
        if not moved(probe(alone, mode), base)[i, :s].max() > LEAK:
            changed[i] = rows[i]
            block = self._blame(probe, rows, changed, i, tokens, mode)
            raise _Failure(f"block {block} mixes the rows of a batch: other rows move output {t} by {size:.1e} of the scale ({where})")
        block = self._blame(probe, rows, alone, i, s, mode)
        what = f"the tokens from {s} on" if suffix and s < tokens - 1 else f"token {s}"
        raise _Failure(
            f"block {block} is not causal: changing {what} moves output {t} by {size:.1e} of the scale "
            f"(first leaking pair t={t}, s={s}; {where})",
            {"t": t, "s": s, "size": size, "block": block, "length": tokens, "mode": mode.name},
        )

    def _blame(self, probe: Probe, rows: Tensor, changed: Tensor, i: int, before: int, mode: Mode) -> str:
        """The first part, in the order they run, whose output moves in row i before ``before``: the one that let it in."""
        return _first_to_move(probe, probe.outputs(rows, mode), probe.outputs(changed, mode), i, before)

    def _gradient(self, probe: Probe, rows: Tensor, sizes: Tensor, chosen: list[int], mode: Mode) -> None:
        """``sizes`` (B, T) of d y[i, :chosen[i]] / d x[i, t]: zero from chosen[i] on."""
        if not sizes.isfinite().all():
            raise _Failure(f"gradients are not finite ({rows.shape[1]} tokens, {mode})")
        later = torch.arange(rows.shape[1]) >= torch.tensor(chosen)[:, None]
        share = torch.where(later, sizes, 0.0) / max(sizes.max().item(), TINY)
        self.worst.gradient = max(self.worst.gradient, share.max().item())
        if share.max() <= GRADIENT_LEAK:
            return
        i = int((share > GRADIENT_LEAK).any(dim=1).nonzero()[0])
        s, size = int((share[i] > GRADIENT_LEAK).nonzero()[0]), share[i].max().item()
        where = f"{rows.shape[1]} tokens, {mode}"
        alone = [chosen[i] if row == i else 0 for row in range(len(rows))]
        _, own = probe.gradients(rows, alone, mode)
        if own is not None and not own[i, chosen[i] :].max() > GRADIENT_LEAK * own.max():
            raise _Failure(f"a block mixes the rows of a batch: outputs of one have a gradient with respect to another ({where})")
        block = probe.gradient_blame(rows, chosen[i], mode, GRADIENT_LEAK)
        raise _Failure(
            f"block {block} is not causal: outputs before {chosen[i]} have a gradient with respect to the later token {s}, "
            f"{size:.1e} of the largest (t<{chosen[i]}, s={s}; {where})",
            {"t": chosen[i] - 1, "s": s, "size": size, "block": block, "length": rows.shape[1], "mode": mode.name},
        )

    def _prefix(self, probe: Probe, base: Tensor, shorter: Tensor | None, mode: Mode) -> None:
        """The outputs of a shorter row are the first outputs of a longer one."""
        if shorter is None:
            return
        n = shorter.shape[1]
        move = moved(base[:, :n], shorter)
        self.worst.prefix = max(self.worst.prefix, move.max().item())
        if not move.max() <= LEAK:
            t, tokens = int((~(move[0] <= LEAK)).nonzero()[0]), base.shape[1]
            few, many = (probe.outputs(self.row[:, :length], mode) for length in (n, tokens))
            block = _first_to_move(probe, few, {name: y[:, :n] for name, y in many.items()}, 0, n)
            raise _Failure(
                f"block {block} depends on the length of the row: output {t} of {n} tokens differs "
                f"in a row of {tokens} ({move.max().item():.1e} of the scale, {mode})",
                {"t": t, "s": n, "size": move.max().item(), "block": block, "length": tokens, "mode": mode.name},
            )


def _takes_segments(mixer: nn.Module) -> bool:
    parameters = signature(mixer.forward).parameters.values()
    return len(parameters) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _parts_of(changes: list[tuple[int, bool]], count: int) -> list[list[tuple[int, bool]]]:
    """``changes`` in lists of at most ``count``."""
    return [changes[first : first + count] for first in range(0, len(changes), count)]


def _first_to_move(probe: Probe, before: dict[str, Tensor], after: dict[str, Tensor], row: int, end: int, limit: float = LEAK) -> str:
    for name, y in before.items():
        if y.ndim == 3 and after[name].shape == y.shape and not moved(after[name], y)[row, :end].max() <= limit:
            return probe.name_of(probe.model.get_submodule(name))
    return "(the model outside its layers)"


def _block_names(model: nn.Module) -> tuple[str, ...]:
    layers = getattr(model, "layers", [])
    return tuple(
        sorted({type(child).__name__ for layer in layers for name, child in layer.named_children() if name in ("mixer", "channel")})
    )

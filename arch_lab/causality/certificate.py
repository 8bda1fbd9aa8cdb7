"""The causality law on a built model, before any score of it is written.

Legend: B rows of one call, T tokens, s split (tokens from s on, or s alone, are changed), t output that moved.
Protocol (``PROTOCOL``): float64 on a copy, parameters re-drawn at order 1 (initial values hide leaks: zeroed projections, fast
decays), in evaluation mode and in training mode with gradients recorded. Lengths are those the model trains and is scored at, one
token less, every power of two below, and the window and chunk sizes of its blocks (``arch_lab.causality.lengths``). At each length
rows of one batch are changed from different splits on, spread over the whole row; nothing before s may move by more than 1e-9 of the
scale. Witnesses beside it: the gradient of y[:s] with respect to later embeddings is zero; a shorter row gives the first outputs of a
longer one; a row gives the same outputs whatever stands in the other rows, and again after other calls; and position s itself *does*
react, so a dead block cannot pass.
Cost: layers configured alike are probed once, and rows per length follow from a FLOP budget, so that long rows of a wide model are
probed at few positions. The certificate says which. A training step at that length costs more.
Why relative and in float64: an FFT padded to 2T-2 leaks 6.6e-6 of the scale at T = 8192, which a loose float32 tolerance would pass;
rounding of a correct one stays below 1e-15.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from arch_lab.causality.lengths import SHORT, probe_lengths, sizes_of, splits
from arch_lab.causality.probe import EVALUATION, MODES, TINY, Mode, Probe, kept_random_state, moved, redraw
from blocks.errors import UserError
from blocks.user_code import describe

__all__ = ["LEAK", "LIVE", "TINY", "Certificate", "LeakError", "certify_model", "redraw", "require_causal"]

PROTOCOL = 2  # raised with every change of what is probed: certificates of another protocol are not kept
LEAK = 1e-9  # of max |hidden|, float64, whole models (depth amplifies rounding; a single block is held to 1e-12)
GRADIENT_LEAK = 1e-9
LIVE = 1e-6  # a position must move by at least this share of the scale when its own token changes
UNKNOWN = 48  # tokens probed where nobody says how long rows are
WORK = 5e8  # FLOPs of the changed rows of one length in one mode
TARGET, NEAR = 6, 2  # times as many at the lengths that train and are scored; one token less, and half of them
EXPENSIVE = 2e10  # FLOPs of one row from which on only the least is probed: long rows of a wide model
MOST = 64  # splits of a length that trains or is scored, in one mode; half as many at other lengths
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
        self._repeats(thin)
        self._all(thin, self.lengths)
        if thin.skips:
            whole = Probe(self.model)
            fits = [n for n in self.lengths if 12 * whole.flops(n) <= WHOLE]
            self.whole_lengths = sorted({*fits[-1:], *(n for n in fits if n == SHORT)})
            self._all(whole, self.whole_lengths, least=True)
        else:
            self.whole_lengths = self.lengths

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
        cheap = cost <= EXPENSIVE
        if cheap:
            changes += [(s, False) for s in chosen[:: 1 if length == SHORT else 3] if s < length - 1]
        batch = max(2, min(self.batch, len(changes)))
        rows = self.row[:, :length].expand(batch, -1)
        base, gradients = self._base(probe, rows, mode, chosen if cheap or target else [])
        for first in range(0, len(changes), batch):
            self._change(probe, rows, base, changes[first : first + batch], mode)
        if gradients is not None:
            self._gradient(probe, rows, *gradients, mode)
        if (target and cheap) or not changes:
            self._unchanged(probe, rows, base, mode)
        self.flops += cost * (batch * (3 if mode.train else 1) + len(changes) + batch * (target and cheap))
        key = str(length)
        self.positions[key] = sorted({*self.positions.get(key, []), *chosen})
        return base[:1]

    def _count(self, length: int, cost: float, *, least: bool) -> int:
        """How many splits: as many as the budget pays for, all of a short row."""
        target = length in self.targets
        smallest = 2 if target else 1
        if length == SHORT:
            return SHORT
        if least:
            return smallest
        share = TARGET if target else NEAR if length + 1 in self.targets or 2 * length in self.targets else 1
        return max(smallest, min(MOST if target else MOST // 2, int(share * WORK / cost)))

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
        t = torch.arange(rows.shape[1])
        changes = changes + [changes[-1]] * (len(rows) - len(changes))
        s = torch.tensor([position for position, _ in changes])[:, None]
        suffix = torch.tensor([whole for _, whole in changes])[:, None]
        other = (rows + torch.randint(1, self.vocabulary, rows.shape)) % self.vocabulary
        changed = torch.where((t == s) | ((t > s) & suffix), other, rows)
        move = moved(probe(changed, mode), base)
        before = torch.where(t < s, move, 0.0)
        self.worst.leak = max(self.worst.leak, before.max().item())
        if not before.max() <= LEAK:
            first_t = int((~(before <= LEAK)).any(dim=0).nonzero()[0])
            i = int((~(before[:, first_t] <= LEAK)).nonzero()[0])
            self._explain(probe, rows, base, changed, i, changes[i], first_t, before[i, first_t].item(), mode)
        if mode is EVALUATION:
            live = move[torch.arange(len(rows)), s[:, 0]].min().item()
            self.worst.live = min(self.worst.live, live)
            if not live >= LIVE:
                raise _Failure(f"outputs hardly react to their own token ({live:.1e} of the scale): the check would be blind")

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
                f"block {block} depends on the length of the row: output {t} of {n} tokens is another one "
                f"in a row of {tokens} ({move.max().item():.1e} of the scale, {mode})",
                {"t": t, "s": n, "size": move.max().item(), "block": block, "length": tokens, "mode": mode.name},
            )


def _first_to_move(probe: Probe, before: dict[str, Tensor], after: dict[str, Tensor], row: int, end: int) -> str:
    for name, y in before.items():
        if y.ndim == 3 and after[name].shape == y.shape and not moved(after[name], y)[row, :end].max() <= LEAK:
            return f"{name} ({type(probe.model.get_submodule(name)).__name__})"
    return "(the model outside its layers)"


def _block_names(model: nn.Module) -> tuple[str, ...]:
    layers = getattr(model, "layers", [])
    return tuple(
        sorted({type(child).__name__ for layer in layers for name, child in layer.named_children() if name in ("mixer", "channel")})
    )

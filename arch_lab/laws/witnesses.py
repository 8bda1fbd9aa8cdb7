"""What must hold for one unchanged batch of a model; each check raises Failure with the block to blame.

Legend: B rows of one call, T tokens, D width, s first token that changes, t output that moves.
A model that fails one check is asked why: does it remember earlier calls, mix the rows of a batch, or read
later tokens?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from arch_lab.laws.moves import TINY, Change, changed_positions, earlier, first_position, moved
from arch_lab.laws.probe import EVALUATION, Mode, Probe
from arch_lab.laws.scope import Failure, Leak, Scope
from arch_lab.laws.subject import takes_segments
from arch_lab.laws.tolerances import MODEL, MODEL_GRADIENT, MODEL_LIVE
from blocks.contract import ChannelMixer, SequenceMixer

LEAK, GRADIENT_LEAK, LIVE = MODEL.bound, MODEL_GRADIENT.bound, MODEL_LIVE.bound


def check_form(probe: Probe, tokens: Tensor) -> None:
    """Mixers take ``segments`` and return the shape of their input: a broadcast would train silently."""

    def check_shape(module: nn.Module, args: Any, y: Any) -> None:
        if not args:
            return
        shape, expected = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__, tuple(args[0].shape)
        if shape != expected:
            raise Failure(
                f"block {probe.name_of(module)}: forward returns {shape} for an input of shape {expected}: "
                "a mixer's output has the shape of its input"
            )

    mixers = [child for _, child in probe.parts() if isinstance(child, SequenceMixer | ChannelMixer)]
    for mixer in mixers:
        if isinstance(mixer, SequenceMixer) and not takes_segments(mixer):
            name = probe.name_of(mixer)
            raise Failure(f"block {name}: forward takes no segments: write forward(self, x, segments=None)")
    hooks = [mixer.register_forward_hook(check_shape) for mixer in mixers]
    try:
        probe(tokens, EVALUATION)
    finally:
        for hook in hooks:
            hook.remove()


class BaseRun:
    """Unchanged rows (B, T) in one mode and their outputs (B, T, D): what changed rows are compared with."""

    def __init__(
        self,
        scope: Scope,
        probe: Probe,
        rows: Tensor,
        mode: Mode,
        *,
        splits: Sequence[int] = (),
    ) -> None:
        """``splits``: in training mode, record the gradient of the outputs before one of them in each row."""
        self.scope, self.findings, self.probe, self.mode, self.rows = scope, scope.findings, probe, mode, rows
        self.splits: list[int] = []
        self.gradients: Tensor | None = None  # (B, T) sizes of d y[i, :splits[i]] / d x[i, t]
        outputs: Tensor | None = None
        if mode.train and splits:
            self.splits = [splits[i * len(splits) // len(rows)] for i in range(len(rows))]
            outputs, self.gradients = probe.gradients(rows, self.splits, mode)
        self.outputs = probe(rows, mode) if outputs is None else outputs

    @property
    def tokens(self) -> int:
        return self.rows.shape[1]

    @property
    def setting(self) -> str:
        return f"{self.tokens} tokens, {self.mode}"

    def check_finite(self) -> None:
        if not self.outputs.isfinite().all():
            raise Failure(f"outputs are not finite ({self.setting})")

    # --- other tokens later in the row ----------------------------------------------------------------

    def changed(self, changes: Sequence[Change]) -> tuple[Tensor, Tensor]:
        """First changed positions (B, 1) and changed rows (B, T); rows beyond ``changes`` repeat the last."""
        repeated = [changes[-1]] * (len(self.rows) - len(changes))
        s, mask = changed_positions([*changes, *repeated], self.tokens)
        return s, torch.where(mask, self.scope.other_tokens(self.rows), self.rows)

    def check_changes(self, changes: Sequence[Change]) -> None:
        """Change row i by changes[i]: no output before s may move, output s itself must."""
        s, rows = self.changed(changes)
        moves = moved(self.probe(rows, self.mode), self.outputs)
        leaks = earlier(moves, s)
        self.findings.leak = max(self.findings.leak, leaks.max().item())
        if not leaks.max() <= LEAK:
            self._explain(changes, rows, leaks)
        if self.mode is EVALUATION:
            live = moves.gather(1, s).min().item()
            self.findings.live = min(self.findings.live, live)
            if not live >= LIVE:
                text = f"outputs hardly react to their own token ({live:.1e} of the scale)"
                raise Failure(f"{text}: the check would show nothing")

    def _explain(self, changes: Sequence[Change], changed: Tensor, leaks: Tensor) -> None:
        """Time, another row, or an earlier call? Always raises Failure."""
        i, t = first_position(leaks, LEAK)
        i = min(i, len(changes) - 1)
        s, size = changes[i].s, leaks[i, t].item()
        self.check_repeat()
        isolated = self.rows.clone()
        isolated[i] = changed[i]
        if not moved(self.probe(isolated, self.mode), self.outputs)[i, :s].max() > LEAK:
            changed[i] = self.rows[i]
            text = f"block {self._blame(changed, i, self.tokens)} mixes the rows of a batch"
            raise Failure(f"{text}: other rows move output {t} by {size:.1e} of the scale ({self.setting})")
        block, change = self._blame(isolated, i, s), Change(s, changes[i].suffix and s < self.tokens - 1)
        raise Failure(
            f"block {block} is not causal: changing {change} moves output {t} by {size:.1e} of the scale "
            f"(first leaking pair t={t}, s={s}; {self.setting})",
            self._leak(t, s, size, block),
        )

    def _blame(self, changed: Tensor, row: int, end: int) -> str:
        """The first part whose output moves in ``row`` before ``end``: the one that let the change in."""
        base, outputs = self.probe.outputs(self.rows, self.mode), self.probe.outputs(changed, self.mode)
        return self.probe.first_to_move(base, outputs, row, end, LEAK)

    def _leak(self, t: int, s: int, size: float, block: str) -> Leak:
        return {"t": t, "s": s, "size": size, "block": block, "length": self.tokens, "mode": self.mode.name}

    # --- the same tokens in another call --------------------------------------------------------------

    def check_repeat(self) -> None:
        """The same rows give the same outputs again."""
        moves = moved(self.probe(self.rows, self.mode), self.outputs)
        if not moves.max() <= LEAK:
            _, t = first_position(moves, LEAK)
            text = f"block {self._blame(self.rows, 0, self.tokens)} remembers earlier calls"
            output = f"output {t} of the same {self.tokens} tokens"
            raise Failure(f"{text}: {output} differs the second time ({self.mode})")

    def check_prefix(self, shorter: Tensor | None) -> None:
        """The outputs of a shorter row are the first outputs of a longer one."""
        if shorter is None:
            return
        n = shorter.shape[1]
        moves = moved(self.outputs[:1, :n], shorter)
        size = moves.max().item()
        self.findings.prefix = max(self.findings.prefix, size)
        if not size <= LEAK:
            _, t = first_position(moves, LEAK)
            block = self._blame_shape(self.scope.row[:, :n], self.scope.row[:, : self.tokens])
            raise Failure(
                f"block {block} depends on the length of the row: output {t} of {n} tokens differs "
                f"in a row of {self.tokens} ({size:.1e} of the scale, {self.mode})",
                self._leak(t, n, size, block),
            )

    def check_alone(self, splits: Sequence[int]) -> None:
        """Check a single row: causal, and equal to its outputs within a batch."""
        single = BaseRun(self.scope, self.probe, self.rows[:1], self.mode)
        for s in splits:
            single.check_changes([Change(s, True)])
        if self.mode is not EVALUATION and self.findings.noisy:
            return
        moves = moved(single.outputs, self.outputs[:1])
        if not moves.max() <= LEAK:
            _, t = first_position(moves, LEAK)
            block, size = self._blame_shape(single.rows, self.rows), moves.max().item()
            raise Failure(
                f"block {block} depends on the size of the batch: output {t} of a row alone differs "
                f"among {len(self.rows)} rows ({size:.1e} of the scale; {self.setting})"
            )

    def _blame_shape(self, few: Tensor, many: Tensor) -> str:
        """The first part that gives ``few`` (1, T') other outputs than the same tokens in ``many`` (B, T)."""
        base, outputs = self.probe.outputs(few, self.mode), self.probe.outputs(many, self.mode)
        tokens = few.shape[1]
        same_tokens = {name: y[:1, :tokens] for name, y in outputs.items()}
        return self.probe.first_to_move(base, same_tokens, 0, tokens, LEAK)

    # --- gradients ------------------------------------------------------------------------------------

    def check_gradient(self) -> None:
        """d y[i, :splits[i]] / d x[i, t] is zero from splits[i] on. No check where nothing was recorded."""
        if self.gradients is None:
            return
        if not self.gradients.isfinite().all():
            raise Failure(f"gradients are not finite ({self.setting})")
        is_later = torch.arange(self.tokens) >= torch.tensor(self.splits)[:, None]
        share = torch.where(is_later, self.gradients, 0.0) / max(self.gradients.max().item(), TINY)
        self.findings.gradient = max(self.findings.gradient, share.max().item())
        if not share.max() <= GRADIENT_LEAK:
            self._explain_gradient(share)

    def _explain_gradient(self, share: Tensor) -> None:
        """Time, or another row? Always raises Failure."""
        i = int((share > GRADIENT_LEAK).any(dim=1).nonzero()[0])
        end, s, size = self.splits[i], int((share[i] > GRADIENT_LEAK).nonzero()[0]), share[i].max().item()
        one_row = [end if row == i else 0 for row in range(len(self.rows))]
        _, gradients = self.probe.gradients(self.rows, one_row, self.mode)
        if gradients is not None and not gradients[i, end:].max() > GRADIENT_LEAK * gradients.max():
            text = "outputs of one have a gradient with respect to another"
            raise Failure(f"a block mixes the rows of a batch: {text} ({self.setting})")
        block = self.probe.gradient_blame(self.rows, end, self.mode, GRADIENT_LEAK)
        raise Failure(
            f"block {block} is not causal: outputs before {end} have a gradient with respect to the later "
            f"token {s}, {size:.1e} of the largest (t<{end}, s={s}; {self.setting})",
            self._leak(end - 1, s, size, block),
        )

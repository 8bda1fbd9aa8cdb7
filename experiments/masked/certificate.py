"""The certificate of a masked objective: no bidirectional model gets a metric from an input that holds the
answer.

Legend: B rows, T tokens, V vocabulary.
A model that sees both sides has no causality law to keep, so what could give the answer away is checked
instead, on the objective that trains and scores and on the built model (float64, parameters of order 1):

* hidden: of the tokens asked for, no more than BERT's tenth stand in the input as they are; putting other
  tokens of the same kind
  (special or not, opening or closing a word) under all the rest changes no input;
* labels: other labels beside the same inputs change no logit;
* rows, documents, padding: the other rows of a batch, a document packed into the same row, and padding before
  or behind change no
  output of a row (1e-9 of the scale), in evaluation and in training mode, at 48 tokens, at the length that
  trains and is scored and
  at one token less. Padding never occurs in training here; fine-tuning relies on it;
* alive: logits do react to tokens on the left and on the right, so a dead or a one-sided model cannot pass.

It does not prove that train and validation text differ: that is the data's doing
(``arch_lab.data.documents``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arch_lab.data.tokenizer import Tokenizer
from arch_lab.laws.moves import TINY
from arch_lab.laws.probe import EVALUATION, MODES, Mode, preserved_random_state, redraw
from arch_lab.laws.tolerances import MODEL, MODEL_LIVE
from experiments.masked.objective import IGNORED, RANDOM, REPLACED, SCORING, Draw, Masked, MaskedRows, draws

ROWS = 64  # masked rows: thousands of tokens asked for, so that a share of 0.1 is told from 0.2
LONGEST = 48
DEVIATIONS = 5.0  # how far a share may stray by chance

Logits = Callable[[nn.Module, MaskedRows], Tensor]


@dataclass(frozen=True)
class Shift:
    """How far an output moved, in shares of its scale, and at what length and in which mode."""

    ratio: float = 0.0
    case: str = ""

    def or_larger(self, ratio: float, case: str) -> Shift:
        """The larger of two; a ratio that is no number counts as larger."""
        return self if ratio <= self.ratio else Shift(ratio, case)


@dataclass(frozen=True, kw_only=True)
class ObjectiveCertificate:
    """What was checked and what was found.

    ``visible``: share of the tokens asked for that stand in the input as they are.
    """

    passed: bool
    kind: str = "objective"
    lengths: tuple[int, ...]
    modes: tuple[str, ...] = tuple(mode.name for mode in MODES)
    dtype: str = "float64"
    threshold: float = MODEL.bound
    visible: float
    asked: int
    leak_ratio: float  # the largest of rows, documents, padding
    rows_ratio: float
    documents_ratio: float
    padding_ratio: float
    live_ratio: float
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def certify_objective(
    model: nn.Module, masking: Draw, logits: Logits, *, tokenizer: Tokenizer, tokens: int
) -> ObjectiveCertificate:
    """Run the protocol on a copy of ``model``; never changes it. ``passed`` is False with a reason on any
    failure.

    ``masking`` and ``logits`` are what training and scoring call; ``tokens``: the longest row the model
    takes.
    """
    probe = copy.deepcopy(model).double().eval()
    length = min(tokens, LONGEST)
    lengths = sorted({n for n in (length, tokens - 1, tokens) if n > 1} or {length})
    generator = np.random.default_rng(0)
    with preserved_random_state(0):
        redraw(probe)
        ids = generator.integers(tokenizer.vocabulary, size=(ROWS, length))
        uniform = draws(SCORING, 1, 0, ROWS, length)
        masked = masking(ids, uniform)
        visible, asked, reason = _hidden(masked, masking, ids, uniform, tokenizer, generator)
        with torch.no_grad():
            reason = reason or _labels(probe, logits, masked, generator)
            live = _alive(probe, masked.inputs[:1], tokenizer.vocabulary)
        shifts = [Shift()] * 3
        for n in lengths:
            inputs = torch.from_numpy(generator.integers(tokenizer.vocabulary, size=(4, n)))
            for mode in MODES:
                ratios = _apart(probe, inputs, mode)
                case = f"{n} tokens, {mode}"
                shifts = [shift.or_larger(r, case) for shift, r in zip(shifts, ratios, strict=True)]
        probe.eval()
    rows, documents, padding = shifts
    reason = reason or _model_failure(rows, documents, padding, live)
    return ObjectiveCertificate(
        passed=not reason,
        lengths=tuple(lengths),
        visible=visible,
        asked=asked,
        leak_ratio=max(shift.ratio for shift in shifts),
        rows_ratio=rows.ratio,
        documents_ratio=documents.ratio,
        padding_ratio=padding.ratio,
        live_ratio=live,
        reason=reason,
    )


def _hidden(
    masked: Masked,
    masking: Draw,
    ids: np.ndarray,
    uniform: np.ndarray,
    tokenizer: Tokenizer,
    generator: np.random.Generator,
) -> tuple[float, int, str]:
    """(share of tokens asked for that are visible, how many were asked for, why it fails)."""
    is_hidden = masked.labels != IGNORED
    asked = int(is_hidden.sum())
    if not asked:
        return 0.0, 0, "the objective hides no token"
    if not np.array_equal(masked.labels[is_hidden], ids[is_hidden]):
        return 0.0, asked, "a label differs from the original token"
    visible = float((masked.inputs == masked.labels)[is_hidden].mean())
    share = 1 - REPLACED - RANDOM
    bound = share + RANDOM / 100 + DEVIATIONS * (share * (1 - share) / asked) ** 0.5
    if visible > bound:
        return (
            visible,
            asked,
            f"{visible:.0%} of the hidden tokens are unchanged in the input; "
            f"BERT's recipe leaves {share:.0%}",
        )
    covered = is_hidden & (masked.inputs != ids)
    other = _others(ids, tokenizer, generator)
    again = masking(np.where(covered, other, ids), uniform)
    moved = again.inputs != masked.inputs
    if moved.any():
        row, t = (int(i) for i in np.argwhere(moved)[0])
        return (
            visible,
            asked,
            f"the input at token {t} depends on a token that is hidden (row {row}): "
            "the mask does not hide the answer",
        )
    return visible, asked, ""


def _others(ids: np.ndarray, tokenizer: Tokenizer, generator: np.random.Generator) -> np.ndarray:
    """Another token of the same kind for each, where there is one: special or not, opening and closing a word
    or not.
    """
    kinds = np.array([(not p, p[:1].isspace(), p[-1:].isspace()) for p in tokenizer.pieces()]) @ np.array(
        [4, 2, 1]
    )
    out = ids.copy()
    for kind in np.unique(kinds):
        members = np.flatnonzero(kinds == kind)
        is_kind = kinds[ids] == kind
        if len(members) > 1:
            ranks = np.searchsorted(members, ids[is_kind])
            steps = generator.integers(1, len(members), size=int(is_kind.sum()))
            out[is_kind] = members[(ranks + steps) % len(members)]
    return out


def _labels(model: nn.Module, logits: Logits, masked: Masked, generator: np.random.Generator) -> str:
    rows = slice(0, 2)
    inputs, labels = torch.from_numpy(masked.inputs[rows]), torch.from_numpy(masked.labels[rows])
    shuffled = torch.from_numpy(generator.permuted(masked.labels[rows], axis=1))
    same = torch.equal(logits(model, MaskedRows(inputs, labels)), logits(model, MaskedRows(inputs, shuffled)))
    return "" if same else "logits depend on the labels: the model sees the answers"


def _apart(model: nn.Module, tokens: Tensor, mode: Mode) -> tuple[float, float, float]:
    """How far other rows, documents and padding move the outputs of a row, in shares of the scale.

    ``tokens`` (4, T): the last row is for changes.
    Calls of one shape start from the same random numbers, so dropout changes nothing; calls of two shapes are
    compared in evaluation mode only.
    """
    rows, other = tokens[:3], tokens[3:]
    half, length = tokens.shape[1] // 2, tokens.shape[1]
    pads = min(3, length - half)
    segments = torch.tensor([[1] * half + [2] * (length - half)])
    t = torch.arange(length)[None]
    padding = ((t >= pads) & (t < pads + half)).long()
    run = partial(_run, model, mode)
    first, second = rows[:1, :half], rows[1:2, half:]
    packed, padded = (
        torch.cat([first, second], dim=1),
        torch.cat([rows[2:3, :pads], first, rows[2:3, pads + half :]], dim=1),
    )
    base, in_pack, in_pads = run(rows), run(packed, segments), run(padded, padding)
    scale = max(base.abs().max().item(), TINY)

    def moved(outputs: Tensor, reference: Tensor) -> float:
        return torch.nan_to_num((outputs - reference).abs(), nan=float("inf")).max().item() / scale

    others = torch.cat([rows[:1], other, rows[1:2]])
    changed_pack = torch.where(segments == 2, other, packed)
    changed_pads = torch.where(padding == 0, other, padded)
    by_rows = moved(run(others)[:1], base[:1])
    by_documents = moved(run(changed_pack, segments)[:, :half], in_pack[:, :half])
    by_padding = moved(run(changed_pads, padding)[:, pads : pads + half], in_pads[:, pads : pads + half])
    if mode is EVALUATION:
        alone = run(first)
        by_rows = max(by_rows, moved(run(rows[:1]), base[:1]))
        by_documents = max(
            by_documents, moved(in_pack[:, :half], alone), moved(in_pack[:, half:], run(second))
        )
        by_padding = max(by_padding, moved(in_pads[:, pads : pads + half], alone))
    return by_rows, by_documents, by_padding


def _run(model: nn.Module, mode: Mode, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
    """What the last layer returns, from the same random numbers each time."""
    model.train(mode.train)
    torch.manual_seed(0)
    run: Any = getattr(model, "hidden", model)
    with torch.set_grad_enabled(mode.train):
        y: Tensor = run(tokens, segments)
    return y.detach()


def _alive(model: nn.Module, inputs: np.ndarray, vocabulary: int) -> float:
    """The least of: how far the middle token moves itself, something on its left, something on its right."""
    row = torch.from_numpy(inputs)
    base, t = model(row), row.shape[1] // 2
    changed = row.clone()
    changed[:, t] = (changed[:, t] + 1) % vocabulary
    moved = torch.nan_to_num((model(changed) - base).abs().amax(dim=-1)[0], nan=0.0) / max(
        base.abs().max().item(), TINY
    )
    return min(moved[t].item(), moved[:t].max().item(), moved[t + 1 :].max().item())


def _model_failure(rows: Shift, documents: Shift, padding: Shift, live: float) -> str:
    causes = (
        ("the other rows of a batch", rows),
        ("another document in the same row", documents),
        ("padding", padding),
    )
    for cause, shift in causes:
        if not shift.ratio <= MODEL.bound:
            return f"logits of a row depend on {cause} ({shift.ratio:.1e} of the scale; {shift.case})"
    if not live >= MODEL_LIVE.bound:
        return (
            f"logits hardly react to a token, or to one side only ({live:.1e} of the scale): "
            "the check would show nothing"
        )
    return ""

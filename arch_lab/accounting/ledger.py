"""The ledger of one model at one sequence length and batch: every number a comparison is matched on.

Legend: T tokens of a sequence, B batch, N parameters, V vocabulary, D width, L layers.
Canonical cost: matmul-like FLOPs and FFTs, a multiply-add is 2, training is 3 x forward (no recompute), causal
attention counted exactly, the head's matmul counted also when tied, elementwise work listed apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from arch_lab.architecture.decoder import Decoder, DecoderConfig, meta_model
from blocks.cost import Cost, total

TRAINING = 3  # forward + backward, the backward being two products for each of the forward's one


@dataclass(frozen=True, kw_only=True)
class Component:
    """Parameters and training FLOPs per token of one kind of part, summed over the layers that hold it."""

    name: str
    parameters: int
    flops_per_token: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Exact costs of one model. ``forward`` and ``training`` are canonical FLOPs per token (exact fractions)."""

    tokens: int
    batch: int
    parameters: dict[str, int]  # embedding, head, body, total
    cost: Cost  # forward, one sequence
    components: tuple[Component, ...]
    conventions: dict[str, float]  # training FLOPs per token by other papers' rules
    state_bytes: int  # one sequence after ``tokens`` tokens

    @property
    def forward(self) -> Fraction:
        return self.cost.per_token(self.tokens, self.batch)

    @property
    def training(self) -> Fraction:
        return TRAINING * self.forward


def ledger(config: DecoderConfig, *, tokens: int, batch: int, model: Decoder | None = None) -> Ledger:
    """Count the model built from ``config`` (on the meta device unless a built one is given).

    Raises: AssertionError when the parts do not sum to the whole, which would be a bug in a block's ledger.
    """
    model = model if model is not None else meta_model(config)
    parts = model.components(tokens)
    counts = model.parameter_counts()
    everything = sum(p.numel() for p in model.parameters())
    assert sum(n for _, n, _ in parts) == everything, "components do not sum to the model's parameters"
    assert counts["embedding"] + counts["head"] + counts["body"] == counts["total"] == everything
    cost = total(c for _, _, c in parts)
    return Ledger(
        tokens=tokens,
        batch=batch,
        parameters=counts,
        cost=cost,
        components=_by_kind(parts, tokens, batch),
        conventions=conventions(model, tokens),
        state_bytes=model.state_bytes(tokens) if model.causal else 0,
    )


def _by_kind(parts: list[tuple[str, int, Cost]], tokens: int, batch: int) -> tuple[Component, ...]:
    """Layers of one model repeat: the same part of every layer is one row, e.g. ``layers.*.mixer``."""
    rows: dict[str, list[Any]] = {}
    for name, parameters, cost in parts:
        kind = ".".join("*" if piece.isdigit() else piece for piece in name.split("."))
        row = rows.setdefault(kind, [0, Fraction(0), 0])
        row[0] += parameters
        row[1] += TRAINING * cost.per_token(tokens, batch)
        row[2] += 1
    return tuple(Component(name=n, parameters=p, flops_per_token=float(f), count=c) for n, (p, f, c) in rows.items())


def conventions(model: Decoder, tokens: int) -> dict[str, float]:
    """Training FLOPs per token as other papers count them, for readers who compare with those papers only.

    palm: 6 (N_body + V D) + 12 Σ(H h min(w, T)) (arXiv 2204.02311 app. B); six_nd: 6 N_total;
    kaplan: 6 N_body + 6 Σ(H h T) (2001.08361); chinchilla: embeddings and softmax counted (2203.15556 app. F).
    Architectures without attention scores have no score term: none is invented for them.
    """
    counts = model.parameter_counts()
    vocabulary, width = model.embedding.config.vocabulary, model.config.width  # type: ignore[attr-defined]
    scores = kaplan_scores = softmax = 0
    for layer in model.layers:
        config = layer.mixer.config
        heads, head_width = getattr(config, "heads", 0), getattr(config, "head_width", 0)
        span = min(getattr(config, "window", None) or tokens, tokens)
        scores += heads * head_width * span
        kaplan_scores += heads * head_width * tokens
        softmax += heads * tokens
    table = 2 * vocabulary * width
    return {
        "palm": float(6 * (counts["body"] + vocabulary * width) + 12 * scores),
        "six_nd": float(6 * counts["total"]),
        "kaplan": float(6 * counts["body"] + 6 * kaplan_scores),
        "chinchilla": float(3 * (2 * counts["body"] + 2 * table + 4 * kaplan_scores + 3 * softmax)),
    }

"""The ledger of one model at one sequence length and batch: every number a comparison is matched on.

Legend: T tokens of a sequence, B batch.
Canonical cost: matmul-like FLOPs and FFTs, a multiply-add is 2, training is 3 x forward (no recompute),
causal attention counted exactly, the head's matmul counted also when tied, elementwise work listed apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from arch_lab.accounting import conventions as papers
from arch_lab.models.model import Kind, Model, ModelConfig, Part, size_of
from arch_lab.stored import Stored
from blocks.cost import Cost, total

TRAINING = 3  # forward + backward, the backward being two products for each of the forward's one
ONE_TABLE: tuple[Kind, ...] = ("decoder", "encoder")  # kinds that the conventions of other papers are about


@dataclass(frozen=True, kw_only=True)
class Component(Stored):
    """Parameters and FLOPs per token of one kind of part, summed over the layers that hold it.

    ``flops_per_token``: canonical, training. ``matmul``, ``fft``, ``elementwise``: forward, by kind.
    """

    name: str
    parameters: int
    flops_per_token: float
    count: int
    matmul: float
    fft: float
    elementwise: float


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Exact costs of one model. ``forward`` and ``training``: canonical FLOPs per token (exact fractions)."""

    tokens: int
    batch: int
    parameters: dict[str, int]  # embedding, head, body, total
    cost: Cost  # forward, one sequence
    components: tuple[Component, ...]
    conventions: dict[str, float]  # training FLOPs per token by other papers' rules
    state_bytes: int  # one row after ``tokens`` tokens; 0 for a model that does not decode

    @property
    def forward(self) -> Fraction:
        return self.cost.per_token(self.tokens, self.batch)

    @property
    def training(self) -> Fraction:
        return TRAINING * self.forward

    @property
    def forward_by_kind(self) -> dict[str, Fraction]:
        """FLOPs per token: matmul and fft add up to ``forward``; elementwise is listed only."""
        return by_kind(self.cost, self.tokens, self.batch)


def by_kind(cost: Cost, tokens: int, batch: int) -> dict[str, Fraction]:
    """Forward FLOPs per token; what a forward pays once is spread over the ``batch * tokens`` it serves."""
    kinds = ("matmul", "fft", "elementwise")
    return {
        k: Fraction(batch * getattr(cost, k) + getattr(cost, f"shared_{k}"), batch * tokens) for k in kinds
    }


def ledger(config: ModelConfig, *, tokens: int, batch: int, model: Model | None = None) -> Ledger:
    """Count the model built from ``config`` (on the meta device unless a built one is given).

    An encoder–decoder is counted on a row of ``tokens`` split in two halves: its cost per token then compares
    with a decoder's on the same row. Raises: AssertionError when the parts do not sum to the whole, which
    would be a bug in a block's ledger; ConfigError for an encoder–decoder and a single token.
    """
    if model is None:
        model = config.build("meta")
    components, counts, everything = model.components(tokens), model.parameter_counts(), size_of(model)
    assert sum(component.parameters for component in components) == everything, (
        "components do not sum to the model's parameters"
    )
    assert counts["embedding"] + counts["head"] + counts["body"] == counts["total"] == everything
    return Ledger(
        tokens=tokens,
        batch=batch,
        parameters=counts,
        cost=total(component.cost for component in components),
        components=_by_part(components, tokens, batch),
        conventions=conventions(model, tokens),
        state_bytes=model.state_bytes(tokens),
    )


def _by_part(components: list[Part], tokens: int, batch: int) -> tuple[Component, ...]:
    """Layers of one model repeat: the same part of every layer is one row, e.g. ``layers.*.mixer``."""
    rows: dict[str, list[Part]] = {}
    for component in components:
        name = ".".join("*" if piece.isdigit() else piece for piece in component.name.split("."))
        rows.setdefault(name, []).append(component)
    return tuple(_component(name, row, tokens, batch) for name, row in rows.items())


def _component(name: str, components: list[Part], tokens: int, batch: int) -> Component:
    cost = total(component.cost for component in components)
    return Component(
        name=name,
        parameters=sum(component.parameters for component in components),
        flops_per_token=float(TRAINING * cost.per_token(tokens, batch)),
        count=len(components),
        **{kind: float(flops) for kind, flops in by_kind(cost, tokens, batch).items()},
    )


def conventions(model: Model, tokens: int) -> dict[str, float]:
    """``arch_lab.accounting.conventions`` of a built model: training FLOPs per token by other papers' rules.

    Those papers know one stack: of an encoder–decoder, whose tokens pass one of two, they would charge every
    token with both; and an image classifier has no table of tokens, from which their other terms are made.
    """
    counts = model.parameter_counts()
    if model.kind not in ONE_TABLE:
        return {"six_nd": float(6 * counts["total"])}
    embedding: Any = model.embedding.config
    return papers.conventions(
        non_embedding=counts["total"] - counts["embedding"],
        total=counts["total"],
        table=embedding.vocabulary * embedding.width,
        scores=papers.scores((layer.mixer.config for layer in model.layers), tokens),
    )

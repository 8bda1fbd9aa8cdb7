"""The ledger of one model at one sequence length and batch: every number a comparison is matched on.

Legend: T tokens of a sequence, B batch.
Canonical cost: matmul-like FLOPs and FFTs, a multiply-add is 2, training is 3 x forward (no recompute), causal
attention counted exactly, the head's matmul counted also when tied, elementwise work listed apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from arch_lab.accounting import conventions as papers
from arch_lab.models.decoder import Decoder, meta_model
from arch_lab.models.encoder import Encoder, EncoderConfig, meta_encoder
from arch_lab.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, meta_encoder_decoder
from arch_lab.models.image import ImageClassifier, ImageClassifierConfig, meta_image_classifier
from arch_lab.models.recipe import Blueprint
from blocks.cost import Cost, total
from blocks.errors import ConfigError

TRAINING = 3  # forward + backward, the backward being two products for each of the forward's one


@dataclass(frozen=True, kw_only=True)
class Component:
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
    """Exact costs of one model. ``forward`` and ``training`` are canonical FLOPs per token (exact fractions)."""

    tokens: int
    batch: int
    parameters: dict[str, int]  # embedding, head, body, total
    cost: Cost  # forward, one sequence
    components: tuple[Component, ...]
    conventions: dict[str, float]  # training FLOPs per token by other papers' rules
    state_bytes: int  # one sequence after ``tokens`` tokens (an encoder–decoder's after its half); 0 for an encoder or an image classifier

    @property
    def forward(self) -> Fraction:
        return self.cost.per_token(self.tokens, self.batch)

    @property
    def training(self) -> Fraction:
        return TRAINING * self.forward

    @property
    def forward_by_kind(self) -> dict[str, Fraction]:
        """matmul and fft, which add up to ``forward``, and elementwise, which is matched on nowhere; per token."""
        return by_kind(self.cost, self.tokens, self.batch)


def by_kind(cost: Cost, tokens: int, batch: int) -> dict[str, Fraction]:
    """Forward FLOPs per token; what a forward pays once is spread over the ``batch * tokens`` it serves."""
    kinds = ("matmul", "fft", "elementwise")
    return {k: Fraction(batch * getattr(cost, k) + getattr(cost, f"shared_{k}"), batch * tokens) for k in kinds}


Model = Decoder | Encoder | EncoderDecoder | ImageClassifier


def without_memory(config: Blueprint) -> Model:
    """The model on the meta device, whichever of the four it is."""
    if isinstance(config, EncoderDecoderConfig):
        return meta_encoder_decoder(config)
    if isinstance(config, ImageClassifierConfig):
        return meta_image_classifier(config)
    return meta_encoder(config) if isinstance(config, EncoderConfig) else meta_model(config)


def halves(tokens: int) -> tuple[int, int]:
    """(source, target) tokens of a row that an encoder–decoder splits in two, the longer half to the decoder (arXiv 2504.06225).

    Raises: ConfigError for a row too short to split.
    """
    if tokens < 2:
        raise ConfigError(f"an encoder–decoder splits its tokens between source and target, so it needs 2 or more, got {tokens}")
    return tokens // 2, tokens - tokens // 2


def ledger(config: Blueprint, *, tokens: int, batch: int, model: Model | None = None) -> Ledger:
    """Count the model built from ``config`` (on the meta device unless a built one is given).

    An encoder–decoder is counted on a row of ``tokens`` split in ``halves``: what it spends a token then compares with a
    decoder's on the same row. Raises: AssertionError when the parts do not sum to the whole, which would be a bug in a
    block's ledger; ConfigError for an encoder–decoder and a single token.
    """
    if model is None:
        model = without_memory(config)
    if isinstance(model, EncoderDecoder):
        source, target = halves(tokens)
        parts, state = model.components(source, target), model.state_bytes(target, source)
    else:
        parts, state = model.components(tokens), model.state_bytes(tokens) if model.causal else 0
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
        components=_by_part(parts, tokens, batch),
        conventions=conventions(model, tokens),
        state_bytes=state,
    )


def _by_part(parts: list[tuple[str, int, Cost]], tokens: int, batch: int) -> tuple[Component, ...]:
    """Layers of one model repeat: the same part of every layer is one row, e.g. ``layers.*.mixer``."""
    rows: dict[str, list[Any]] = {}
    for name, parameters, cost in parts:
        part = ".".join("*" if piece.isdigit() else piece for piece in name.split("."))
        row = rows.setdefault(part, [0, Cost(), 0])
        row[0] += parameters
        row[1] += cost
        row[2] += 1
    return tuple(
        Component(
            name=name,
            parameters=parameters,
            flops_per_token=float(TRAINING * cost.per_token(tokens, batch)),
            count=count,
            **{kind: float(flops) for kind, flops in by_kind(cost, tokens, batch).items()},
        )
        for name, (parameters, cost, count) in rows.items()
    )


def conventions(model: Model, tokens: int) -> dict[str, float]:
    """``arch_lab.accounting.conventions`` of a built model: training FLOPs per token by other papers' rules.

    Those papers know one stack: of an encoder–decoder, whose tokens pass one of two, they would charge every token with both;
    and an image classifier has no table of tokens, from which their other terms are made.
    """
    counts = model.parameter_counts()
    if isinstance(model, (EncoderDecoder, ImageClassifier)):
        return {"six_nd": float(6 * counts["total"])}
    embedding: Any = model.embedding.config
    return papers.conventions(
        non_embedding=counts["total"] - counts["embedding"],
        total=counts["total"],
        table=embedding.vocabulary * embedding.width,
        scores=papers.scores((layer.mixer.config for layer in model.layers), tokens),
    )

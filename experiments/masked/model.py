"""Masked-language training of an encoder: the objective, its metrics and its data as Lightning modules.

Legend: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from arch_lab.data import OrderedLoader, PreparedData, WindowOrder
from arch_lab.models import Kind
from arch_lab.training.datamodule import PreparedDataModule
from arch_lab.training.module import LanguageModel
from arch_lab.training.scoring import windows_at_once
from experiments.masked.objective import (
    MaskedBatch,
    MaskedLoader,
    MaskedObjective,
    MaskedRows,
    Masking,
    asked_for,
    masked_logits,
    masked_nats,
    scoring_batches,
    scoring_windows,
)


class MaskedSums(Metric):
    """Sums of nats, tokens and hits over the tokens asked for; divided once, at the end.

    ``update(nats (N,), hits (N,) bool)``.
    """

    full_state_update = False
    nats: Tensor
    tokens: Tensor
    hits: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("nats", "tokens", "hits"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nats: Tensor, hits: Tensor) -> None:
        self.nats += nats.double().sum()
        self.tokens += nats.numel()
        self.hits += hits.sum()


class MaskedBits(MaskedSums):
    """Bits to name a hidden token. Lower is better."""

    higher_is_better = False

    def compute(self) -> Tensor:
        return (
            self.nats
            / self.tokens
            / torch.log(torch.tensor(2.0, dtype=torch.float64, device=self.nats.device))
        )


class MaskedPerplexity(MaskedSums):
    """exp(nats per hidden token), which is not the perplexity of a text."""

    higher_is_better = False

    def compute(self) -> Tensor:
        return torch.exp(self.nats / self.tokens)


class MaskedAccuracy(MaskedSums):
    """Share of the hidden tokens that were named. Higher is better."""

    higher_is_better = True

    def compute(self) -> Tensor:
        return self.hits / self.tokens


def masked_metrics() -> MetricCollection:
    """The three, by the names used in every table and file."""
    metrics: dict[str, Metric | MetricCollection] = {
        "masked_bits": MaskedBits(),
        "masked_perplexity": MaskedPerplexity(),
        "masked_accuracy": MaskedAccuracy(),
    }
    return MetricCollection(
        metrics, compute_groups=False
    )  # groups share state by reference, which resetting would confuse


class MaskedLanguageModel(LanguageModel):
    """Masked-token training of an encoder (arguments: see LanguageModel; ``architecture`` is one of the
    encoders).
    """

    kind: ClassVar[Kind] = "encoder"
    sums_rows: ClassVar[bool] = True  # over the tokens asked for in the whole batch

    def setup(self, stage: str) -> None:
        self.tune_metrics, self.final_metrics = (
            masked_metrics().to(self.device),
            masked_metrics().to(self.device),
        )

    def training_step(self, batch: MaskedBatch, batch_index: int) -> Tensor:  # type: ignore[override]
        nats = masked_nats(self.model, batch)
        # the mean over the tokens asked for in the whole optimizer step: Lightning averages over devices and
        # divides by the batches accumulated, which would weight tokens by how many were asked for beside them
        return (
            nats.sum()
            * (self.trainer.world_size * self.trainer.accumulate_grad_batches)
            / batch.target_count.clamp(min=1)
        )

    def predict_step(self, batch: MaskedRows, batch_index: int) -> Tensor:  # type: ignore[override]
        """Nats of each token asked for, flat."""
        return masked_nats(self.model, batch)

    def _score(self, batch: MaskedRows, metrics: Any) -> None:  # type: ignore[override]
        metrics.update(*asked_for(masked_logits(self.model, batch), batch.labels))


class ScoringLoader:
    """The windows of a split that are scored, masked; a fresh pass at each iteration."""

    def __init__(
        self, split: Any, masking: Masking, *, tokens: int, batch: int, max_windows: int | None
    ) -> None:
        self.split, self.masking, self.tokens, self.batch, self.max_windows = (
            split,
            masking,
            tokens,
            batch,
            max_windows,
        )

    def __len__(self) -> int:
        return -(
            -len(scoring_windows(self.split, tokens=self.tokens, max_windows=self.max_windows)) // self.batch
        )

    def __iter__(self) -> Iterator[MaskedRows]:
        return scoring_batches(
            self.split, self.masking, tokens=self.tokens, batch=self.batch, max_windows=self.max_windows
        )


class MaskedDataModule(PreparedDataModule):
    """Prepared data with tokens hidden by the rule of ``objective``."""

    def __init__(
        self,
        data: PreparedData,
        objective: MaskedObjective,
        *,
        tokens: int,
        batch: int,
        seed: int,
        steps: int,
    ) -> None:
        super().__init__(data, tokens=tokens, batch=batch, seed=seed, steps=steps)
        self.objective = objective
        self.masking = Masking(data.tokenizer, share=objective.mask_share, whole_word=objective.whole_word)
        self.scoring = Masking(data.tokenizer, share=objective.scored_share, whole_word=objective.whole_word)

    def train_dataloader(self) -> MaskedLoader:  # type: ignore[override]
        rank, world, accumulate = 0, 1, 1
        if self.trainer:
            rank, world, accumulate = (
                self.trainer.global_rank,
                self.trainer.world_size,
                self.trainer.accumulate_grad_batches,
            )
        order = WindowOrder(self.data.train, tokens=self.tokens, batch=self.batch, seed=self.seed)
        return MaskedLoader(
            OrderedLoader(order, steps=self.steps_of(order), rank=rank, world=world),
            self.masking,
            accumulate=accumulate,
        )

    def val_dataloader(self) -> ScoringLoader:  # type: ignore[override]
        return self._scored(self.data.tune)

    def test_dataloader(self) -> ScoringLoader:  # type: ignore[override]
        return self._scored(self.data.validation)

    def predict_dataloader(self) -> ScoringLoader:  # type: ignore[override]
        return self.test_dataloader()

    def _scored(self, split: Any) -> ScoringLoader:
        rows, most = windows_at_once(self.tokens, self.data.vocabulary), self.objective.evaluation_windows
        return ScoringLoader(split, self.scoring, tokens=self.tokens, batch=rows, max_windows=most)

"""Fine-tuning of one encoder on pairs of a query and a relevant document.

The order of pairs, the objective, the run.

Legend: B pairs of a step, K negatives a query, M = B·(1 + K) documents of a step, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from arch_lab.training.callbacks import Divergence
from arch_lab.training.fit import FitResult, Report, fit
from arch_lab.training.optimizer import FINE_TUNING, optimizer_and_schedule
from blocks.losses import in_batch_nce, pairwise_m2
from experiments.retrieval.config import RetrievalTraining
from experiments.retrieval.encoder import TextEncoder, padded
from experiments.retrieval.readers import RetrievalSet
from experiments.retrieval.texts import CutTexts


class PairBatch(NamedTuple):
    """``queries`` and ``documents``: (tokens, segments); ``relevant`` (B, M) bool."""

    queries: tuple[Tensor, Tensor | None]
    documents: tuple[Tensor, Tensor | None]
    relevant: Tensor


class PairOrder:
    """Pairs and negatives of each step, a function of (seed, step) for all arms.

    ``pools``: query -> the documents its negatives are drawn from, with replacement, anew in every epoch. The
    pairs of an epoch that fill no whole batch are dropped, others in each. There must be at least a batch of
    them.
    """

    def __init__(
        self,
        data: RetrievalSet,
        training: RetrievalTraining,
        pools: Mapping[str, Sequence[str]],
        *,
        seed: int,
    ) -> None:
        self.pairs, self.pools, self.seed = data.pairs("train"), pools, seed
        self.batch_size, self.negatives = training.batch_size, training.negatives
        self.steps_per_epoch = len(self.pairs) // self.batch_size
        self.steps = training.epochs * self.steps_per_epoch
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = (
            None  # epoch, permutation, draws: a memo, not state
        )

    def step(self, step: int) -> tuple[list[str], list[str], list[str]]:
        """(B queries, B positives, B·K negatives, those of the first query first)."""
        epoch, index = divmod(step, self.steps_per_epoch)
        permutation, draws = self._cut(epoch)
        batch_pairs = permutation[index * self.batch_size : (index + 1) * self.batch_size]
        queries, positives = (
            list(column) for column in zip(*(self.pairs[i] for i in batch_pairs), strict=True)
        )
        negatives = [self._negative(self.pairs[i][0], int(word)) for i in batch_pairs for word in draws[i]]
        return queries, positives, negatives

    def _negative(self, query: str, word: int) -> str:
        pool = self.pools[query]
        return pool[word % len(pool)]  # 64 random bits: which of a few thousand is as good as even

    def _cut(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if self._epoch is None or self._epoch[0] != epoch:
            n = len(self.pairs)
            # raw words of Philox, whose stream is promised to stay the same between numpy versions (as in
            # arch_lab.data.order)
            words = np.random.Philox(key=np.array([self.seed, epoch], np.uint64)).random_raw(
                n * (1 + self.negatives)
            )
            self._epoch = epoch, np.argsort(words[:n], kind="stable"), words[n:].reshape(n, self.negatives)
        return self._epoch[1], self._epoch[2]


class PairLoader:
    """Batches of a whole training, ready for the module."""

    def __init__(self, texts: CutTexts, order: PairOrder) -> None:
        self.texts, self.order = texts, order

    def __len__(self) -> int:
        return self.order.steps

    def __iter__(self) -> Iterator[PairBatch]:
        texts, training = self.texts, self.texts.training
        for step in range(len(self)):
            queries, positives, negatives = self.order.step(step)
            documents = [*positives, *negatives]
            query_rows = [texts.query_rows[query] for query in queries]
            document_rows = [texts.document_rows[document] for document in documents]
            relevance = [texts.data.relevance[query] for query in queries]
            relevant = [[document in grades for document in documents] for grades in relevance]
            yield PairBatch(
                queries=padded(query_rows, max_tokens=training.query_tokens),
                documents=padded(document_rows, max_tokens=training.document_tokens),
                relevant=torch.tensor(relevant),
            )


class RetrievalModule(pl.LightningModule):
    """One encoder for queries and documents under the loss that ``training`` names."""

    def __init__(
        self, encoder: TextEncoder, training: RetrievalTraining, *, learning_rate: float, steps: int
    ) -> None:
        super().__init__()
        self.encoder, self.options, self.learning_rate, self.steps = encoder, training, learning_rate, steps

    def training_step(self, batch: PairBatch, batch_index: int) -> Tensor:
        queries, documents = self.encoder(*batch.queries), self.encoder(*batch.documents)
        n, k = len(queries), self.options.negatives
        if self.options.loss == "m2":
            return pairwise_m2(queries, documents[:n], documents[n:].unflatten(0, (n, k)))
        positive = torch.arange(n, device=queries.device)  # the positives stand first
        # a document that is relevant to the query is not its negative, whoever it was put into the batch for
        return in_batch_nce(
            queries, documents, positive, temperature=self.options.temperature, left_out=batch.relevant
        )

    def configure_optimizers(self) -> Any:
        return optimizer_and_schedule(
            self.encoder,
            self.options,
            learning_rate=self.learning_rate,
            steps=self.steps,
            rules=FINE_TUNING,
        )


def fine_tune(
    encoder: TextEncoder,
    loader: PairLoader,
    training: RetrievalTraining,
    *,
    learning_rate: float,
    report: Report | None = None,
) -> FitResult:
    """Train ``encoder`` in place. Raises: KeyboardInterrupt after Ctrl-C."""
    steps = len(loader)
    module = RetrievalModule(encoder, training, learning_rate=learning_rate, steps=steps)
    divergence = Divergence(math.inf)
    outcome = fit(module, loader, steps=steps, clip=training.clip_norm, callbacks=[divergence], report=report)
    finite = all(bool(p.isfinite().all()) for p in encoder.parameters())
    return replace(outcome, diverged=outcome.diverged or not finite)

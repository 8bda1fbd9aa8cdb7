"""Tokens as a LightningDataModule: training windows in an order that is a function of (seed, step) only.

Legend: B batch, T tokens.
``val`` is the tuning split (what learning rates are chosen on), ``test`` the held-out split (what is
reported).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from arch_lab.data import (
    DataConfig,
    OrderedLoader,
    PreparedData,
    WindowOrder,
    evaluation_batches,
    evaluation_windows,
    prepare,
)
from arch_lab.training.scoring import windows_at_once
from blocks.config import Options


class SplitLoader:
    """Every token of a split but its first scored once; a fresh pass at each iteration.

    Rank r of ``world`` gets batches r, r + world, … Every rank gets as many, because a collective in the
    forward pass waits for
    all: where a batch is missing, one without valid targets takes its place.
    """

    def __init__(self, split: Any, *, tokens: int, batch: int, rank: int = 0, world: int = 1) -> None:
        self.split, self.tokens, self.batch, self.rank, self.world = split, tokens, batch, rank, world

    def __len__(self) -> int:
        batches = -(-evaluation_windows(self.split, tokens=self.tokens) // self.batch)
        return -(-batches // self.world)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        # the first batch of each round is always there
        round_of: list[tuple[Tensor, Tensor, Tensor]] = []
        for batch in evaluation_batches(self.split, tokens=self.tokens, batch=self.batch):
            round_of.append(batch)
            if len(round_of) == self.world:
                yield round_of[self.rank]
                round_of = []
        if round_of:
            inputs, targets, valid = round_of[min(self.rank, len(round_of) - 1)]
            yield inputs, targets, valid & (self.rank < len(round_of))


class PreparedDataModule(pl.LightningDataModule):
    """Data that is already tokenized; several runs of a study share one.

    ``steps`` of None follows the trainer's ``max_steps``. ``recall_at_most``: split the loss of the held-out text by
    whether a token can be recalled; how often a bigram of the training text may occur and still be rare.
    """

    def __init__(
        self,
        data: PreparedData,
        *,
        tokens: int,
        batch: int,
        seed: int,
        steps: int | None,
        recall_at_most: int | None = None,
    ) -> None:
        super().__init__()
        self.recall_at_most = recall_at_most
        self.data, self.tokens, self.batch, self.seed, self.steps = data, tokens, batch, seed, steps

    def train_dataloader(self) -> OrderedLoader:
        rank, world = self.rank_and_world
        order = WindowOrder(self.data.train, tokens=self.tokens, batch=self.batch, seed=self.seed)
        accumulated = self.trainer.accumulate_grad_batches if self.trainer else 1
        return OrderedLoader(order, steps=self.steps_of(order) * accumulated, rank=rank, world=world)

    def steps_of(self, order: WindowOrder) -> int:
        """Optimizer steps to train, one pass over the split by default."""
        limit = self.trainer.max_steps if self.trainer else -1
        return self.steps or (limit if limit > 0 else order.steps_per_epoch)

    def val_dataloader(self) -> SplitLoader:
        return self._scoring(self.data.tune)

    def test_dataloader(self) -> SplitLoader:
        return self._scoring(self.data.validation)

    def _scoring(self, split: Any) -> SplitLoader:
        rank, world = self.rank_and_world
        rows = windows_at_once(self.tokens, self.data.vocabulary)
        return SplitLoader(split, tokens=self.tokens, batch=rows, rank=rank, world=world)

    @property
    def rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def predict_dataloader(self) -> SplitLoader:
        return self.test_dataloader()


class TextDataModule(PreparedDataModule):
    """Text for a single run: prepares (or finds in the cache) and serves it.

    The keys before ``sequence_length`` are those of a study's ``data:`` block (arch_lab.data.config).

    Args:
        source: embedded, files or hub.
        root: folder that relative paths start from.
        files: train, validation, tune and test, each a file or a list, for source files.
        hub: name, subset, revision, splits, streaming and limit_documents, for source hub.
        text_column: key of the text in jsonl, parquet and hub rows.
        document_start: regular expression found in the first line of each document of a text file.
        count_line_ends: each line adds one word.
        tune_fraction: share of the training bytes that fit and validate are scored on.
        validation_fraction: share held out for test where the source has no validation split.
        limit_bytes: bytes of training text to use, held-out shares included.
        tokenizer: kind (bytes, bpe or file), vocabulary, path and separator; bytes when not given.
        sequence_length: tokens of a window.
        batch_size: windows of a batch, over all devices.
        steps: optimizer steps; follows trainer.max_steps when not given, and the lower of the two ends the
            run.
        seed: seed of the order of batches.
        cache: where token files are kept.
    """

    def __init__(
        self,
        source: str = "embedded",
        root: str | None = None,
        files: Options | None = None,
        hub: Options | None = None,
        text_column: str = "text",
        document_start: str | None = None,
        count_line_ends: bool = False,
        tune_fraction: float = 0.05,
        validation_fraction: float = 0.05,
        limit_bytes: int | None = None,
        tokenizer: Options | None = None,
        sequence_length: int = 256,
        batch_size: int = 16,
        steps: int | None = None,
        seed: int = 0,
        cache: str = ".cache/arch_lab",
    ) -> None:
        arguments = locals()
        options = {
            field.name: arguments[field.name] for field in fields(DataConfig) if field.name in arguments
        }
        options["tokenizer"] = tokenizer or {"kind": "bytes"}
        config = DataConfig.from_options(options, where="data")
        super().__init__(
            prepare(config, Path(cache)), tokens=sequence_length, batch=batch_size, seed=seed, steps=steps
        )
        root = str(config.folder.resolve()) if source == "files" else root
        sizes = {"sequence_length": sequence_length, "batch_size": batch_size, "seed": seed}
        self.settings: Options = {**options, "root": root, **sizes}  # a checkpoint carries them

    @property
    def vocabulary(self) -> int:
        return self.data.vocabulary

"""Masked tokens: BERT's objective on text for bidirectional encoders, scored in bits per masked token, beside counting models.

The learning rate is chosen on a tuning split, the numbers come from a held-out split; which tokens are hidden there is a function
of the window alone, so every arm, rate and seed names the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arch_lab.data import PreparedData, prepare
from arch_lab.data.tokenizer_choice import make_tokenizer
from arch_lab.judge.measures import MASKED
from arch_lab.study.vocabulary import planned_vocabulary
from experiments.masked.baselines import masked_baselines
from experiments.masked.certificate import ObjectiveCertificate, certify_objective
from experiments.masked.objective import MaskedObjective, Masking, masked_logits, scoring_batches

if TYPE_CHECKING:  # Lightning takes seconds to load, and no refusal of data should wait for it
    import lightning.pytorch as pl

    from experiments.masked.model import MaskedDataModule, MaskedLanguageModel


class MaskedTokens:
    """The experiment as the study engine sees it (arch_lab.study.experiment.Experiment)."""

    measures = MASKED
    causal = False
    objective = MaskedObjective

    def vocabulary(self, data: Any) -> int:
        if data.tokenizer.kind == "file":  # it may bring a mask token of its own
            return int(make_tokenizer(data.tokenizer, [], data.folder).with_mask().vocabulary)
        return planned_vocabulary(data) + 1

    def prepare(self, config: Any, cache: Path, progress: Callable[[str], None]) -> PreparedData:
        data = prepare(config.data, cache, progress=progress)
        t = config.training
        data.train.require(
            t.sequence_length * t.batch_size + 1,
            f"one batch of {t.batch_size} windows of {t.sequence_length} tokens",
        )
        for split in (data.tune, data.validation):
            split.require(t.sequence_length, f"one window of {t.sequence_length} tokens")
        # the ids are those of every other study of this text; what they mean now includes a token that none of them is
        tokenizer = data.tokenizer.with_mask()
        both = f"{data.fingerprint} {tokenizer.fingerprint}"
        return replace(data, tokenizer=tokenizer, fingerprint=hashlib.sha256(both.encode()).hexdigest())

    def certify(self, model: Any, config: Any, data: PreparedData) -> ObjectiveCertificate:
        chosen = self._options(config.objective)
        masking = Masking(data.tokenizer, share=chosen.mask_share, whole_word=chosen.whole_word)
        return certify_objective(
            model, masking, masked_logits, tokenizer=data.tokenizer, tokens=config.training.sequence_length
        )

    def module(self, spec: Any) -> MaskedLanguageModel:
        from experiments.masked.model import MaskedLanguageModel

        return MaskedLanguageModel(**spec.settings())

    def datamodule(self, spec: Any, data: PreparedData) -> MaskedDataModule:
        from experiments.masked.model import MaskedDataModule

        t = spec.training
        chosen = self._options(spec.objective)
        return MaskedDataModule(
            data, chosen, tokens=t.sequence_length, batch=t.batch_size, seed=spec.seed, steps=spec.steps
        )

    def scores(
        self, trainer: pl.Trainer, module: pl.LightningModule, datamodule: pl.LightningDataModule
    ) -> dict[str, float]:
        (tune,) = trainer.validate(module, datamodule=datamodule, verbose=False)
        (final,) = trainer.test(module, datamodule=datamodule, verbose=False)
        primary = self.measures[0]
        return {
            **{m.key: final[f"final/{m.key}"] for m in self.measures},
            primary.tuned: tune[f"tune/{primary.key}"],
        }

    def baselines(self, config: Any, data: PreparedData) -> list[dict[str, Any]]:
        chosen = self._options(config.objective)
        masking = Masking(data.tokenizer, share=chosen.scored_share, whole_word=chosen.whole_word)
        t = config.training
        batches = scoring_batches(
            data.validation,
            masking,
            tokens=t.sequence_length,
            batch=t.batch_size,
            max_windows=chosen.evaluation_windows,
        )
        return masked_baselines(data, batches)

    def _options(self, objective: dict[str, Any]) -> MaskedObjective:
        return self.objective.from_options(objective, where="objective")


EXPERIMENT = MaskedTokens()

"""Masked tokens: BERT's objective on text for bidirectional encoders, scored in bits per masked token, beside
counting models.

The learning rate is options on a tuning split, the numbers come from a held-out split; which tokens are
hidden there is a function
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
from arch_lab.judge.measures import Measure
from arch_lab.judge.records import Baseline
from arch_lab.stored import Facts
from arch_lab.study.training_study import TrainingExperiment
from arch_lab.study.vocabulary import planned_vocabulary
from experiments.masked.baselines import masked_baselines
from experiments.masked.certificate import ObjectiveCertificate, certify_objective
from experiments.masked.objective import MaskedObjective, Masking, masked_logits, scoring_batches

if TYPE_CHECKING:  # Lightning takes seconds to load, and no refusal of data should wait for it
    from experiments.masked.model import MaskedDataModule, MaskedLanguageModel


MEASURES = (
    Measure(
        key="masked_bits",
        name="bits per masked token",
        short="bits per\nmasked token",
        meaning="How many bits the model needs on average to predict a hidden token, given the text on both sides. Depends on the "
        "tokenizer and on how many tokens are hidden, so it is comparable only within this study. Lower is better.",
    ),
    Measure(
        key="masked_perplexity",
        name="masked perplexity",
        short="masked ppl",
        logarithmic=True,
        meaning="The exponential of the same loss. It is not the perplexity of a text: the model sees what comes after the token, so "
        "do not compare it with a causal model's.",
    ),
    Measure(
        key="masked_accuracy",
        name="masked accuracy",
        short="accuracy ↑",
        higher_is_better=True,
        meaning="The share of hidden tokens to which the model gives the highest probability. Higher is better.",
    ),
)


class MaskedTokens(TrainingExperiment):
    """BERT's objective for bidirectional encoders on text."""

    has_regime = True
    measures = MEASURES
    kind = "encoder"
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
        # the ids are those of every other study of this text; what they mean now includes a token that none
        # of them is
        tokenizer = data.tokenizer.with_mask()
        both = f"{data.fingerprint} {tokenizer.fingerprint}"
        return replace(data, tokenizer=tokenizer, fingerprint=hashlib.sha256(both.encode()).hexdigest())

    def certify(self, model: Any, config: Any, data: PreparedData) -> ObjectiveCertificate:
        options = self._options(config.objective)
        masking = Masking(data.tokenizer, share=options.mask_share, whole_word=options.whole_word)
        return certify_objective(
            model, masking, masked_logits, tokenizer=data.tokenizer, tokens=config.training.sequence_length
        )

    def module(self, spec: Any) -> MaskedLanguageModel:
        from experiments.masked.model import MaskedLanguageModel

        return MaskedLanguageModel(**spec.settings())

    def datamodule(self, spec: Any, data: PreparedData) -> MaskedDataModule:
        from experiments.masked.model import MaskedDataModule

        t = spec.training
        options = self._options(spec.objective)
        return MaskedDataModule(
            data, options, tokens=t.sequence_length, batch=t.batch_size, seed=spec.seed, steps=spec.steps
        )

    def baselines(self, config: Any, data: PreparedData) -> list[Baseline]:
        options = self._options(config.objective)
        masking = Masking(data.tokenizer, share=options.scored_share, whole_word=options.whole_word)
        t = config.training
        batches = scoring_batches(
            data.validation,
            masking,
            tokens=t.sequence_length,
            batch=t.batch_size,
            max_windows=options.evaluation_windows,
        )
        return masked_baselines(data, batches)

    def _options(self, objective: Facts) -> MaskedObjective:
        return MaskedObjective.from_options(objective, where="objective")


EXPERIMENT = MaskedTokens()

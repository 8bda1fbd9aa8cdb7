"""Perplexity: next-token training on text, scored in bits per byte, beside n-gram models under the same rule.

The learning rate is chosen on a tuning split, the numbers come from a held-out split.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arch_lab.data import PreparedData, prepare
from arch_lab.judge.measures import PERPLEXITY
from arch_lab.laws import Certificate, certify_model
from arch_lab.metrics.ngram import ngram_baselines
from arch_lab.study.experiment import NoOptions
from arch_lab.study.vocabulary import planned_vocabulary

if TYPE_CHECKING:  # Lightning takes seconds to load, and no refusal of data should wait for it
    import lightning.pytorch as pl

    from arch_lab.training.datamodule import PreparedDataModule, TextDataModule
    from arch_lab.training.module import LanguageModel


KEYS = tuple(m.key for m in PERPLEXITY)


class Perplexity:
    """The experiment as the study engine sees it (arch_lab.study.experiment.Experiment)."""

    measures = PERPLEXITY
    causal = True
    objective = NoOptions

    def vocabulary(self, data: Any) -> int:
        return planned_vocabulary(data)

    def prepare(self, config: Any, cache: Path, progress: Callable[[str], None]) -> PreparedData:
        data = prepare(config.data, cache, progress=progress)
        t = config.training
        data.train.require(
            t.sequence_length * t.batch_size + 1,
            f"one batch of {t.batch_size} windows of {t.sequence_length} tokens",
        )
        for split in (data.tune, data.validation):
            split.require(t.sequence_length + 1, f"one window of {t.sequence_length} tokens")
        return data

    def certify(self, model: Any, config: Any, data: PreparedData) -> Certificate:
        t = config.training  # a window is as long in scoring as in training
        return certify_model(
            model,
            vocabulary=data.vocabulary,
            training_length=t.sequence_length,
            lengths=[t.sequence_length],
            batch=t.batch_size,
        )

    def module(self, spec: Any) -> LanguageModel:
        from arch_lab.training.module import LanguageModel

        return LanguageModel(**spec.settings())

    def datamodule(self, spec: Any, data: PreparedData) -> PreparedDataModule:
        from arch_lab.training.datamodule import PreparedDataModule

        t = spec.training
        return PreparedDataModule(
            data, tokens=t.sequence_length, batch=t.batch_size, seed=spec.seed, steps=spec.steps
        )

    def fit_classes(self) -> tuple[type[LanguageModel], type[TextDataModule]]:
        from arch_lab.training.datamodule import TextDataModule
        from arch_lab.training.module import LanguageModel

        return LanguageModel, TextDataModule

    def scores(
        self, trainer: pl.Trainer, module: pl.LightningModule, datamodule: pl.LightningDataModule
    ) -> dict[str, float]:
        (tune,) = trainer.validate(module, datamodule=datamodule, verbose=False)
        (final,) = trainer.test(module, datamodule=datamodule, verbose=False)
        return {
            **{name: final[f"final/{name}"] for name in KEYS},
            "tune_bits_per_byte": tune["tune/bits_per_byte"],
        }

    def baselines(self, config: Any, data: PreparedData) -> list[dict[str, Any]]:
        return [
            {"name": name, **{k: values[k] for k in KEYS}} for name, values in ngram_baselines(data).items()
        ]


EXPERIMENT = Perplexity()

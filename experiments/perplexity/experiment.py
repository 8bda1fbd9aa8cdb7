"""Perplexity: next-token training on text, scored in bits per byte, beside n-gram models under the same rule.

The learning rate is chosen on a tuning split, the numbers come from a held-out split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from arch_lab.data import PreparedData, prepare
from arch_lab.judge.measures import Measure
from arch_lab.judge.records import Baseline
from arch_lab.laws import Certificate, certify_model
from arch_lab.metrics.ngram import ngram_baselines
from arch_lab.stored import Facts
from arch_lab.study.training_study import TrainingExperiment
from arch_lab.study.vocabulary import planned_vocabulary
from blocks.config import Bounds, Config, Doc
from blocks.errors import UserError
from blocks.registry import trusted

if TYPE_CHECKING:  # Lightning takes seconds to load, and no refusal of data should wait for it
    import lightning.pytorch as pl

    from arch_lab.report.section import Section
    from arch_lab.training.datamodule import PreparedDataModule, TextDataModule
    from arch_lab.training.module import LanguageModel


PROMPT_TOKENS = 16
MEASURES = (
    Measure(
        key="bits_per_byte",
        name="bits per byte",
        meaning="How many bits the model needs on average to predict one byte of unseen text. It is the loss divided by ln 2 and by "
        "the bytes of the text, so it does not depend on the tokenizer. Lower is better.",
    ),
    Measure(
        key="perplexity",
        name="token perplexity",
        short="token ppl",
        logarithmic=True,
        meaning="The exponential of the loss per token: depends on the tokenizer, comparable only within this study.",
    ),
    Measure(
        key="word_perplexity",
        name="word perplexity",
        short="word ppl",
        logarithmic=True,
        meaning="The same per whitespace-separated word, comparable across tokenizers on the same text.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class NextTokens(Config):
    """Options of the objective, which has none; of what is measured beside it."""

    recall_at_most: Annotated[
        int,
        Bounds(minimum=0, maximum=10**9),
        Doc(
            "A bigram that occurs at most so often in the training text is rare: its second token must be recalled."
        ),
    ] = 10


class Perplexity(TrainingExperiment):
    """Next-token training of decoders on text."""

    has_regime = True
    measures = MEASURES
    objective = NextTokens

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
            data,
            tokens=t.sequence_length,
            batch=t.batch_size,
            seed=spec.seed,
            steps=spec.steps,
            recall_at_most=spec.objective["recall_at_most"],
        )

    def facts(
        self, trainer: pl.Trainer, module: pl.LightningModule, datamodule: pl.LightningDataModule
    ) -> Facts:
        """Loss on recall tokens, on the rest, and by position (arch_lab.metrics.recall_split)."""
        from experiments.perplexity.recall_split import RECALL

        return {RECALL: module.recall.scores().to_json()}  # type: ignore[operator, union-attr]

    def sections(self, study: Any) -> Sequence[Section]:
        from experiments.perplexity.recall_split import sections_of

        return sections_of(study)

    def sample(self, run: Path, data: PreparedData) -> dict[str, str] | None:
        """How the model goes on after the first words of the held-out text."""
        from arch_lab.generation import generate

        prompt = data.tokenizer.decode(data.validation.ids[:PROMPT_TOKENS].tolist()).strip()
        if not prompt:
            return None
        try:
            written = generate(run, prompt, temperature=0.8, trust=sorted(trusted()))
        except (
            UserError
        ):  # a mixer of the user's own that does not decode, or a prompt beyond the model's length
            return None
        return {"prompt": prompt, "text": written.text}

    def fit_classes(self) -> tuple[type[LanguageModel], type[TextDataModule]]:
        from arch_lab.training.datamodule import TextDataModule
        from arch_lab.training.module import LanguageModel

        return LanguageModel, TextDataModule

    def baselines(self, config: Any, data: PreparedData) -> list[Baseline]:
        keys = [m.key for m in self.measures]
        return [
            Baseline(name=name, scores={key: values[key] for key in keys})
            for name, values in ngram_baselines(data).items()
        ]


EXPERIMENT = Perplexity()

"""One LightningModule for every language model: objective and metrics, nothing about which blocks are inside.

Legend: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from arch_lab.data import Tokenizer
from arch_lab.metrics.recall_split import RecallSplit
from arch_lab.metrics.tokens import language_metrics
from arch_lab.models import Kind, Shape, recipe, require_kind
from arch_lab.training.optimizer import OPTIMIZER_KEYS, GroupRule, OptimizerConfig, optimizer_and_schedule
from arch_lab.training.saving import State
from arch_lab.training.scoring import at_least_float32, token_nats
from blocks.config import Options
from blocks.errors import ConfigError

StartFrom = Callable[
    [nn.Module, str, Tokenizer], None
]  # (model, path of a checkpoint, tokenizer of the data)
TOKENIZER = "tokenizer"  # key of a checkpoint: Tokenizer.to_dict()
# key of a checkpoint: how its text was cut into documents and counted, and the tokens of a sequence
READING = "reading"
# key of a checkpoint of fit: {data: options, fingerprint, precision}, all that scoring it again needs
RUN = "run"


class LanguageModel(pl.LightningModule):
    """Next-token training of an architecture.

    Every argument is plain JSON, so a checkpoint loads with weights_only.

    Args:
        architecture: registered name (gemma1, gemma2, gemma3, m2_gpt, hybrid, custom).
        options: options of that architecture.
        width: model width.
        depth: number of layers.
        ffn_width: hidden width of the channel mixer.
        vocabulary: rows of the token table.
        max_tokens: longest sequence the model is built for.
        learning_rate: peak learning rate.
        weight_decay: decoupled decay of matrices (tables and vectors never decay).
        optimizer: "adamw", or "muon" for matrices.
        beta1: AdamW's first-moment decay.
        beta2: AdamW's second-moment decay.
        warmup_fraction: share of the steps spent warming up.
        final_fraction: rate at the last step, as a share of the peak.
        schedule: "cosine", or "wsd" for a constant rate that falls at the end.
        decay_fraction: share of the steps over which the rate of wsd falls.
        warmup_steps: steps spent warming up, instead of warmup_fraction.
        total_steps: length of the schedule; None takes the trainer's max_steps.
        groups: optimizer groups by parameter name, each {name, match, rate, weight_decay}
            (arch_lab.training.optimizer.GroupRule).
        initialise_from: checkpoint whose weights training starts from (a run, a fit, a converted or a Hugging
            Face folder); its architecture and shape are used.

    Raises: ConfigError for an architecture of another ``kind``.
    """

    kind: ClassVar[Kind] = "decoder"
    start_from: StartFrom | None = None  # reads ``initialise_from``; training itself opens no checkpoint

    def __init__(
        self,
        architecture: str = "gemma3",
        options: Options | None = None,
        width: int = 128,
        depth: int = 4,
        ffn_width: int = 512,
        vocabulary: int = 1024,
        max_tokens: int = 256,
        learning_rate: float = 2e-3,
        optimizer: str = "adamw",
        weight_decay: float = 0.1,
        beta1: float = 0.9,
        beta2: float = 0.95,
        warmup_fraction: float = 0.05,
        final_fraction: float = 0.1,
        schedule: str = "cosine",
        decay_fraction: float = 0.2,
        warmup_steps: int | None = None,
        total_steps: int | None = None,
        groups: list[Options] | None = None,
        initialise_from: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.recall: RecallSplit | None = None  # of the held-out text, where its data ask for it
        shape = Shape(width=width, depth=depth, ffn_width=ffn_width)
        architecture_recipe = recipe(architecture, options)
        require_kind(architecture_recipe, self.kind)
        self.model: nn.Module = architecture_recipe.model(shape, vocabulary=vocabulary, max_tokens=max_tokens)

    def setup(self, stage: str) -> None:
        """Initial weights of a checkpoint, whose ids must be those of the data.

        Metrics need the split they score.
        """
        data = self.trainer.datamodule.data  # type: ignore[attr-defined]
        source = self.hparams.get("initialise_from")
        if stage == "fit" and source:
            if self.start_from is None:
                raise ConfigError(
                    "initialise_from: assign arch_lab.checkpoints.start_from to the start_from of this module"
                )
            self.start_from(self.model, source, data.tokenizer)
        widths = torch.from_numpy(data.token_bytes)
        self.tune_metrics = language_metrics(widths, words=data.tune.words, text_bytes=data.tune.bytes).to(
            self.device
        )
        self.final_metrics = language_metrics(
            widths, words=data.validation.words, text_bytes=data.validation.bytes
        ).to(self.device)
        self.recall = self._recall_split(self.trainer.datamodule)  # type: ignore[attr-defined]

    def _recall_split(self, source: Any) -> RecallSplit | None:
        at_most = getattr(source, "recall_at_most", None)
        if at_most is None:
            return None
        widths = torch.from_numpy(source.data.token_bytes)
        split = RecallSplit(source.data.bigrams, widths, length=source.tokens, at_most=at_most)
        return split.to(self.device)

    def on_save_checkpoint(self, checkpoint: State) -> None:
        """Add the tokenizer, and for fit the data options, to the checkpoint.

        It carries the tokenizer of its ids, and one of fit the options of its data.
        """
        source: Any = getattr(self.trainer, "datamodule", None)
        data = getattr(source, "data", None)
        tokenizer = getattr(data, "tokenizer", None)
        if tokenizer is not None:
            checkpoint[TOKENIZER] = tokenizer.to_dict()
        config = getattr(data, "config", None)
        if tokenizer is not None and config is not None:  # text; an experiment may prepare anything else
            cut = {
                name: getattr(config, name) for name in ("document_start", "text_column", "count_line_ends")
            }
            checkpoint[READING] = {**cut, "sequence_length": source.tokens}
        settings = getattr(source, "settings", None)
        if data is not None and settings is not None:
            checkpoint[RUN] = {
                "data": settings,
                "fingerprint": data.fingerprint,
                "precision": str(self.trainer.precision),
            }

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        tokens = batch["tokens"]
        logits = self.model(tokens[:, :-1])
        # every window is full, so the mean over this batch is the mean over the global batch under equal
        # shards
        loss = F.cross_entropy(at_least_float32(logits.flatten(0, 1)), tokens[:, 1:].flatten())
        if self.trainer.loggers:  # a single run (fit); the runs of a study write their own log
            self.log("train/loss", loss, prog_bar=True, sync_dist=self.trainer.world_size > 1)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int) -> None:
        self._score(batch, self.tune_metrics)

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int) -> None:
        self._score(batch, self.final_metrics)

    def predict_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int) -> Tensor:
        """Nats of each target (B, T)."""
        return token_nats(self.model, batch[0], batch[1])

    def on_validation_epoch_end(self) -> None:
        self._report(self.tune_metrics, "tune")

    def on_test_epoch_end(self) -> None:
        self._report(self.final_metrics, "final")

    def _score(self, batch: tuple[Tensor, Tensor, Tensor], metrics: Any) -> None:
        inputs, targets, valid = batch
        nats = token_nats(self.model, inputs, targets)
        metrics.update(nats, targets, valid)
        if self.recall is not None and metrics is self.final_metrics:
            self.recall.update(nats, inputs, targets, valid)

    def _report(self, metrics: Any, prefix: str) -> None:
        self.log_dict({f"{prefix}/{name}": value.float() for name, value in metrics.compute().items()})
        metrics.reset()

    def on_train_start(self) -> None:
        """Set the schedule's peak to a rate chosen after the optimizer was built."""
        ratio = self.hparams["learning_rate"] / self._peak_rate
        if ratio == 1:
            return
        for config in self.trainer.lr_scheduler_configs:
            scheduler: Any = config.scheduler
            scheduler.base_lrs = [rate * ratio for rate in scheduler.base_lrs]
            for group, rate, factor in zip(
                scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
            ):
                group["initial_lr"], group["lr"] = rate, rate * factor(scheduler.last_epoch)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, also in bfloat16.

        There is no loss scale to undo, though its plug-in assumes one of a fused optimizer.
        """
        plugin = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            if gradient_clip_algorithm == "value":
                torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
            else:
                torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
            return
        self.clip_gradients(
            optimizer, gradient_clip_val=gradient_clip_val, gradient_clip_algorithm=gradient_clip_algorithm
        )

    def configure_optimizers(self) -> Any:
        h: Any = self.hparams  # torch types it as a plain mapping; Lightning gives it attributes
        rules = [GroupRule.from_options(options, where="groups") for options in h.groups or []]
        # float16 has a loss scale, which must be undone before gradients are clipped: a fused step would undo
        # it after
        fused = self.trainer.precision != "16-mixed"
        self._peak_rate = h.learning_rate
        steps = h.total_steps or self.trainer.max_steps
        if steps < 1:
            steps = int(self.trainer.estimated_stepping_batches)
        options = OptimizerConfig(**{name: h[name] for name in OPTIMIZER_KEYS})
        return optimizer_and_schedule(
            self.model,
            options,
            learning_rate=h.learning_rate,
            steps=steps,
            warmup_steps=h.warmup_steps,
            rules=rules,
            fused=fused,
        )

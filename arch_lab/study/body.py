"""What a trained run knows, without what it was trained to say: the layers under a head of another task.

Legend: B batch, T tokens, D width.

    body = arch_lab.load_body("runs/wikitext2_masked/runs/m2_bert/lr-0.004_seed-0")
    states = body(tokens, segments)          # (B, T, D), tokens from body.tokenizer
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from arch_lab.data import Tokenizer
from arch_lab.models import Model
from arch_lab.stored import Json
from arch_lab.study.load import load_run
from blocks.errors import ConfigError


class Body(nn.Module):
    """tokens (B, T) int64 -> hidden states (B, T, D): those that the run's own head reads, bit for bit.

    ``segments`` (B, T) as in blocks.SequenceMixer, 0 = padding; ``types`` (B, T): sentence 0 or 1, only where
    ``types`` says that the model has a table of them. Without ``head`` what only the run's task needs is
    gone: parameters that no state depends on would get no gradient. ``causal``: whether a state sees the
    tokens after it, which decides where a classifier may read.
    Raises: ConfigError for types that the model does not have, for rows longer than ``max_tokens``.
    """

    def __init__(
        self, model: Model, tokenizer: Tokenizer | None, config: Json, *, head: bool = False
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.width: int = model.config.width
        self.max_tokens: int = model.config.max_tokens
        self.types: int = getattr(getattr(model.config, "embedding", None), "types", 0)
        self.has_head = head
        if not head:
            model.drop_head()

    @property
    def causal(self) -> bool:
        return bool(self.model.causal)

    def forward(self, tokens: Tensor, segments: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        if types is None:
            return self.model.hidden(tokens, segments)
        if not self.types:
            raise ConfigError(
                f"{type(self.model).__name__} has no table of sentence types; leave types out and separate "
                "by tokens"
            )
        return self.model.hidden(tokens, segments, types=types)

    def logits(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """(B, T, V) of the run's own task. Raises: ConfigError for a body loaded without its head."""
        if not self.has_head:
            raise ConfigError("this body was loaded without its head; load_body(run, head=True) keeps it")
        logits: Tensor = self.model(tokens, segments)
        return logits


def load_body(run: str | Path, *, head: bool = False, trust: Sequence[str] = ()) -> Body:
    """The body of a finished run, in evaluation mode on the CPU, to be trained further or read.

    ``trust``: modules of your own that its blocks come from.

    Raises: CheckpointError naming what is missing or damaged; ConfigError for an encoder–decoder, which has
    two bodies, and for images.
    """
    loaded = load_run(run, trust)
    if loaded.model.kind == "encoder_decoder":
        raise ConfigError(f"{run}: an encoder–decoder has two stacks, so it has no single body")
    if loaded.model.kind == "image_classifier":
        raise ConfigError(f"{run}: an image classifier reads pixels; a body is loaded from a run over text")
    return Body(loaded.model, loaded.tokenizer, loaded.config, head=head).eval()

"""Class logits, of pooled vectors or of every token. Legend: B batch, T tokens, D width, F hidden, C classes.

Sources: arXiv 2503.02656 (Gemma Encoder): dropout and an MLP on the pooled vector; BERT's own head is the one
without a layer; arXiv 1810.04805 §5.3 (named entities) for tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.heads.base import Readout, ReadoutConfig, TaskHead, cross_entropy
from blocks.registry import register

IGNORED = -100  # the label of tokens that carry none: torch's own default


@dataclass(frozen=True, kw_only=True)
class ClassificationHeadConfig(ReadoutConfig):
    classes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least_one("classes")


@register("classification", kind="head", config=ClassificationHeadConfig, source="arXiv:2503.02656")
class ClassificationHead(TaskHead):
    """Logits of C classes, one set a vector; loss: mean cross-entropy.

    Shape: (..., D) -> (..., C). Cost: as ``Readout`` with C outputs. Raises: ConfigError for a size below 1
    or a dropout outside [0, 1), from the loss for a label outside 0 … C - 1.
    """

    config: ClassificationHeadConfig

    def __init__(self, config: ClassificationHeadConfig) -> None:
        super().__init__(config)
        self.readout = Readout(config, config.classes)

    def reset_parameters(self) -> None:
        self.readout.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(x)  # type: ignore[no-any-return]

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(self(x), target)

    def predict(self, x: Tensor) -> Tensor:
        """(...) most likely class; of equal logits the lowest."""
        return self(x).argmax(dim=-1)  # type: ignore[no-any-return]

    def cost(self, tokens: int) -> Cost:
        return self.readout.cost(tokens)


@dataclass(frozen=True, kw_only=True)
class TokenClassificationHeadConfig(ClassificationHeadConfig):
    pass


@register(
    "token_classification", kind="head", config=TokenClassificationHeadConfig, source="arXiv:1810.04805 §5.3"
)
class TokenClassificationHead(ClassificationHead):
    """As ClassificationHead, at every token; the loss is a mean over labelled tokens, not over rows.

    Shape: (B, T, D) -> (B, T, C). Cost and errors: as ClassificationHead.
    """

    config: TokenClassificationHeadConfig

    def loss(self, x: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """``target`` (B, T): a class, or -100 where a token has none; what is not ``valid`` (B, T) counts as
        -100. 0 without any.
        """
        if valid is not None:
            if valid.shape != target.shape:
                raise ConfigError(
                    f"valid {tuple(valid.shape)} must have the shape of the labels {tuple(target.shape)}"
                )
            target = target.masked_fill(~valid, IGNORED)
            # 0 times the NaN somebody left in padding is NaN in the gradient
            x = x.masked_fill(~valid[..., None], 0)
        return cross_entropy(self(x), target, ignored=IGNORED)

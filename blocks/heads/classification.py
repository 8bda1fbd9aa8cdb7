"""Class logits of pooled vectors. Legend: D width, F hidden, C classes.

Source: arXiv 2503.02656 (Gemma Encoder): dropout and an MLP on the pooled vector; BERT's own head is the one without a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from blocks.cost import Cost
from blocks.heads.base import Readout, ReadoutConfig, TaskHead, cross_entropy
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class ClassificationHeadConfig(ReadoutConfig):
    classes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least_one("classes")


@register("classification", kind="head", config=ClassificationHeadConfig, source="arXiv:2503.02656")
class ClassificationHead(TaskHead):
    """Logits of C classes, one set a vector; loss: mean cross-entropy.

    Shape: (..., D) -> (..., C). Cost: as ``Readout`` with C outputs. Raises: ConfigError for a size below 1 or a dropout
    outside [0, 1), from the loss for a label outside 0 … C - 1.
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

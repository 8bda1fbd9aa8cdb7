"""Numbers without bounds. Legend: D width, F hidden, O outputs. Source: arXiv 1810.04805 (STS-B as
regression), 2503.02656.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from blocks.cost import Cost
from blocks.heads.base import Readout, ReadoutConfig, TaskHead
from blocks.norm import widened
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class RegressionHeadConfig(ReadoutConfig):
    outputs: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least_one("outputs")


@register("regression", kind="head", config=RegressionHeadConfig, source="arXiv:1810.04805 §4.1")
class RegressionHead(TaskHead):
    """O numbers a vector; loss: mean squared error, in float32 or wider.

    Shape: (..., D) -> (..., O), O = 1 kept as a dimension. Cost: as ``Readout`` with O outputs.
    Raises: ConfigError for a size below 1 or a dropout outside [0, 1).
    """

    config: RegressionHeadConfig

    def __init__(self, config: RegressionHeadConfig) -> None:
        super().__init__(config)
        self.readout = Readout(config, config.outputs)

    def reset_parameters(self) -> None:
        self.readout.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(x)  # type: ignore[no-any-return]

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """``target`` (..., O), or (...) when O is 1."""
        y = self(x)
        wide = widened(y.dtype)
        # reshaped, never broadcast: (B, 1) against (B,) would be B² differences
        return F.mse_loss(y.to(wide), target.to(wide).reshape(y.shape))

    def predict(self, x: Tensor) -> Tensor:
        """(..., O), or (...) when O is 1."""
        y: Tensor = self(x)
        return y.squeeze(-1) if self.config.outputs == 1 else y

    def cost(self, tokens: int) -> Cost:
        return self.readout.cost(tokens)

"""Block-diagonal linear map, the channel half of Monarch Mixer.

Legend: I in_features, O out_features, K blocks, P = ceil(I/K) inputs and Q = ceil(O/K) outputs of one block,
M rows.
Source: arXiv 2310.12109, section 3; index map and initialisation of HazyResearch/m2,
bert/src/mm/blockdiag_linear.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from blocks.contract import Block, BlockConfig
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.init import fan_in_uniform_
from blocks.ops.block_diagonal import block_diagonal_matmul
from blocks.registry import register


def check_blocks(blocks: int, **widths: int) -> None:
    """Raises: ConfigError unless every width is at least 1 and holds at least one channel per block."""
    if blocks < 1:
        raise ConfigError(f"blocks must be at least 1, got {blocks}")
    for name, width in widths.items():
        if width < 1:
            raise ConfigError(f"{name} must be at least 1, got {width}")
        if blocks > width:
            raise ConfigError(f"blocks = {blocks} exceeds {name} = {width}; use at most {width} blocks")


def dense_weight(layer: Block, in_features: int) -> Tensor:
    """The (O, I) matrix a linear block multiplies by, bias left out: its images of the unit vectors."""
    parameter = next(layer.parameters())
    eye = torch.eye(in_features, dtype=parameter.dtype, device=parameter.device)
    return (layer(eye) - layer(torch.zeros_like(eye[:1]))).mT


@dataclass(frozen=True, kw_only=True)
class BlockDiagonalLinearConfig(BlockConfig):
    in_features: int
    out_features: int
    blocks: int = 4  # 4 is what every published M2 model uses
    bias: bool = True
    # deal the inputs over the blocks like cards first, so that stacked layers mix all channels
    shuffle: bool = False

    def __post_init__(self) -> None:
        check_blocks(self.blocks, in_features=self.in_features, out_features=self.out_features)
        if self.shuffle and self.in_features % self.blocks:
            raise ConfigError(
                f"shuffle needs blocks = {self.blocks} to divide in_features = {self.in_features}"
            )


@register(
    "block_diagonal_linear", kind="linear", config=BlockDiagonalLinearConfig, source="arXiv:2310.12109 §3"
)
class BlockDiagonalLinear(Block):
    """``blocks`` independent dense maps side by side: y[k] = W[k] x[k] + b[k].

    Shape: (..., I) -> (..., O), any leading dimensions, any floating dtype. Widths that ``blocks`` does not
    divide are zero-padded on the way in and cut on the way out.
    Cost: K·P·Q weights (+ O), 2·K·P·Q FLOPs per token: I·O/K when K divides both.
    Initialisation: weight U(±1/sqrt(P)), bias U(±1/sqrt(O)) as released.
    Raises: ConfigError when ``blocks`` exceeds a width.
    """

    config: BlockDiagonalLinearConfig

    def __init__(self, config: BlockDiagonalLinearConfig) -> None:
        super().__init__(config)
        p, q = -(-config.in_features // config.blocks), -(-config.out_features // config.blocks)
        self.weight = nn.Parameter(torch.empty(config.blocks, q, p))
        self.bias = nn.Parameter(torch.empty(config.out_features)) if config.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        fan_in_uniform_(self.weight, self.weight.shape[-1])
        if self.bias is not None:
            # the released code takes the bias length as fan
            fan_in_uniform_(self.bias, self.config.out_features)

    def forward(self, x: Tensor) -> Tensor:
        blocks, _, p = self.weight.shape
        if self.config.shuffle:
            x = rearrange(x, "... (k p) -> ... (p k)", k=blocks)
        if blocks * p != self.config.in_features:
            x = F.pad(x, (0, blocks * p - self.config.in_features))
        bias: Tensor | None = self.bias
        if bias is not None and len(bias) != self.weight.shape[0] * self.weight.shape[1]:
            bias = F.pad(bias, (0, self.weight.shape[0] * self.weight.shape[1] - len(bias)))
        return block_diagonal_matmul(x, self.weight, bias)[..., : self.config.out_features]

    def dense_weight(self) -> Tensor:
        """(O, I): the dense matrix this layer is, zeros outside the blocks (columns permuted under
        ``shuffle``).
        """
        return dense_weight(self, self.config.in_features)

    def cost(self, tokens: int) -> Cost:
        # padded weights are multiplied too, so they count
        bias = self.config.out_features if self.bias is not None else 0
        return Cost(matmul=2 * tokens * self.weight.numel(), elementwise=tokens * bias)

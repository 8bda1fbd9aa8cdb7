"""Structured channel mixing: block-diagonal maps, two-factor Monarch maps and the channel mixers made of them."""

from blocks.monarch.block_diagonal import BlockDiagonalLinear, BlockDiagonalLinearConfig, block_diagonal_matmul
from blocks.monarch.glu import BlockDiagonalGLU, BlockDiagonalGLUConfig, BlockDiagonalMLP, BlockDiagonalMLPConfig
from blocks.monarch.monarch_linear import MonarchLinear, MonarchLinearConfig, monarch_multiply

__all__ = [
    "BlockDiagonalGLU",
    "BlockDiagonalGLUConfig",
    "BlockDiagonalLinear",
    "BlockDiagonalLinearConfig",
    "BlockDiagonalMLP",
    "BlockDiagonalMLPConfig",
    "MonarchLinear",
    "MonarchLinearConfig",
    "block_diagonal_matmul",
    "monarch_multiply",
]

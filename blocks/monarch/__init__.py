"""Monarch: the matrices and their projection, block-diagonal and two-factor linear maps, the channel mixers made of them."""

from blocks.monarch.block_diagonal import BlockDiagonalLinear, BlockDiagonalLinearConfig, block_diagonal_matmul
from blocks.monarch.dft import dft_factors, digit_reversal
from blocks.monarch.glu import BlockDiagonalGLU, BlockDiagonalGLUConfig, BlockDiagonalMLP, BlockDiagonalMLPConfig
from blocks.monarch.matrix import MonarchShape
from blocks.monarch.monarch_linear import MonarchLinear, MonarchLinearConfig, monarch_multiply
from blocks.monarch.projection import project, project_pair

__all__ = [
    "BlockDiagonalGLU",
    "BlockDiagonalGLUConfig",
    "BlockDiagonalLinear",
    "BlockDiagonalLinearConfig",
    "BlockDiagonalMLP",
    "BlockDiagonalMLPConfig",
    "MonarchLinear",
    "MonarchLinearConfig",
    "MonarchShape",
    "block_diagonal_matmul",
    "dft_factors",
    "digit_reversal",
    "monarch_multiply",
    "project",
    "project_pair",
]

"""Monarch: the matrices and their projection, block-diagonal and two-factor linear maps, the channel mixers made of them."""

from blocks.monarch.block_diagonal import BlockDiagonalLinear, BlockDiagonalLinearConfig
from blocks.monarch.dft import dft_factors, digit_reversal
from blocks.monarch.glu import BlockDiagonalGLU, BlockDiagonalGLUConfig, BlockDiagonalMLP, BlockDiagonalMLPConfig
from blocks.monarch.matrix import MonarchShape
from blocks.monarch.monarch_linear import MonarchLinear, MonarchLinearConfig
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
    "dft_factors",
    "digit_reversal",
    "project",
    "project_pair",
]

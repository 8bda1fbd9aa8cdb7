"""The linear map an option names, for blocks whose matrices may be dense or structured.

Legend: I in_features, O out_features.
"""

from __future__ import annotations

from typing import Literal

from blocks.contract import Block
from blocks.linear import Linear, LinearConfig
from blocks.monarch.monarch_linear import MonarchLinear, MonarchLinearConfig

LinearKind = Literal["dense", "monarch"]


def linear_map(kind: LinearKind, in_features: int, out_features: int, *, blocks: int = 4, bias: bool = True) -> Block:
    """(..., I) -> (..., O): a dense matrix, or two block-diagonal factors of ``blocks`` blocks (a dense map has no use for them)."""
    if kind == "dense":
        return Linear(LinearConfig(in_features=in_features, out_features=out_features, bias=bias))
    return MonarchLinear(MonarchLinearConfig(in_features=in_features, out_features=out_features, blocks=blocks, bias=bias))

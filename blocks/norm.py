"""Normalisation over the last axis, computed in float32 or wider and cast last.

Legend: D width.
Source: Gemma's RMSNorm ``x * rsqrt(mean x^2 + eps) * (1 + w)`` (google/gemma_pytorch gemma/model.py); the
product with
(1 + w) stays in float32: rounding first is a known defect of early ports (huggingface/transformers#29402).
Gemma 4 multiplies by w itself, which starts at 1, and norms its values without any gain
(google-deepmind/gemma gemma/gm/nn/gemma4).
Three classes and not one with a switch: what they share is a function, and a gain of another meaning is
another parameter.
LayerNorm: arXiv 1607.06450.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.contract import Block, BlockConfig
from blocks.cost import Cost
from blocks.dispatch import by_hand, through_formula
from blocks.errors import ConfigError
from blocks.registry import register

FEW_NUMBERS = 2**12  # without gradients up to here: one call of torch's, as in a step of decoding


def widened(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums and exponentials are taken in: float32, or float64 when the input is float64."""
    return torch.promote_types(dtype, torch.float32)


def scaled_rms(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """``x`` (..., D) over its root mean square, times ``gain`` (D,), in the wide dtype of ``x``."""
    wide = x.to(widened(x.dtype))
    gain = None if gain is None else gain.to(wide.dtype)
    tracked = torch.is_grad_enabled() and (wide.requires_grad or (gain is not None and gain.requires_grad))
    if not tracked and wide.device.type == "cpu" and wide.numel() <= FEW_NUMBERS:
        return F.rms_norm(wide, wide.shape[-1:], gain, eps)
    if not by_hand("rms_norm", wide, gain):
        return _formula(wide, gain, eps)
    if tracked:
        y: Tensor = _ScaledRMS.apply(wide, gain, eps)  # type: ignore[no-untyped-call]
        return y
    return _scale(wide, gain, eps)[0]


def _formula(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    y = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
    return y if gain is None else y * gain


def _scale(x: Tensor, gain: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """The result, and the inverse root (..., 1)."""
    squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    root = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
    y = x * root
    return (y if gain is None else y.mul_(gain)), root


class _ScaledRMS(torch.autograd.Function):
    """The formula in three passes forward and six backward; input and inverse root are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
        y, root = _scale(x, gain, eps)
        ctx.save_for_backward(x, gain, root)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, gain, root), need = ctx.saved_tensors, ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            return (*through_formula(lambda x, gain: _formula(x, gain, ctx.eps), (x, gain), need, dy), None)
        return (*_scale_backward(dy, x, gain, root, need), None)


def _scale_backward(
    dy: Tensor, x: Tensor, gain: Tensor | None, root: Tensor, need: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """With r the inverse root and p = dy·x: dgain = sum p·r, dx = r·(dy·gain - x·r²·mean(p·gain))."""
    products = dy * x
    # sums over rows and columns are matrix-vector products of rows as they lie in memory
    order = sorted(range(x.dim() - 1), key=products.stride, reverse=True)
    rows = products.permute(*order, -1).reshape(-1, x.shape[-1])
    dgain = torch.mv(rows.mT, root.permute(*order, -1).reshape(-1)) if need[1] else None
    if not need[0]:
        return None, dgain
    if gain is None:
        means, dx = products.mean(dim=-1, keepdim=True), dy * root
    else:
        sums = torch.mv(rows, gain).view(*(x.shape[i] for i in order), 1)
        means = sums.div_(x.shape[-1]).permute(*(order.index(i) for i in range(len(order))), -1)
        dx = (dy * gain).mul_(root)
    return dx.addcmul_(x, means * root * root * root, value=-1), dgain


def _check(config: RMSNormConfig | LayerNormConfig) -> None:
    name = type(config).__name__
    if config.width < 1:
        raise ConfigError(f"{name}: width must be at least 1, got {config.width}")
    if not config.eps > 0:
        raise ConfigError(f"{name}: eps must be positive, got {config.eps}")


@dataclass(frozen=True, kw_only=True)
class RMSNormConfig(BlockConfig):
    width: int
    eps: float = 1e-6

    def __post_init__(self) -> None:
        _check(self)


@register("rms_norm", kind="norm", config=RMSNormConfig, source="arXiv:1910.07467", complexity="O(T)")
class RMSNorm(Block):
    """Root-mean-square norm with gain (1 + w), w starting at 0.

    Shape: (..., D) -> (..., D), any floating dtype, kept. Cost: D weights, 4 elementwise FLOPs per number
    (square, sum, times the inverse root, times the gain). Raises: ConfigError for a width or eps that is not
    positive.
    """

    config: RMSNormConfig

    def __init__(self, config: RMSNormConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.empty(config.width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return scaled_rms(x, 1 + self.weight.to(widened(x.dtype)), self.config.eps).to(x.dtype)

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=4 * tokens * self.config.width)


@dataclass(frozen=True, kw_only=True)
class GainRMSNormConfig(RMSNormConfig):
    pass


@register(
    "rms_norm_gain",
    kind="norm",
    config=GainRMSNormConfig,
    source="google-deepmind/gemma gemma/gm/nn/gemma4",
    complexity="O(T)",
)
class GainRMSNorm(Block):
    """Root-mean-square norm with gain w, starting at 1 (Gemma 4).

    Weight decay pulls it to 0, not to the plain norm.

    Shape, cost and errors as RMSNorm.
    """

    config: GainRMSNormConfig

    def __init__(self, config: GainRMSNormConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.empty(config.width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return scaled_rms(x, self.weight, self.config.eps).to(x.dtype)

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=4 * tokens * self.config.width)


@dataclass(frozen=True, kw_only=True)
class UnitRMSNormConfig(RMSNormConfig):
    pass


@register(
    "rms_norm_unit",
    kind="norm",
    config=UnitRMSNormConfig,
    source="google-deepmind/gemma gemma/gm/nn/gemma4",
    complexity="O(T)",
)
class UnitRMSNorm(Block):
    """Root-mean-square norm without any gain: every output vector has root mean square 1.

    Shape: (..., D) -> (..., D), any floating dtype, kept. Cost: no weights, 3 elementwise FLOPs per number
    (square, sum, times the inverse root). Raises: ConfigError as RMSNorm does.
    """

    config: UnitRMSNormConfig

    def reset_parameters(self) -> None:
        """Nothing to draw."""

    def forward(self, x: Tensor) -> Tensor:
        return scaled_rms(x, None, self.config.eps).to(x.dtype)

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=3 * tokens * self.config.width)


@dataclass(frozen=True, kw_only=True)
class LayerNormConfig(BlockConfig):
    width: int
    eps: float = 1e-5

    def __post_init__(self) -> None:
        _check(self)


@register("layer_norm", kind="norm", config=LayerNormConfig, source="arXiv:1607.06450", complexity="O(T)")
class LayerNorm(Block):
    """Mean and variance removed, then gain (starts at 1) and bias (starts at 0).

    Shape: (..., D) -> (..., D), any floating dtype, kept. Cost: 2·D weights, 7 elementwise FLOPs per number
    (sum, subtract, square, sum, times the inverse root, gain, bias). Raises: ConfigError as RMSNorm does.
    """

    config: LayerNormConfig

    def __init__(self, config: LayerNormConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.empty(config.width))
        self.bias = nn.Parameter(torch.empty(config.width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        dtype = widened(x.dtype)
        y = F.layer_norm(
            x.to(dtype), (self.config.width,), self.weight.to(dtype), self.bias.to(dtype), self.config.eps
        )
        return y.to(x.dtype)

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=7 * tokens * self.config.width)

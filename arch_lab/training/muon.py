"""Muon for matrices and AdamW for everything else, as one optimizer.

Legend: G blocks of a block-diagonal weight, O and I the rows and columns of a matrix or of one block.
Source: Keller Jordan, https://kellerjordan.github.io/posts/muon/ (momentum, Newton-Schulz iteration and its
coefficients); arXiv 2502.16982 (updates scaled to the size of AdamW's, so that both use one learning rate).
torch.optim.Muon takes matrices only and computes in bfloat16, which most processors emulate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # of x, x³ and x⁵: the steepest at zero that keep singular values near 1
EPSILON = 1e-7
ADAMW_SCALE = 0.2  # root mean square of an AdamW update, over its learning rate


def orthogonalized(matrices: Tensor) -> Tensor:
    """The nearest matrices with singular values of about one (0.7 to 1.2).

    Shape: (..., O, I) -> the same. float32 at least. A zero matrix stays zero.
    """
    x = matrices if matrices.dtype == torch.float64 else matrices.float()
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    x = x / x.flatten(-2).norm(dim=-1).clamp(min=EPSILON)[..., None, None]
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x


class Muon(AdamW):
    """AdamW, except for groups with ``orthogonal: True``, whose updates are orthogonalized momentum.

    A weight of a group like that is a matrix (O, I), or the blocks (G, O, I) of a block-diagonal one, each of
    which is orthogonalized by itself. Weight decay is decoupled in both kinds of groups.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        matrices = [group for group in groups if group.get("orthogonal")]
        try:
            self.param_groups = [group for group in groups if not group.get("orthogonal")]
            super().step()
        finally:
            self.param_groups = groups
        for group in matrices:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group["lr"], group["weight_decay"])
        return loss

    def _update(self, weight: Tensor, gradient: Tensor, learning_rate: float, weight_decay: float) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            # AdamW looks for a step in every state that it loads
            state.update(step=torch.tensor(0.0), momentum=torch.zeros_like(gradient))
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        update = orthogonalized(gradient.lerp(momentum, MOMENTUM))  # Nesterov's form
        scale = ADAMW_SCALE * math.sqrt(max(weight.shape[-2:]))
        weight.mul_(1 - learning_rate * weight_decay).add_(
            update.to(weight.dtype), alpha=-learning_rate * scale
        )

"""Unusual mixers that are right: none of them may be refused.

Legend: B batch, T tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks import Cost
from tests.contracts.third_party import ByHistory, dense_attention_cost, third_party, time, wide


@third_party()
class LinearAttention(ByHistory):
    """Attention without softmax, elu features, written as a masked product and divided by its own sum."""

    def mix(self, x: Tensor) -> Tensor:
        q, k = F.elu(wide(x @ self.weight)) + 1, F.elu(wide(x)) + 1
        scores = (q @ k.mT).tril()
        return (scores @ wide(x) / scores.sum(dim=-1, keepdim=True)).to(x.dtype)

    def cost(self, tokens: int) -> Cost:
        return dense_attention_cost(tokens, self.config.width)


@third_party()
class GatedDeltaRule(ByHistory):
    """S <- a S + b (v - a S k) k', y = S q: a matrix state that corrects what it holds, token by token."""

    def mix(self, x: Tensor) -> Tensor:
        v = wide(x @ self.weight)
        k = F.normalize(wide(x), dim=-1)
        keep, write = torch.sigmoid(v[..., :1]), torch.sigmoid(v[..., 1:2])
        state = v.new_zeros(x.shape[0], x.shape[2], x.shape[2])
        outputs = []
        for t in range(x.shape[1]):
            state = keep[:, t, None] * state
            error = v[:, t] - (state * k[:, t, None]).sum(dim=-1)
            state = state + (write[:, t] * error)[..., None] * k[:, t, None]
            outputs.append((state * k[:, t, None]).sum(dim=-1))
        return torch.stack(outputs, dim=1).to(x.dtype)


@third_party()
class DiagonalStateSpace(ByHistory):
    """h <- a h + x with one complex decay per channel; the real part is read."""

    def make(self, config: Any) -> None:
        self.decay = nn.Parameter(torch.empty(config.width))
        self.angle = nn.Parameter(torch.empty(config.width))

    def mix(self, x: Tensor) -> Tensor:
        a = torch.polar(torch.sigmoid(wide(self.decay)), wide(self.angle))
        u = wide(x @ self.weight)
        h, outputs = torch.zeros_like(u[:, 0], dtype=a.dtype), []
        for t in range(x.shape[1]):
            h = a * h + u[:, t]
            outputs.append(h.real)
        return torch.stack(outputs, dim=1).to(x.dtype)

    def cost(self, tokens: int) -> Cost:
        return super().cost(tokens) + Cost(fft=6 * tokens * self.config.width)  # complex products


@third_party()
class CausalMaxPool(ByHistory):
    """The largest of the last seven tokens, channel by channel."""

    def mix(self, x: Tensor) -> Tensor:
        padded = F.pad((x @ self.weight).mT, (6, 0), value=float("-inf"))
        return F.max_pool1d(padded, kernel_size=7, stride=1).mT


@third_party()
class RunningMax(ByHistory):
    """The largest token so far, channel by channel: late in a row a small token changes nothing."""

    def mix(self, x: Tensor) -> Tensor:
        return (x @ self.weight).cummax(dim=-2).values


@third_party()
class ParallelScan(ByHistory):
    """h <- g h + x with a gate per token, in log2 T doublings instead of T steps."""

    def mix(self, x: Tensor) -> Tensor:
        h = wide(x @ self.weight)
        gate = torch.sigmoid(h)
        shift = 1
        while shift < x.shape[1]:
            before, passed = (
                F.pad(h, (0, 0, shift, 0))[:, :-shift],
                F.pad(gate, (0, 0, shift, 0), value=1.0)[:, :-shift],
            )
            inside = (time(x) >= shift)[:, None]
            h = torch.where(inside, h + gate * before, h)
            gate = torch.where(inside, gate * passed, gate)
            shift *= 2
        return h.to(x.dtype)


@third_party()
class DropsOut(ByHistory):
    """Dropout of whole tokens and of channels, in training mode."""

    def mix(self, x: Tensor) -> Tensor:
        y = F.dropout(x @ self.weight, 0.2, self.training)
        return y * (torch.rand(x.shape[:2], device=x.device) > 0.1)[..., None] if self.training else y


@third_party()
class BestEight(ByHistory):
    """Attention to the eight earlier tokens with the highest scores."""

    def mix(self, x: Tensor) -> Tensor:
        later = time(x)[:, None] < time(x)
        scores = (wide(x @ self.weight) @ wide(x).mT).masked_fill(later, float("-inf"))
        least = scores.topk(min(8, x.shape[1]), dim=-1).values[..., -1:]
        return (scores.masked_fill(scores < least, float("-inf")).softmax(dim=-1) @ wide(x)).to(x.dtype)

    def cost(self, tokens: int) -> Cost:
        return dense_attention_cost(tokens, self.config.width)

"""Third-party blocks for tests: one correct, one that convolves circularly and so lets the future in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blocks import BlockConfig, Cost, SequenceMixer, register
from blocks.cost import fft_flops


@dataclass(frozen=True, kw_only=True)
class CircularConfig(BlockConfig):
    width: int
    max_tokens: int


@register(
    "circular_convolution",
    kind="sequence_mixer",
    config=CircularConfig,
    source="test",
    complexity="O(T·log T)",
)
class CircularConvolution(SequenceMixer):
    """A long convolution whose transform has length T: the last tokens wrap round to the first outputs."""

    config: CircularConfig

    def __init__(self, config: CircularConfig) -> None:
        super().__init__(config)
        self.kernel = nn.Parameter(torch.empty(config.width, config.max_tokens))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.kernel, std=self.config.max_tokens**-0.5)

    @property
    def causal(self) -> bool:
        return True  # it says so

    def cost(self, tokens: int) -> Cost:
        return Cost(
            fft=fft_flops(tokens, 2 * self.config.width), shared_fft=fft_flops(tokens, self.config.width)
        )

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        tokens = x.shape[1]
        spectrum = torch.fft.rfft(x.mT, n=tokens) * torch.fft.rfft(self.kernel[:, :tokens], n=tokens)
        return torch.fft.irfft(spectrum, n=tokens).mT

    def init_state(self, batch: int, max_tokens: int) -> Any:
        return self.kernel.new_empty((batch, 0, self.config.width))

    def prefill(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        history = torch.cat([state, x], dim=1)
        return self.forward(history)[:, -x.shape[1] :], history

    def state_bytes(self, tokens: int) -> int:
        return tokens * self.config.width * self.kernel.itemsize

"""A bidirectional mixer for tests whose rows are not independent: it takes the batch's mean away, as a batch norm would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from blocks import BlockConfig, Cost, SequenceMixer, register


@dataclass(frozen=True, kw_only=True)
class BatchCentredConfig(BlockConfig):
    width: int


@register("batch_centred", kind="sequence_mixer", config=BatchCentredConfig, source="test", complexity="O(T)")
class BatchCentred(SequenceMixer):
    """y[t] = w · (x[t-1] + x[t] + x[t+1]), centred over the rows of the batch."""

    config: BatchCentredConfig

    def __init__(self, config: BatchCentredConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(Tensor(config.width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    @property
    def causal(self) -> bool:
        return False

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=5 * tokens * self.config.width)

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        y = self.weight * (x + x.roll(1, dims=1) + x.roll(-1, dims=1))
        return y - y.mean(dim=0, keepdim=True)

    def init_state(self, batch: int, max_tokens: int) -> Any:
        raise self.refuse_decoding()

    def prefill(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        raise self.refuse_decoding()

    def state_bytes(self, tokens: int) -> int:
        raise self.refuse_decoding()

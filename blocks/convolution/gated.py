"""The simplest long-convolution sequence mixer: one gate, one causal convolution.

Legend: B batch, T tokens, D width; inside, everything is channel-major (channels, B, T).
Source: the order-1 form of arXiv 2302.10866 (Hyena), without its short convolution; kept as the smallest
member of the family, to tell what the second gate and the short convolution of ``m2_mixer`` add.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from blocks.contract import BlockConfig, SequenceMixer
from blocks.convolution.filter import check_filter
from blocks.convolution.long import (
    Kernels,
    LongConvolution,
    linear_cost,
    over_documents,
    project_in,
    project_out,
    reset_linear,
)
from blocks.convolution.online import OnlineState
from blocks.cost import Cost
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class GatedLongConvConfig(BlockConfig):
    width: int
    max_tokens: int
    filter_order: int = 64
    filter_emb: int = 5
    sine_frequency: float = 10.0

    def __post_init__(self) -> None:
        check_filter(
            width=self.width,
            max_tokens=self.max_tokens,
            filter_order=self.filter_order,
            filter_emb=self.filter_emb,
        )


@dataclass
class GatedLongConvState:
    convolved: OnlineState
    kernels: Kernels


@register(
    "gated_long_conv",
    kind="sequence_mixer",
    config=GatedLongConvConfig,
    source="arXiv:2302.10866 §3",
    complexity="O(T·log T)",
)
class GatedLongConv(SequenceMixer):
    """The smallest long-convolution mixer: one causal convolution, one gate.

    y = W_out (gate · (kernel * value + skip · value)) with (gate, value) = W_in x.
    Shape: (B, T, D) -> (B, T, D), see SequenceMixer. Initialisation: dense maps N(0, 1/D) with zero bias,
    filter and skip as in ``LongConvolution``, zero kernels on fixed positions.
    Cost: 6·D² FLOPs per token in matmuls, two transforms of about 2T points per channel, the filter once a
    forward; elementwise: gate and biases, 1 each. State: D numbers per slot, slots doubling with t
    (blocks.convolution.online).
    Raises: ConfigError when a sequence exceeds ``max_tokens``.
    """

    config: GatedLongConvConfig
    causal = True

    def __init__(self, config: GatedLongConvConfig) -> None:
        super().__init__(config)
        self.in_linear = nn.Linear(config.width, 2 * config.width)
        self.long = LongConvolution(
            config.width,
            config.max_tokens,
            order=config.filter_order,
            emb=config.filter_emb,
            sine_frequency=config.sine_frequency,
            train_positions=False,
            start="zero",
        )
        self.out_linear = nn.Linear(config.width, config.width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_linear(self.in_linear)
        reset_linear(self.out_linear)
        self.long.reset_parameters()

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        return over_documents(self._mix, x, segments)

    def _mix(self, x: Tensor, valid: Tensor | None) -> Tensor:
        z = project_in(self.in_linear, x)
        gate, value = (z if valid is None else z.masked_fill(~valid, 0)).chunk(2)
        return project_out(self.out_linear, self.long(value) * gate)

    def init_state(self, batch: int, max_tokens: int) -> GatedLongConvState:
        return GatedLongConvState(
            convolved=self.long.init_state(batch), kernels=Kernels(min(max_tokens, self.config.max_tokens))
        )

    def prefill(self, x: Tensor, state: GatedLongConvState) -> tuple[Tensor, GatedLongConvState]:
        gate, value = project_in(self.in_linear, x).chunk(2)
        y, convolved = self.long.extend(value, state.convolved, state.kernels)
        return project_out(self.out_linear, y * gate), GatedLongConvState(
            convolved=convolved, kernels=state.kernels
        )

    def settle(self, state: GatedLongConvState, tokens: int) -> GatedLongConvState:
        return GatedLongConvState(
            convolved=self.long.settle(state.convolved, state.kernels, tokens), kernels=state.kernels
        )

    def state_bytes(self, tokens: int) -> int:
        return self.long.state_bytes(tokens)

    def cost(self, tokens: int) -> Cost:
        gate = Cost(elementwise=self.config.width * tokens)
        return (
            linear_cost(self.in_linear, tokens)
            + self.long.cost(tokens)
            + linear_cost(self.out_linear, tokens)
            + gate
        )

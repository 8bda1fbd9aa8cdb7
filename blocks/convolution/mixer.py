"""The sequence mixer of Monarch Mixer as released: short convolution, gate, long convolution, gate.

Legend: B batch, T tokens, D width, W short taps; inside, everything is channel-major (channels, B, T).
Source: arXiv 2310.12109; HazyResearch/m2, bert/src/mm/monarch_mixer_sequence_mixer.py
(MonarchMixerSequenceMixing).
Equal to the released class to 1e-10 in float64: formula, chunk order (x1 gates before the long convolution,
x2 after it; other Hyena code bases swap them), trainable positions, a causal short convolution in
bidirectional mixers too, and the residual convolution on the unprojected input. Different: padding never
enters (there it reaches every convolution); no dropout, no leading LayerNorm ("hyena_training_additions");
initial values, see ``M2Mixer.reset_parameters``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from blocks.contract import BlockConfig, SequenceMixer, parameter_dtype
from blocks.convolution.filter import FilterStart, check_filter
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
from blocks.convolution.short import ShortConvolution
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class M2MixerConfig(BlockConfig):
    width: int
    max_tokens: int  # longest sequence; positions and time are laid out over it
    causal: bool = True  # the released BERT is bidirectional
    filter_order: int = 64  # 128 in the released BERT
    filter_emb: int = 5
    sine_frequency: float = 10.0
    filter_inner: int = 2  # hidden maps of the filter's network beside its first and last
    # waves, fixed or the start of a trained table of max_tokens rows; None: trained in a released start only
    train_positions: bool | None = None
    residual_long_conv: bool = False  # True in the released BERT, which has no other skip around the mixer
    short_taps: int = 3
    start: Literal["balanced", "released"] = "balanced"  # initial values, see M2Mixer.reset_parameters

    def __post_init__(self) -> None:
        check_filter(
            width=self.width,
            max_tokens=self.max_tokens,
            filter_order=self.filter_order,
            filter_emb=self.filter_emb,
            filter_inner=self.filter_inner,
        )
        if self.short_taps < 1:
            raise ConfigError(f"short_taps must be at least 1 (the token itself), got {self.short_taps}")

    @property
    def trains_positions(self) -> bool:
        return self.start == "released" if self.train_positions is None else self.train_positions

    @property
    def filter_start(self) -> FilterStart:
        return "released" if self.start == "released" else "zero"


@dataclass
class M2MixerState:
    """Decoding state of each long convolution and of the short one."""

    short: Tensor  # (B, 3D, min(t, W - 1))
    gated: OnlineState
    residual: OnlineState | None
    kernels: Kernels


@register(
    "m2_mixer",
    kind="sequence_mixer",
    config=M2MixerConfig,
    source="arXiv:2310.12109 §3",
    complexity="O(T·log T)",
)
class M2Mixer(SequenceMixer):
    """Monarch Mixer's sequence mixer: a long convolution between two gates, behind a short one.

    y = W_out (gate_out · long(gate_in · value) + residual(x)) with (gate_in, gate_out, value) = short(W_in
    x).
    Shape: (B, T, D) -> (B, T, D), see SequenceMixer. Documents are convolved apart, exactly.
    Cost: 8·D² + 6·W·D FLOPs per token in matmuls (W short taps), two transforms of about 2T points per
    channel (four with the residual), the filter once per forward pass; elementwise: gates, residual sum and
    biases, 1 each.
    State: D numbers per slot (2·D with the residual), slots doubling with t up to ``max_tokens``
    (blocks.convolution.online), and min(t, W - 1)·3·D of the short convolution: no fixed size. Generation
    costs O(T·log² T) for T tokens.
    Raises: ConfigError when a sequence exceeds ``max_tokens``, or on decoding a bidirectional mixer.
    """

    config: M2MixerConfig

    def __init__(self, config: M2MixerConfig) -> None:
        super().__init__(config)
        self.in_linear = nn.Linear(config.width, 3 * config.width)
        self.short = ShortConvolution(3 * config.width, config.short_taps)
        self.long = _long(config)
        self.residual = _long(config) if config.residual_long_conv else None
        self.out_linear = nn.Linear(config.width, config.width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial values as ``start`` names them.

        "released": short convolution U(±1/sqrt(W)), filter maps U(±1/sqrt(fan_in)), skip N(0, 1), as the
        released class draws them. Its dense maps follow torch, which BERT redraws as N(0, 0.02); here they
        are N(0, 1/D) with zero bias, as everywhere. "balanced" changes the map in and the short convolution's
        bias, each for the reason at its line, and has slow filters that start at a zero kernel
        (ImplicitFilter).
        """
        reset_linear(self.in_linear)
        reset_linear(self.out_linear)
        self.short.reset_parameters()
        if self.config.start == "balanced":
            # With the full fan-in rule, seven layers of products of three noisy factors stayed near the
            # unigram loss for a hundred steps (5.99 nats after 60 steps on prose, BPE 1024, against 5.10; a
            # Gemma 3 of the same budget 5.13).
            # At 0.3 gates are 1 ± 0.2 instead of 1 ± 0.6. N(0, 0.02) of the published recipes is the same at
            # D = 225.
            nn.init.normal_(self.in_linear.weight, std=0.3 * self.config.width**-0.5)
            # Both gates start open: around zero the mixer is a product of three signals without a linear term
            # (the released BERT gets one from its residual convolution), and a two-layer model stayed at
            # chance on a copying task.
            nn.init.ones_(self.short.bias)
            # the value; before it the two gates, see _mix
            nn.init.zeros_(self.short.bias[2 * self.config.width :])
        self.long.reset_parameters()
        if self.residual is not None:
            self.residual.reset_parameters()

    @property
    def causal(self) -> bool:
        return self.config.causal

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        return over_documents(self._mix, x, segments)

    def _mix(self, x: Tensor, valid: Tensor | None) -> Tensor:
        def clean(z: Tensor) -> Tensor:
            return z if valid is None else z.masked_fill(~valid, 0)

        z = clean(project_in(self.in_linear, x))
        if self.causal:
            y = self.long.gated(z, self.short)
        else:
            # the short convolution's bias makes padding non-zero again: behind every token, where this kernel
            # sees it
            gate_in, gate_out, value = clean(self.short(z)).chunk(3)
            y = self.long(value * gate_in) * gate_out
        if self.residual is not None:
            y = y + self.residual(clean(x.permute(2, 0, 1).contiguous()))
        return project_out(self.out_linear, y)

    # --- decoding -------------------------------------------------------------------------------------------

    def init_state(self, batch: int, max_tokens: int) -> M2MixerState:
        if not self.causal:
            raise self.refuse_decoding()
        weight = self.in_linear.weight
        return M2MixerState(
            short=weight.new_empty((batch, 3 * self.config.width, 0), dtype=parameter_dtype(self)),
            gated=self.long.init_state(batch),
            residual=None if self.residual is None else self.residual.init_state(batch),
            kernels=Kernels(min(max_tokens, self.config.max_tokens)),
        )

    def prefill(self, x: Tensor, state: M2MixerState) -> tuple[Tensor, M2MixerState]:
        z = project_in(self.in_linear, x)
        gate_in, gate_out, value = self.short(z, state.short).chunk(3)
        y, gated = self.long.extend(value * gate_in, state.gated, state.kernels)
        y, residual = y * gate_out, None
        if self.residual is not None and state.residual is not None:
            extra, residual = self.residual.extend(x.permute(2, 0, 1), state.residual, state.kernels)
            y = y + extra
        tail = self.short.next_tail(z, state.short)
        return project_out(self.out_linear, y), M2MixerState(
            short=tail, gated=gated, residual=residual, kernels=state.kernels
        )

    def settle(self, state: M2MixerState, tokens: int) -> M2MixerState:
        gated = self.long.settle(state.gated, state.kernels, tokens)
        residual = None
        if self.residual is not None and state.residual is not None:
            residual = self.residual.settle(state.residual, state.kernels, tokens)
        return M2MixerState(short=state.short, gated=gated, residual=residual, kernels=state.kernels)

    def state_bytes(self, tokens: int) -> int:
        convolutions = 1 if self.residual is None else 2
        short = (
            3 * self.config.width * min(tokens, self.config.short_taps - 1) * parameter_dtype(self).itemsize
        )
        return convolutions * self.long.state_bytes(tokens) + short

    # --- the ledger -----------------------------------------------------------------------------------------

    def cost(self, tokens: int) -> Cost:
        gates = 2 if self.residual is None else 3
        cost = (
            linear_cost(self.in_linear, tokens)
            + self.short.cost(tokens)
            + self.long.cost(tokens)
            + linear_cost(self.out_linear, tokens)
        )
        if self.residual is not None:
            cost = cost + self.residual.cost(tokens)
        return cost + Cost(elementwise=gates * self.config.width * tokens)


def _long(config: M2MixerConfig) -> LongConvolution:
    return LongConvolution(
        config.width,
        config.max_tokens,
        order=config.filter_order,
        emb=config.filter_emb,
        sine_frequency=config.sine_frequency,
        inner=config.filter_inner,
        train_positions=config.trains_positions,
        bidirectional=not config.causal,
        start=config.filter_start,
    )

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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeGuard, get_args

from torch import Tensor, nn

from blocks.config import Bounds, Doc, Options
from blocks.contract import BlockConfig, SequenceMixer, parameter_dtype
from blocks.convolution.bounded import BoundedConvolution, Skip
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
from blocks.convolution.short import ShortConvolution
from blocks.cost import Cost, total
from blocks.errors import ConfigError
from blocks.registry import register

Part = Literal["long_convolution", "short_convolution", "gates"]
PARTS: tuple[Part, ...] = get_args(Part)
Ablation = Annotated[
    tuple[Part, ...] | Part,
    Doc("Parts removed from every M2 mixer: long_convolution, short_convolution, gates; one or a list."),
]
Lags = Annotated[
    int | None,
    Bounds(minimum=1),
    Doc("Lags of the long convolution's kernel, zero beyond; null: as many as the longest sequence."),
]


@dataclass(frozen=True, kw_only=True)
class M2MixerConfig(BlockConfig):
    width: int
    max_tokens: int  # longest sequence; positions and time of a filter without ``taps`` are laid out over it
    causal: bool = True  # the released BERT is bidirectional
    filter_order: int = 64  # 128 in the released BERT
    filter_emb: int = 5
    sine_frequency: float = 10.0
    filter_inner: int = 2  # hidden maps of the filter's network beside its first and last
    # waves, fixed or the start of a trained table of max_tokens rows; None: trained in a released start only
    train_positions: bool | None = None
    residual_long_conv: bool = False  # True in the released BERT, which has no other skip around the mixer
    short_taps: int = 3
    taps: Lags = None
    ablate: Ablation = ()
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
        removed = (self.ablate,) if isinstance(self.ablate, str) else self.ablate
        ordered = tuple(part for part in PARTS if part in removed)
        if ordered != self.ablate:  # one spelling of what is removed
            object.__setattr__(self, "ablate", ordered)
        if self.taps is not None and not self.has("long_convolution"):
            raise ConfigError(
                f"taps = {self.taps} bounds the long convolution, which ablate removes; leave out one of them"
            )

    def has(self, part: Part) -> bool:
        """Whether the mixer has this part, that is, ``ablate`` does not remove it."""
        return part not in self.ablate

    @property
    def projected(self) -> int:
        """Channels of the map in: value and both gates."""
        return (3 if self.has("gates") else 1) * self.width

    @property
    def trains_positions(self) -> bool:
        return self.start == "released" if self.train_positions is None else self.train_positions

    @property
    def filter_start(self) -> FilterStart:
        return "released" if self.start == "released" else "zero"


@dataclass
class M2MixerState:
    """Decoding state of each long convolution, as it keeps it, and of the short one."""

    short: Tensor  # (B, 3D, min(t, W - 1))
    gated: Any
    residual: Any
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
    ``taps=n`` bounds the kernels of the long convolutions: at most n - 1 numbers per channel of state
    (blocks.convolution.bounded). ``ablate`` removes parts with their parameters, cost and state. Without the
    long convolution (both, with a residual) its skip term stays; without gates W_in gives the value alone.
    Raises: ConfigError when a sequence exceeds ``max_tokens`` and the kernel is not bounded, or on decoding a
    bidirectional mixer.
    """

    config: M2MixerConfig

    def __init__(self, config: M2MixerConfig) -> None:
        super().__init__(config)
        self.in_linear = nn.Linear(config.width, config.projected)
        has_short = config.has("short_convolution")
        self.short = ShortConvolution(config.projected, config.short_taps) if has_short else None
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
        if self.short is not None:
            self.short.reset_parameters()
        if self.config.start == "balanced" and self.config.has("gates"):
            # With the full fan-in rule, seven layers of products of three noisy factors stayed near the
            # unigram loss for a hundred steps (5.99 nats after 60 steps on prose, BPE 1024, against 5.10; a
            # Gemma 3 of the same budget 5.13).
            # At 0.3 gates are 1 ± 0.2 instead of 1 ± 0.6. N(0, 0.02) of the published recipes is the same at
            # D = 225.
            nn.init.normal_(self.in_linear.weight, std=0.3 * self.config.width**-0.5)
            # Both gates start open: around zero the mixer is a product of three signals without a linear term
            # (the released BERT gets one from its residual convolution), and a two-layer model stayed at
            # chance on a copying task.
            bias = self.in_linear.bias if self.short is None else self.short.bias
            nn.init.ones_(bias)
            # the value; before it the two gates, see _mix
            nn.init.zeros_(bias[2 * self.config.width :])
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
        if self.causal and self.short is not None and self._fuses(self.long):
            y = self.long.gated(z, self.short)
        else:
            # the short convolution's bias makes padding non-zero again: behind every token, where a
            # bidirectional kernel sees it
            y = self._between_gates(z if self.short is None else clean(self.short(z)), self.long)
        if self.residual is not None:
            y = y + self.residual(clean(x.permute(2, 0, 1).contiguous()))
        return project_out(self.out_linear, y)

    def _fuses(self, convolution: nn.Module) -> TypeGuard[LongConvolution]:
        """Whether one operation computes the gates and ``convolution``."""
        return self.config.has("gates") and isinstance(convolution, LongConvolution)

    def _between_gates(self, z: Tensor, convolve: Callable[[Tensor], Tensor]) -> Tensor:
        """gate_out · convolve(gate_in · value) of z (3D, B, T), or convolve(z) without gates: (D, B, T)."""
        if not self.config.has("gates"):
            return convolve(z)
        gate_in, gate_out, value = z.chunk(3)
        return convolve(value * gate_in) * gate_out

    # --- decoding -------------------------------------------------------------------------------------------

    def init_state(self, batch: int, max_tokens: int) -> M2MixerState:
        if not self.causal:
            raise self.refuse_decoding()
        weight = self.in_linear.weight
        return M2MixerState(
            short=weight.new_empty((batch, self.config.projected, 0), dtype=parameter_dtype(self)),
            gated=self.long.init_state(batch),
            residual=None if self.residual is None else self.residual.init_state(batch),
            kernels=Kernels(min(max_tokens, self.config.max_tokens)),
        )

    def prefill(self, x: Tensor, state: M2MixerState) -> tuple[Tensor, M2MixerState]:
        z, tail = project_in(self.in_linear, x), state.short
        if self.short is not None:
            z, tail = self.short(z, tail), self.short.next_tail(z, tail)
        following = M2MixerState(short=tail, gated=None, residual=None, kernels=state.kernels)

        def convolve(u: Tensor) -> Tensor:
            v, following.gated = self.long.extend(u, state.gated, state.kernels)
            return v

        y = self._between_gates(z, convolve)
        if self.residual is not None:
            extra, following.residual = self.residual.extend(
                x.permute(2, 0, 1), state.residual, state.kernels
            )
            y = y + extra
        return project_out(self.out_linear, y), following

    def settle(self, state: M2MixerState, tokens: int) -> M2MixerState:
        gated = self.long.settle(state.gated, state.kernels, tokens)
        residual = None
        if self.residual is not None:
            residual = self.residual.settle(state.residual, state.kernels, tokens)
        return M2MixerState(short=state.short, gated=gated, residual=residual, kernels=state.kernels)

    def state_bytes(self, tokens: int) -> int:
        convolutions = 1 if self.residual is None else 2
        held = 0 if self.short is None else min(tokens, self.short.taps - 1)
        short = self.config.projected * held * parameter_dtype(self).itemsize
        return convolutions * self.long.state_bytes(tokens) + short

    # --- the ledger -----------------------------------------------------------------------------------------

    def cost(self, tokens: int) -> Cost:
        gates = (2 if self.config.has("gates") else 0) + (self.residual is not None)
        parts = (part for part in (self.short, self.long, self.residual) if part is not None)
        maps = linear_cost(self.in_linear, tokens) + linear_cost(self.out_linear, tokens)
        cost = maps + total(part.cost(tokens) for part in parts)
        return cost + Cost(elementwise=gates * self.config.width * tokens)


def _long(config: M2MixerConfig) -> LongConvolution | Skip:
    if not config.has("long_convolution"):
        return Skip(config.width)
    options: Options = {
        "order": config.filter_order,
        "emb": config.filter_emb,
        "sine_frequency": config.sine_frequency,
        "inner": config.filter_inner,
        "train_positions": config.trains_positions,
        "bidirectional": not config.causal,
        "start": config.filter_start,
    }
    if config.taps is None or config.taps >= config.max_tokens:
        return LongConvolution(config.width, config.max_tokens, **options)
    return BoundedConvolution(config.width, config.taps, **options)

"""Monarch Mixer's sequence mixer with a learned causal polynomial product in place of its long convolution.

Legend: D width, B batch, T tokens, W short taps, G groups; (s, b, ..., b) digits of the time index, p of
them; n = s·b^(p-1) >= T.
Source: arXiv 2310.12109, section 4 (the paper trained only the convolution, its special case); theorem,
conditions and the form computed here: blocks.monarch.polynomial. Everything around the product is
``m2_mixer``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from blocks.contract import SequenceMixer, parameter_dtype
from blocks.convolution.fft import causal_convolution
from blocks.convolution.long import LongConvolution, project_in, project_out
from blocks.convolution.mixer import M2Mixer, M2MixerConfig, Part
from blocks.convolution.short import ShortConvolution
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.monarch.polynomial import DigitTriangular, Factors, apply, digits_for, polynomial_product, solve
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class MonarchPolynomialConfig(M2MixerConfig):
    # by construction, and parts that the product does not have: no options here
    causal: ClassVar[bool] = True  # type: ignore[misc]
    taps: ClassVar[None] = None  # type: ignore[misc]
    ablate: ClassVar[tuple[Part, ...]] = ()  # type: ignore[misc]
    # digits of the time index; each costs one GEMM a member, and fewer parameters remain at a higher order
    order: int = 2
    # values of every digit but the top one; None: the smallest b with b^order >= max_tokens
    base: int | None = None
    # matrices a member: channels of one group share one. They grow like T^(1 + 1/order)/2 entries each
    groups: int = 1
    # one A for output, kernel and input each, or the same for all three
    members: Literal["separate", "shared"] = "separate"

    def __post_init__(self) -> None:
        super().__post_init__()
        digits_for(self.max_tokens, self.order, self.base)
        if self.groups < 1 or self.width % self.groups:
            raise ConfigError(f"groups = {self.groups} must divide width = {self.width}")


class PolynomialConvolution(LongConvolution):
    """y = A_0^{-1} causal_convolution(A_1 k, A_2 u), k the implicit filter with the skip at lag 0.

    Starts as that convolution.

    Shape: (D, B, T) -> (D, B, T). Precision: float32 inside, float64 for float64 parameters.
    Parameters, beyond those of the convolution: ``parameter_count(digits)`` a group for each of 3 members (1
    if shared).
    Cost, beyond that of the convolution, with n the padded length and S the sum of the digits it needs: 4·n·S
    FLOPs per channel and sequence; once per forward pass 2·n·S a channel for the kernel and (values of the
    digits below)·b_t³ a digit and group for the inverse. Its decoding history is (u, w = A_2 u, y): 3 numbers
    a channel and token.
    """

    def __init__(self, config: MonarchPolynomialConfig) -> None:
        super().__init__(
            config.width,
            config.max_tokens,
            order=config.filter_order,
            emb=config.filter_emb,
            sine_frequency=config.sine_frequency,
            inner=config.filter_inner,
            train_positions=config.trains_positions,
            start=config.filter_start,
        )
        digits = digits_for(config.max_tokens, config.order, config.base)
        self.groups = config.groups
        self.matrices = nn.ModuleList(
            DigitTriangular(digits, config.groups) for _ in range(3 if config.members == "separate" else 1)
        )

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for matrix in getattr(self, "matrices", ()):  # not there yet when the convolution draws itself
            matrix.reset_parameters()

    @property
    def members(self) -> tuple[DigitTriangular, DigitTriangular, DigitTriangular]:
        """(A_0, A_1, A_2): of the output, the kernel and the input."""
        middle = len(self.matrices) // 2
        return self.matrices[0], self.matrices[middle], self.matrices[-1]  # type: ignore[return-value]

    def factors(self, tokens: int) -> tuple[Factors, Factors, Factors]:
        output, kernel, inputs = (member.factors(tokens) for member in self.members)
        return output, kernel, inputs

    def forward(self, u: Tensor) -> Tensor:
        with _without_autocast(u.device):
            tokens = u.shape[-1]
            factors = self.factors(tokens)
            wide = u.to(torch.promote_types(u.dtype, factors[0][0].dtype))
            return polynomial_product(wide, self.kernel(tokens), *factors).to(u.dtype)

    def gated(self, z: Tensor, short: ShortConvolution) -> Tensor:
        gate_in, gate_out, value = short(z).chunk(3)
        return self(value * gate_in) * gate_out  # type: ignore[no-any-return]

    def kernel(self, tokens: int) -> Tensor:
        """(D, tokens): k, the implicit filter with the skip at lag 0."""
        return super().taps(tokens)

    def taps(self, tokens: int) -> Tensor:
        """(D, tokens): A_1 k, what ``w`` is convolved with."""
        with _without_autocast(self.skip.device):
            return apply(self.kernel(tokens), self.members[1].factors(tokens))

    def continue_from(self, u: Tensor, history: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs (D, B, t) for u (D, B, t) after ``history``, and the new history.

        ``history`` (B, 3, D, T) holds (u, w, y).

        One token reads one row of A_2, the kernel and one row of A_0: O(T) a channel. Several are computed
        with all before them.
        """
        tokens, new = history.shape[-1] + u.shape[-1], u.shape[-1]
        if tokens > taps.shape[-1]:
            raise ConfigError(f"{tokens} tokens exceed the {taps.shape[-1]} this decoding state was made for")
        with _without_autocast(u.device):
            inputs = torch.cat([history[:, 0], u.transpose(0, 1)], dim=-1).to(taps.dtype)
            if new == 1:
                w = torch.cat(
                    [history[:, 1].to(taps.dtype), self._along(inputs, self.members[2].row(tokens - 1))],
                    dim=-1,
                )
                z = _last_outputs(w, taps, 1)
                past = history[:, 2].to(taps.dtype)
                y = torch.cat([past, z - self._along(past, self.members[0].row(tokens - 1)[:, :-1])], dim=-1)
            else:
                output, _, inward = self.factors(tokens)
                w = apply(inputs.transpose(0, 1), inward).transpose(0, 1)
                y = solve(causal_convolution(w, taps).transpose(0, 1), output).transpose(0, 1)
        return y[..., -new:].transpose(0, 1).to(u.dtype), torch.stack([inputs, w, y], dim=1).to(history.dtype)

    def _along(self, x: Tensor, row: Tensor) -> Tensor:
        """(B, D, t) · (G, t) -> (B, D, 1): one row of a matrix times every channel of its group."""
        return (x * row.repeat_interleave(x.shape[1] // self.groups, dim=0)).sum(dim=-1, keepdim=True)

    def inverse_flops(self, tokens: int) -> int:
        """Inverting the blocks of A_0, once per forward pass."""
        output = self.members[0]
        return self.groups * sum(
            stride * size**3 for stride, size in zip(output.strides, output.digits(tokens), strict=True)
        )

    def cost(self, tokens: int) -> Cost:
        digits = self.members[0].digits(tokens)
        products = 2 * prod(digits) * sum(digits) * self.width
        return super().cost(tokens) + Cost(
            matmul=2 * products, shared_matmul=products + self.inverse_flops(tokens)
        )


@dataclass
class MonarchPolynomialState:
    """The past of one sequence.

    W - 1 tokens of the short convolution's input, t of everything the product reads.
    """

    short: Tensor  # (B, 3D, min(t, W - 1))
    product: Tensor  # (B, 3, D, t): u, w = A_2 u and y
    residual: Tensor | None  # (B, D, t) input of the residual convolution
    taps: Taps


class Taps:
    """Kernels of a decoding state, made once.

    They belong to the weights, not to a sequence: no part of ``state_bytes``.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._taps: dict[int, Tensor] = {}

    def of(self, convolution: LongConvolution) -> Tensor:
        taps = self._taps.get(id(convolution))
        if taps is None or (
            torch.is_grad_enabled() and not taps.requires_grad and convolution.skip.requires_grad
        ):
            taps = self._taps[id(convolution)] = convolution.taps(self.tokens)
        return taps


@register(
    "monarch_polynomial",
    kind="sequence_mixer",
    config=MonarchPolynomialConfig,
    source="arXiv:2310.12109 §4 and appendix",
    complexity="O(T·T^(1/order) + T·log T)",
)
class MonarchPolynomial(SequenceMixer):
    """m2_mixer with a learned causal Monarch product, which starts as the long convolution.

    The product need not stay Toeplitz:
    y = W_out (gate_out · product(gate_in · value) + residual(x)) with (gate_in, gate_out, value) = short(W_in
    x), and product(u) = A_0^{-1} causal_convolution(A_1 k, A_2 u), see ``PolynomialConvolution``.
    Shape: (B, T, D) -> (B, T, D), see SequenceMixer. Documents are multiplied apart, exactly: each starts at
    time 0.
    Cost: that of m2_mixer plus 4·n·S·D FLOPs per sequence (n padded length, S sum of the digits: 2·sqrt(T) at
    order 2) and the kernel's share once per forward pass.
    State: 3·t·D numbers (4·t·D with the residual) and min(t, W - 1)·3·D of the short convolution: no fixed
    size.
    Raises: ConfigError when a sequence exceeds ``max_tokens``.
    """

    config: MonarchPolynomialConfig
    causal = True

    def __init__(self, config: MonarchPolynomialConfig) -> None:
        super().__init__(config)
        self.body = M2Mixer(config)
        self.body.long = PolynomialConvolution(config)

    @property
    def product(self) -> PolynomialConvolution:
        """The learned product that replaces m2_mixer's long convolution."""
        return self.body.long  # type: ignore[return-value]

    def reset_parameters(self) -> None:
        self.body.reset_parameters()

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        return self.body(x, segments)  # type: ignore[no-any-return]

    def cost(self, tokens: int) -> Cost:
        return self.body.cost(tokens)

    # --- decoding -------------------------------------------------------------------------------------------

    def init_state(self, batch: int, max_tokens: int) -> MonarchPolynomialState:
        width = self.config.width
        empty = self.body.in_linear.weight.new_empty((batch, width, 0), dtype=parameter_dtype(self))
        return MonarchPolynomialState(
            short=empty.new_empty((batch, 3 * width, 0)),
            product=empty.new_empty((batch, 3, width, 0)),
            residual=None if self.body.residual is None else empty,
            taps=Taps(min(max_tokens, self.config.max_tokens)),
        )

    def prefill(self, x: Tensor, state: MonarchPolynomialState) -> tuple[Tensor, MonarchPolynomialState]:
        body = self.body
        assert body.short is not None  # there is no option to remove it
        z = project_in(body.in_linear, x)
        gate_in, gate_out, value = body.short(z, state.short).chunk(3)
        y, product = self.product.continue_from(value * gate_in, state.product, state.taps.of(self.product))
        y, residual = y * gate_out, None
        if isinstance(body.residual, LongConvolution) and state.residual is not None:
            residual = torch.cat([state.residual, x.mT], dim=-1)
            y = y + _last_outputs(residual, state.taps.of(body.residual), x.shape[1]).transpose(0, 1).to(
                y.dtype
            )
        tail = body.short.next_tail(z, state.short)
        return project_out(body.out_linear, y), MonarchPolynomialState(
            short=tail, product=product, residual=residual, taps=state.taps
        )

    def state_bytes(self, tokens: int) -> int:
        histories = 3 if self.body.residual is None else 4
        numbers = self.config.width * (histories * tokens + 3 * min(tokens, self.config.short_taps - 1))
        return numbers * parameter_dtype(self).itemsize


def _last_outputs(history: Tensor, taps: Tensor, new: int) -> Tensor:
    """The last ``new`` outputs (B, D, new) of a causal convolution.

    One is a dot product, several are a transform.
    """
    if new > 1:
        return causal_convolution(history, taps)[..., -new:]
    return (history.to(taps.dtype) * taps[:, : history.shape[-1]].flip(-1)).sum(dim=-1, keepdim=True)


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    # the meta device, where shapes are counted, knows no autocast
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)

"""Exact generation through a long convolution.

O(T·log² T) for T tokens, token by token, nothing approximated.

Legend: B batch, D channels, t tokens so far, C slots held, S tile size, E = BLOCK tokens summed directly, K
tokens to come.
Slot s < t holds the input u[s]; slot s >= t holds the *pending* sum of what the known inputs add to y[s]. A
token reads its slot, adds the E newest inputs by a dot product and stores its input. After every multiple of
E, a tile of the S newest inputs is added to the next S slots by one transform of 2S points. ``settle`` folds
a prompt into K numbers per channel.
Accuracy: 1e-10 of the scale in float64; in float32 one rounding per tile, a few 1e-7. Slots are never
narrower than float32.
How tiles cover every pair once, memory and tests: docs/long_convolution.md, "Generation".
Source: relaxed multiplication (van der Hoeven 2002); arXiv 2410.12982 (tiling), 2410.03766 (folding the
prompt).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.convolution.fft import causal_convolution
from blocks.errors import ConfigError

BLOCK = 64  # newest inputs summed directly: below it a transform costs more than the products it saves


def capacity(tokens: int, longest: int) -> int:
    """Slots per channel after ``tokens`` tokens: 0, then BLOCK, doubling, never beyond ``longest``."""
    return 0 if tokens == 0 else min(longest, max(BLOCK, 1 << (tokens - 1).bit_length()))


class OnlineKernel:
    """Taps (D, L) of one generation as its steps read them.

    The ``nearest`` ones reversed, and spectra of the first 2S.
    """

    def __init__(self, taps: Tensor, nearest: int = BLOCK) -> None:
        self.taps, self.tokens = taps, taps.shape[1]
        self._nearest = taps[:, :nearest].flip(-1).unsqueeze(-1).contiguous()
        self._spectra: dict[int, Tensor] = {}

    def nearest(self, tokens: int) -> Tensor:
        """(D, tokens, 1): lags tokens - 1 … 0, the multiplier of the newest inputs."""
        return self._nearest[:, -tokens:]

    def spectrum(self, size: int) -> Tensor:
        """(D, size + 1): transform of lags 0 … 2·size - 1."""
        if size not in self._spectra:
            self._spectra[size] = torch.fft.rfft(self.taps[:, : 2 * size], n=2 * size)
        return self._spectra[size]


@dataclass(frozen=True, kw_only=True)
class OnlineState:
    """Inputs and pending sums of one long convolution.

    A step continues it in place: only the newest state may be used.
    """

    slots: Tensor  # (B, D, C): inputs before ``tokens``, pending sums from there on
    longest: int  # slots there may ever be
    tokens: int = 0
    origin: int = 0  # everything before it is in the pending sums of all slots: tiles start here
    forgotten: int = 0  # tokens whose inputs were folded away by ``settle``
    # tokens written, shared by all states of one memory
    clock: list[int] = field(default_factory=lambda: [0])


def empty_state(batch: int, channels: int, longest: int, *, like: Tensor) -> OnlineState:
    """No token yet, no memory.

    ``like`` gives device and dtype (float32 at least: pending sums add up over many roundings).
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    return OnlineState(slots=like.new_empty((batch, channels, 0), dtype=dtype), longest=longest)


def extend(u: Tensor, state: OnlineState, kernel: OnlineKernel) -> tuple[Tensor, OnlineState]:
    """The outputs for the next t tokens u (B, D, t), and the state after them.

    Up to BLOCK tokens are steps, more are one transform over everything so far.
    Raises: ConfigError beyond the taps of the kernel or the tokens the state was settled for, or for a state
    that another call went on from.
    """
    _check(u, state, kernel)
    at_once = u.shape[-1] > (BLOCK if state.tokens else 1)
    if at_once and not state.forgotten:
        return _prompt(u, state, kernel)
    outputs = []
    for x in u.split(1, dim=-1):
        y, state = _step(x, state, kernel)
        outputs.append(y)
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)), state


def settle(state: OnlineState, kernel: OnlineKernel, tokens: int) -> OnlineState:
    """The same state for at most ``tokens`` more tokens, without the inputs.

    Exactly ``tokens`` numbers a channel.

    One transform. Raises: ConfigError for a state that is settled already, or when taps are missing.
    """
    if state.forgotten:
        raise ConfigError(
            "this decoding state is already settled; its inputs were dropped, so it cannot be settled again"
        )
    if tokens < 1 or state.tokens + tokens > kernel.tokens:
        raise ConfigError(
            f"cannot settle for {tokens} more tokens after {state.tokens}: "
            f"the kernel has {kernel.tokens} taps"
        )
    inputs = F.pad(state.slots[..., : state.tokens], (0, tokens))
    pending = (
        causal_convolution(inputs, kernel.taps)[..., state.tokens :].contiguous() if state.tokens else inputs
    )
    # a state without a past has nothing to forget: 0 would mean that it is not settled
    return OnlineState(slots=pending, longest=tokens, forgotten=max(1, state.tokens))


def _check(u: Tensor, state: OnlineState, kernel: OnlineKernel) -> None:
    new = u.shape[-1]
    if state.forgotten and state.tokens + new > state.longest:
        raise ConfigError(
            f"{state.tokens + new} tokens exceed the {state.longest} this decoding state was settled for"
        )
    if state.tokens + new > kernel.tokens:
        raise ConfigError(
            f"{state.tokens + new} tokens exceed the {kernel.tokens} this decoding state was made for"
        )
    if state.clock[0] != state.tokens:
        raise ConfigError(
            f"this decoding state is at {state.tokens} tokens, but its memory was updated to "
            f"{state.clock[0]}; use the state that each step returns"
        )


def _prompt(u: Tensor, state: OnlineState, kernel: OnlineKernel) -> tuple[Tensor, OnlineState]:
    inputs = torch.cat([state.slots[..., : state.tokens], u.to(state.slots.dtype)], dim=-1)
    tokens = inputs.shape[-1]
    slots = capacity(tokens, state.longest)
    y = causal_convolution(F.pad(inputs, (0, slots - tokens)), kernel.taps)
    slots_after = torch.cat([inputs, y[..., tokens:]], dim=-1)
    return y[..., state.tokens : tokens].to(u.dtype), OnlineState(
        slots=slots_after, longest=state.longest, tokens=tokens, origin=tokens, clock=[tokens]
    )


def _step(x: Tensor, state: OnlineState, kernel: OnlineKernel) -> tuple[Tensor, OnlineState]:
    if state.tokens == state.slots.shape[-1]:
        state = _grown(state, kernel)
    # in place, but for autograd, whose saved tensors must stay as they were
    slots = _writable(state.slots)
    t = state.tokens
    pending = slots[..., t].mT.unsqueeze(-1).contiguous()  # (D, B, 1)
    slots[..., t : t + 1] = x
    first = t - (t - state.origin) % BLOCK
    newest = _writable(slots[..., first : t + 1]).transpose(0, 1)
    y = torch.baddbmm(pending, newest, kernel.nearest(t + 1 - first)).transpose(0, 1)
    t += 1
    new = t - state.origin
    if new % BLOCK == 0:
        # the largest power of two that divides ``new``: each pair of an input and an output then lies in
        # exactly one tile, that whose boundary is the multiple of the highest power of two between them
        size = new & -new
        ahead = min(t + size, slots.shape[-1])
        slots[..., t:ahead] += _tile(slots[..., t - size : t], kernel, ahead - t)
    if slots is not state.slots:
        return y.to(x.dtype), replace(state, slots=slots, tokens=t, clock=[t])
    state.clock[0] = t
    return y.to(x.dtype), replace(state, tokens=t)


def _grown(state: OnlineState, kernel: OnlineKernel) -> OnlineState:
    """Twice the slots, or the first ones.

    All inputs are known then, so the new pending sums start complete.
    """
    tokens = state.tokens
    slots = capacity(tokens + 1, state.longest)
    new = (
        _tile(state.slots, kernel, slots - tokens)
        if tokens
        else state.slots.new_zeros((*state.slots.shape[:2], slots))
    )
    return replace(state, slots=torch.cat([state.slots, new], dim=-1), origin=tokens, clock=[tokens])


def _tile(inputs: Tensor, kernel: OnlineKernel, ahead: int) -> Tensor:
    """What S inputs (B, D, S) add to the ``ahead`` <= S outputs right after them: (B, D, ahead)."""
    size = inputs.shape[-1]
    # wrap-around reaches only the first half, which is thrown away
    product = torch.fft.rfft(inputs, n=2 * size) * kernel.spectrum(size)
    return torch.fft.irfft(product, n=2 * size)[..., size : size + ahead]


def _writable(x: Tensor) -> Tensor:
    return x.clone() if torch.is_grad_enabled() else x

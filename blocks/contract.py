"""The contract of a block: shapes, causality, cost and decoding state.

Legend: B batch, T tokens, D width.
Everything abstract here has no default on purpose: what a block omits fails when it is registered, not in a
result.
The laws that follow from this contract (causality, prefix consistency, decoding, isolation, accounting,
numerics, round trip) are property tests run over every registered block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from blocks.config import Config
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.groups import ParameterGroup


@dataclass(frozen=True, kw_only=True)
class BlockConfig(Config):
    """Base of every block's configuration (see ``blocks.config`` for bounds and documentation of fields)."""

    block: ClassVar[type[Block]]  # set by the registration of the block this configures

    def build(self) -> Block:
        """The block itself, parameters drawn from torch's global generator."""
        return self.block(self)


class Block(nn.Module, ABC):
    """A unit of architecture, built from its config, with an exact cost.

    Raises: ConfigError from the config, never from ``forward`` on well-shaped input.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def cost(self, tokens: int) -> Cost:
        """Forward FLOPs for one sequence of ``tokens`` tokens, by kind (see ``blocks.cost``)."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Draw every parameter anew from torch's global generator. Called once by ``__init__``."""

    def parameter_groups(self) -> dict[str, ParameterGroup]:
        """Parameters that train at another rate or decay than matrices, see ``blocks.groups``."""
        return {}

    def flops(self, tokens: int) -> int:
        """Canonical forward FLOPs (matmul + FFT) for one sequence of ``tokens`` tokens, batch of one."""
        return self.cost(tokens).forward(1)


class SequenceMixer(Block):
    """The only kind of block that moves information between positions.

    ``forward(x, segments=None) -> y``: x and y (B, T, D), any floating dtype. ``segments`` (B, T) integer
    document ids, 0 = padding: positions of different documents never meet, a document is a maximal run of one
    id, outputs at padding are zero. ``segments=None`` means one document per row. A mixer with
    ``takes_positions`` also accepts ``positions`` (B, T) integers, where each token stands.

    Decoding state (causal mixers): ``init_state`` makes it, ``prefill`` feeds any number of tokens, ``step``
    one.
    Feeding a sequence in any chunking gives the outputs of the parallel forward.
    """

    takes_positions: ClassVar[bool] = False  # forward has the argument ``positions``

    @property
    @abstractmethod
    def causal(self) -> bool:
        """True when y[:, t] depends on x[:, :t+1] only."""

    @abstractmethod
    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor: ...

    @abstractmethod
    def init_state(self, batch: int, max_tokens: int) -> Any:
        """Empty decoding state for ``batch`` sequences of at most ``max_tokens`` (device and dtype of the
        parameters).

        Raises: ConfigError when the mixer is not causal (``refuse_decoding``).
        """

    @abstractmethod
    def prefill(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The next t >= 1 tokens, x (B, t, D) -> y (B, t, D) and the state after them."""

    @abstractmethod
    def state_bytes(self, tokens: int) -> int:
        """Bytes kept per sequence after ``tokens`` tokens, exactly what the tensors of the state hold."""

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token: x (B, D) -> y (B, D) and the next state."""
        y, state = self.prefill(x.unsqueeze(1), state)
        return y.squeeze(1), state

    def reserve_state(self, batch: int, max_tokens: int) -> Any:
        """As ``init_state``, but memory for ``max_tokens`` tokens is taken at once where the mixer can.

        Such a state holds ``state_bytes(max_tokens)`` from the first token to the last. A mixer whose state
        only grows leaves this as it is.
        """
        return self.init_state(batch, max_tokens)

    def settle(self, state: Any, tokens: int) -> Any:
        """The state for at most ``tokens`` more tokens, free of longer-lived storage.

        Outputs stay what they were. A mixer without such a form (a key/value cache is read whole) returns it
        as it is.
        """
        return state

    def refuse_decoding(self) -> ConfigError:
        return ConfigError(f"{type(self).__name__} is bidirectional: it has no decoding state")


class CrossMixer(Block):
    """A causal mixer of one sequence that also reads the memory, an encoder's output.

    ``forward(x, memory, segments=None, memory_segments=None) -> y``: x and y (B, T, D), memory (B, S, M) with
    M = ``memory_width``; y[:, t] depends on x[:, :t+1] and on any of the memory. Ids as in SequenceMixer: 0
    is padding, a document of x reads the memory of its own id; where only one of the two has ids, x reads all
    memory but padding.
    Outputs at padding are zero.

    Decoding state: ``init_state`` reads the memory, once; ``prefill`` and ``step`` feed x as in
    SequenceMixer.
    """

    @property
    @abstractmethod
    def memory_width(self) -> int:
        """M, the width of the memory."""

    @abstractmethod
    def forward(
        self, x: Tensor, memory: Tensor, segments: Tensor | None = None, memory_segments: Tensor | None = None
    ) -> Tensor: ...

    @abstractmethod
    def cost(self, tokens: int, memory_tokens: int | None = None) -> Cost:
        """Of one x of ``tokens`` tokens and one memory of ``memory_tokens`` (None: as many)."""

    @abstractmethod
    def init_state(self, memory: Tensor, max_tokens: int, memory_segments: Tensor | None = None) -> Any:
        """State before the first of at most ``max_tokens`` tokens, one document per row (device and dtype of
        the parameters).
        """

    @abstractmethod
    def prefill(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The next t >= 1 tokens, x (B, t, D) -> y (B, t, D) and the state after them."""

    @abstractmethod
    def state_bytes(self, tokens: int, memory_tokens: int) -> int:
        """Bytes kept per sequence after ``tokens`` tokens.

        Ids of the memory, where it has any, add one byte a token.
        """

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token: x (B, D) -> y (B, D) and the next state."""
        y, state = self.prefill(x.unsqueeze(1), state)
        return y.squeeze(1), state


class ChannelMixer(Block):
    """Acts on each position alone: ``forward(x) -> y``, x and y (..., D).

    Causal and isolated by construction.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...


class Pooler(Block):
    """One vector per sequence: ``forward(x, valid=None) -> y``.

    Shape: x (B, T, D) with T >= 1 -> y (B, D), any floating dtype.

    ``valid`` (B, T) bool, True at tokens; None: every token. y depends on the valid tokens of its own row and
    on their order alone: what padding holds, on which side it stands and how much of it there is change
    nothing. A row without a valid token gives zeros. One document per row: ``valid`` is bool, so that the ids
    of packed documents are not taken for it (``blocks.segments.unpack`` makes a row of each).
    """

    @abstractmethod
    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor: ...


def tokens_seen(state: Any) -> int:
    """Tokens in a decoding state whose parts count them as ``position``; 0 for others. Reads no tensor."""
    position = getattr(state, "position", 0)
    if isinstance(position, int) and position:
        return position
    parts = state if isinstance(state, (list, tuple)) else ()
    return max(map(tokens_seen, parts), default=0)


def tensors_nbytes(state: Any) -> int:
    """Bytes held by every tensor inside a state (dataclasses, tuples, lists, dicts of tensors)."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if is_dataclass(state) and not isinstance(state, type):
        return sum(tensors_nbytes(getattr(state, f.name)) for f in fields(state))
    if isinstance(state, dict):
        return sum(tensors_nbytes(v) for v in state.values())
    if isinstance(state, (list, tuple)):
        return sum(tensors_nbytes(v) for v in state)
    return 0


def parameter_dtype(module: nn.Module) -> torch.dtype:
    """Floating dtype of a module's parameters: what its decoding state is stored in."""
    return next(p.dtype for p in module.parameters() if p.is_floating_point())

"""The causal language model every decoder architecture is an instance of.

Legend: B batch, T tokens, D width, V vocabulary.
One body for all of them on purpose: embedding, residual layers, final norm and head are the same code for every arm of
a comparison, so what differs between two arms is their blocks and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from blocks.contract import BlockConfig, SequenceMixer, tokens_seen
from blocks.cost import Cost, total
from blocks.errors import ConfigError
from blocks.segments import check, refuse_holes


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """One residual layer: a sequence mixer, a channel mixer, and the norm used around both."""

    mixer: BlockConfig
    channel: BlockConfig
    norm: BlockConfig
    sandwich: bool = False  # norm also what each mixer returns (Gemma 2 on)
    scale: BlockConfig | None = None  # acts on what the whole layer returns (Gemma 4: one scalar)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A whole model, block by block. ``embedding`` is tied to the head (blocks.embedding.TiedEmbedding)."""

    width: int
    max_tokens: int
    embedding: BlockConfig
    layers: tuple[LayerConfig, ...]
    norm: BlockConfig


class Layer(nn.Module):
    """Pre-norm residual layer: x + mixer(norm(x)), then x + channel(norm(x))."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.mixer_norm = config.norm.build()
        self.mixer = config.mixer.build()
        self.channel_norm = config.norm.build()
        self.channel = config.channel.build()
        self.scale = None if config.scale is None else config.scale.build()
        if not isinstance(self.mixer, SequenceMixer):
            raise ConfigError(f"{type(self.mixer).__name__} is not a sequence mixer")

    def after_mixer(self, y: Tensor) -> Tensor:
        return y

    def after_channel(self, y: Tensor) -> Tensor:
        return y

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.after_mixer(mixed)
        x = x + self.after_channel(self.channel(self.channel_norm(x)))
        return x if self.scale is None else self.scale(x)

    def forward(self, x: Tensor, segments: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        options = {} if positions is None else {"positions": positions}
        return self._finish(x, self.mixer(self.mixer_norm(x), segments, **options))

    def prefill(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        mixed, state = self.mixer.prefill(self.mixer_norm(x), state)
        return self._finish(x, mixed), state

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        mixed, state = self.mixer.step(self.mixer_norm(x), state)
        return self._finish(x, mixed), state


class SandwichLayer(Layer):
    """Gemma 2 and later: what each mixer returns is normed too, before it is added (arXiv 2408.00118, §2)."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__(config)
        self.mixer_out_norm = config.norm.build()
        self.channel_out_norm = config.norm.build()

    def after_mixer(self, y: Tensor) -> Tensor:
        return self.mixer_out_norm(y)

    def after_channel(self, y: Tensor) -> Tensor:
        return self.channel_out_norm(y)


class Decoder(nn.Module):
    """Tokens in, next-token logits out: tokens (B, T) int64 -> (B, T, V).

    ``segments`` (B, T) as in blocks.SequenceMixer. ``positions`` (B, T) int64: where each token stands, None for counting
    in each document. Raises: ConfigError when T exceeds ``max_tokens``, for padding inside a document, and for positions
    where a mixer takes none.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = config.embedding.build()
        self.layers = nn.ModuleList((SandwichLayer if layer.sandwich else Layer)(layer) for layer in config.layers)
        self.norm = config.norm.build()

    def forward(self, tokens: Tensor, segments: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        return self.embedding.logits(self.hidden(tokens, segments, positions))

    def hidden(self, tokens: Tensor, segments: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Final normed hidden states (B, T, D), what the head multiplies."""
        check_length(tokens.shape[1], self.config.max_tokens)
        if segments is not None:
            check(segments, tokens)
            refuse_holes(segments)
        if positions is not None:
            self._check_positions()
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, segments, positions)
        return self.norm(x)

    def _check_positions(self) -> None:
        """Raises: ConfigError when a mixer takes no positions."""
        for i, layer in enumerate(self.layers):
            if not layer.mixer.takes_positions:
                raise ConfigError(f"layer {i}: {type(layer.mixer).__name__} takes no positions; leave them out")

    @property
    def causal(self) -> bool:
        return all(layer.mixer.causal for layer in self.layers)

    # --- decoding -----------------------------------------------------------------------------------------------

    def init_state(self, batch: int, max_tokens: int | None = None, *, reserve: bool = False) -> list[Any]:
        """One state a layer. ``reserve``: take the memory of ``max_tokens`` tokens at once (SequenceMixer.reserve_state)."""
        limit = max_tokens or self.config.max_tokens
        mixers = [layer.mixer for layer in self.layers]
        return [mixer.reserve_state(batch, limit) if reserve else mixer.init_state(batch, limit) for mixer in mixers]

    def prefill(self, tokens: Tensor, state: list[Any], *, last_only: bool = False) -> tuple[Tensor, list[Any]]:
        """Logits (B, t, V) of the next t tokens (B, t), and the state after them.

        ``last_only``: those of the last token alone, (B, 1, V); of a long prompt the others are the larger part of the memory.
        Raises: ConfigError when the sequence grows beyond ``max_tokens``.
        """
        check_length(tokens_seen(state) + tokens.shape[1], self.config.max_tokens)
        x, after = self.embedding(tokens), []
        for layer, s in zip(self.layers, state, strict=True):
            x, s = layer.prefill(x, s)
            after.append(s)
        x = x[:, -1:] if last_only else x
        return self.embedding.logits(self.norm(x)), after

    def step(self, tokens: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Logits (B, V) after one more token (B,), and the next state."""
        check_length(tokens_seen(state) + 1, self.config.max_tokens)
        x, after = self.embedding(tokens), []
        for layer, s in zip(self.layers, state, strict=True):
            x, s = layer.step(x, s)
            after.append(s)
        return self.embedding.logits(self.norm(x)), after

    def settle(self, state: list[Any], tokens: int) -> list[Any]:
        """After the prompt: the state for at most ``tokens`` more tokens (blocks.SequenceMixer.settle)."""
        return [layer.mixer.settle(s, tokens) for layer, s in zip(self.layers, state, strict=True)]

    def state_bytes(self, tokens: int) -> int:
        return sum(layer.mixer.state_bytes(tokens) for layer in self.layers)

    # --- the ledger ---------------------------------------------------------------------------------------------

    def cost(self, tokens: int) -> Cost:
        """Forward cost of one sequence, head included (also when tied)."""
        return total(cost for _, _, cost in self.components(tokens))

    def components(self, tokens: int) -> list[tuple[str, int, Cost]]:
        """(name, parameters, cost) of every part, in order; the parts sum to the model (asserted in the plan)."""
        rows = [("embedding+head", _size(self.embedding), self.embedding.cost(tokens))]
        for i, layer in enumerate(self.layers):
            rows += [(f"layers.{i}.{name}", _size(child), child.cost(tokens)) for name, child in layer.named_children()]
        return [*rows, ("norm", _size(self.norm), self.norm.cost(tokens))]

    def parameter_counts(self) -> dict[str, int]:
        """embedding, head (0: tied to the embedding), body, total. Their sum is asserted against ``parameters()``."""
        embedding = _size(self.embedding)
        everything = _size(self)
        head = 0  # the table is counted once, as embedding; its matmul is counted in ``cost``
        return {"embedding": embedding, "head": head, "body": everything - embedding - head, "total": everything}


def check_length(tokens: int, max_tokens: int) -> None:
    """Raises: ConfigError for a sequence longer than the model was built for."""
    if tokens > max_tokens:
        raise ConfigError(f"sequence of {tokens} tokens exceeds max_tokens {max_tokens} this model was built for")


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class _NoDraws(TorchFunctionMode):
    """Skips in-place initialisation: on the meta device there is nothing to draw, and pretending to costs milliseconds a tensor."""

    SKIPPED = frozenset(
        [getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
        + [Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_, Tensor.copy_]
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.SKIPPED:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules built inside have shapes and no memory."""
    with torch.device("meta"), _NoDraws():
        yield


def meta_model(config: DecoderConfig) -> Decoder:
    """The model without memory: shapes and counts only, on the meta device."""
    with on_meta():
        return Decoder(config)

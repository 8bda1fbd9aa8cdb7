"""The base of all models: a config, and components with their costs.

Legend: B batch, T tokens, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from blocks.contract import BlockConfig, CrossMixer
from blocks.cost import Cost, total
from blocks.errors import ConfigError

Device = torch.device | str | None  # None: torch's default device
Kind = Literal["decoder", "encoder", "encoder_decoder", "image_classifier"]
LONGEST_PROOF = 4097  # beyond the widest published window and odd; longer rows would only repeat the proof


class Buildable(Hashable, Protocol):
    """A config of a layer or a block."""

    def build(self) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ABC):
    """Every block of a model. ``max_tokens``: its longest sequence, of source and target alike."""

    kind: ClassVar[Kind]

    width: int
    max_tokens: int

    @abstractmethod
    def build(self, device: Device = None) -> Model:
        """The model, its parameters drawn from torch's global generator.

        On "meta" it has shapes and no memory. Raises: ConfigError for blocks that do not fit each other.
        """


@dataclass(frozen=True, kw_only=True)
class StackConfig(ModelConfig):
    """A model of one stack of layers, which is what a budget can be solved for."""

    embedding: BlockConfig
    layers: tuple[Buildable, ...]

    def inside(self, tokens: int) -> int:
        """Positions that the layers read for ``tokens`` tokens."""
        return tokens


@dataclass(frozen=True, kw_only=True)
class Part:
    """One block of a model, e.g. ``layers.3.mixer``. ``cost``: forward, one sequence.

    ``run(batch)`` calls it on that many sequences of the meta device, for whoever counts its graph.
    """

    name: str
    block: nn.Module
    cost: Cost
    run: Callable[[int], Any]

    @property
    def parameters(self) -> int:
        return size_of(self.block)


class Model(nn.Module, ABC):
    """A model of any kind: what it computes, what it costs, and what it holds while decoding."""

    config: ModelConfig

    @property
    def kind(self) -> Kind:
        return self.config.kind

    @property
    @abstractmethod
    def causal(self) -> bool:
        """Whether no output depends on a later token of its sequence."""

    @abstractmethod
    def hidden(self, *inputs: Any, **options: Any) -> Tensor:
        """Final states (B, T, D), which the head reads; the inputs are those of ``forward``."""

    @abstractmethod
    def components(self, tokens: int) -> list[Part]:
        """All parts in order, for one row of ``tokens`` tokens; they add up to the model."""

    @abstractmethod
    def end_sizes(self) -> tuple[int, int]:
        """Parameters of embedding and head; a tied table counts as embedding."""

    def cost(self, tokens: int) -> Cost:
        """Forward cost of one row, the head included also when it is tied."""
        return total(component.cost for component in self.components(tokens))

    def parameter_counts(self) -> dict[str, int]:
        """embedding, head, body, total."""
        (embedding, head), everything = self.end_sizes(), size_of(self)
        return {
            "embedding": embedding,
            "head": head,
            "body": everything - embedding - head,
            "total": everything,
        }

    def state_bytes(self, tokens: int) -> int:
        """Bytes that one row keeps after ``tokens`` decoded tokens; 0 for a model that does not decode."""
        return 0

    def drop_head(self) -> None:
        """Delete the parameters that no state depends on; a tied table stays, because it is the input."""

    def proof_length(self, tokens: int) -> int:
        """Tokens of a row on which the cost of each part is proven, for a ledger of ``tokens``."""
        return min(tokens, LONGEST_PROOF)


def size_of(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def check_length(tokens: int, max_tokens: int) -> None:
    """Raises: ConfigError for a sequence longer than the model was built for."""
    if tokens > max_tokens:
        raise ConfigError(
            f"sequence of {tokens} tokens exceeds max_tokens {max_tokens} this model was built for"
        )


# --- parts --------------------------------------------------------------------------------------------------


def on_rows(name: str, block: Any, tokens: int, width: int) -> Part:
    """A block that reads states (B, T, D)."""
    return Part(
        name=name,
        block=block,
        cost=block.cost(tokens),
        run=lambda batch: block(torch.empty(batch, tokens, width, device="meta")),
    )


def tied_table(name: str, embedding: Any, tokens: int) -> Part:
    """A table that looks tokens up and is the head as well."""

    def run(batch: int) -> Any:
        return embedding.logits(embedding(torch.zeros(batch, tokens, dtype=torch.long, device="meta")))

    return Part(name=name, block=embedding, cost=embedding.cost(tokens), run=run)


def layer_parts(
    stack: str, layers: Iterable[nn.Module], tokens: int, width: int, *, memory: int = 0
) -> Iterator[Part]:
    """The blocks of each layer. ``memory``: source tokens, which cross mixers read."""
    for i, layer in enumerate(layers):
        for child, block in layer.named_children():
            name = f"{stack}.{i}.{child}"
            if isinstance(block, CrossMixer):
                yield _reading(name, block, tokens, width, memory)
            else:
                yield on_rows(name, block, tokens, width)


def _reading(name: str, mixer: Any, tokens: int, width: int, memory: int) -> Part:
    def run(batch: int) -> Any:
        x = torch.empty(batch, tokens, width, device="meta")
        return mixer(x, torch.empty(batch, memory, mixer.memory_width, device="meta"))

    return Part(name=name, block=mixer, cost=mixer.cost(tokens, memory), run=run)


# --- building -----------------------------------------------------------------------------------------------


class _NoDraws(TorchFunctionMode):
    """Skip in-place initialisation, which is slow and draws nothing on the meta device."""

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


def building_on(device: Device) -> AbstractContextManager[Any]:
    """Modules built inside lie on ``device``."""
    if device is None:
        return nullcontext()
    device = torch.device(device)
    return on_meta() if device.type == "meta" else device

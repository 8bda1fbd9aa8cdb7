"""A block under test: built small, in float64, its parameters re-drawn at order 1, fed by a seeded generator.

Legend: B batch, T tokens, D width (in_features of a linear map; token ids for an embedding).
Initial values hide leaks (zeroed projections, fast decays, filters of small energy), hence the new draw.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from arch_lab.laws.cases import LONGEST, Case
from arch_lab.laws.probe import redraw
from arch_lab.laws.result import Broken
from arch_lab.laws.staged import Strip, bare, staged
from blocks.attention.masks import sides
from blocks.contract import BlockConfig, Pooler, SequenceMixer
from blocks.errors import ConfigError
from blocks.registry import Entry

FURTHEST = 1100  # tokens of the rows that show what waits for a threshold, a tile or a second chunk


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One case of one block, with what the laws need to know of it."""

    name: str
    kind: str
    case: Case
    module: Any  # the block; a whole model in ModelSubject
    dtype: torch.dtype = torch.float64
    limit: int = LONGEST  # tokens of the longest row this subject is tried on
    _casts: dict[torch.dtype, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def mixes(self) -> bool:
        """True for the only kind that moves information between positions."""
        return isinstance(self.module, SequenceMixer)

    @property
    def pools(self) -> bool:
        """True where a whole sequence becomes one vector, without an output per token."""
        return isinstance(self.module, Pooler)

    @property
    def causal(self) -> bool:
        return bool(self.module.causal) if isinstance(self.module, SequenceMixer) else True

    @property
    def reads_tokens(self) -> bool:
        return self.kind == "embedding" and not isinstance(self.module, Strip)

    @property
    def silent_at_padding(self) -> bool:
        """True where the contract asks for zeros: of sequence mixers, not of embeddings or whole models."""
        return self.mixes

    @cached_property
    def takes_segments(self) -> bool:
        """Sequence mixers must; an embedding with a position table may."""
        return self.mixes or "segments" in inspect.signature(self.module.forward).parameters

    @property
    def window(self) -> int | None:
        """Keys a causal mixer says it sees, itself included (the convention of blocks.attention.masks)."""
        window = getattr(self.module.config, "window", None)
        return window if isinstance(window, int) and self.causal and self.mixes else None

    @property
    def span(self) -> int | None:
        """Tokens that reach an output of a causal mixer with a window: a short convolution widens its keys."""
        return None if self.window is None else self.window + self._lags

    @property
    def reach(self) -> tuple[int, int] | None:
        """Tokens before and after its own that reach an output of a bidirectional mixer with a radius."""
        radius = getattr(self.module.config, "radius", None)
        if not isinstance(radius, (int, tuple)) or self.causal:
            return None
        before, after = sides(radius)
        return before + self._lags, after

    @property
    def _lags(self) -> int:
        """Tokens before its own that a key holds."""
        return (getattr(self.module.config, "short_convolution", None) or 1) - 1

    @property
    def block(self) -> Any:
        """What was registered: the module itself, unless that is a cross mixer with the memory it reads."""
        return bare(self.module)

    @property
    def longest(self) -> int:
        if isinstance(self.module, Strip):
            return min(self.limit, self.module.longest or self.limit)
        return min(self.limit, getattr(self.module.config, "max_tokens", None) or self.limit)

    @cached_property
    def _longer(self) -> Self:
        """The same block built for rows of ``FURTHEST`` tokens, where its options allow it."""
        options = self.case.options | ({"max_tokens": FURTHEST} if "max_tokens" in self.case.options else {})
        if isinstance(self.module, Strip) or self.pools:
            return self
        if options == self.case.options:
            return replace(self, limit=FURTHEST)
        try:
            module = _built(type(self.block.config).from_options(options), 0)
        except ConfigError:
            return self
        return replace(self, module=module, limit=FURTHEST, _casts={})

    @property
    def furthest(self) -> int:
        """Tokens of the longest row that the laws of long rows try."""
        return self._longer.longest

    def reaching(self, tokens: int) -> Self:
        """This subject where it takes rows of ``tokens``, else the one built for long rows."""
        return self if tokens <= self.longest else self._longer

    @cached_property
    def width(self) -> int:
        if isinstance(self.module, Strip):
            return self.module.width
        # a head on logits is as wide as the vocabulary
        names = ("vocabulary",) if self.reads_tokens else ("in_features", "width", "vocabulary")
        for name in names:
            if isinstance(size := getattr(self.module.config, name, None), int):
                return size
        advice = f"name that option {' or '.join(map(repr, names))}"
        raise ConfigError(f"block {self.name!r}: the laws cannot determine its input size; {advice}")

    @cached_property
    def declared(self) -> dict[str, str]:
        """Laws that the block declares not applicable, with its reasons."""
        return dict(getattr(type(self.block), "not_applicable", {}))

    def input(self, batch: int, tokens: int, seed: int) -> Tensor:
        """(B, T, D) normal numbers, or (B, T) token ids; the same for the same arguments on every machine."""
        generator = torch.Generator().manual_seed(seed)
        if self.reads_tokens:
            return torch.randint(self.width, (batch, tokens), generator=generator)
        shape = (batch, tokens, self.width)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.dtype)

    def other(self, x: Tensor, seed: int) -> Tensor:
        """An input of the same shape that differs from ``x`` at every position."""
        if self.reads_tokens:
            step = torch.randint(1, self.width, x.shape, generator=torch.Generator().manual_seed(seed))
            return (x + step) % self.width
        return self.input(x.shape[0], x.shape[1], seed)

    def swap(self, x: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        """``other`` at the positions of ``mask`` (..., B or 1, T), ``x`` (B, T, …) elsewhere."""
        return torch.where(mask if self.reads_tokens else mask[..., None], other, x)

    def with_module(self, module: Any) -> Self:
        """The same subject with another module inside."""
        return replace(self, module=module, _casts={})

    def __call__(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        """The block's function of x; an embedding is followed by its own head: both are under the laws."""
        y = self.module(x) if segments is None else self.module(x, segments)
        if self.mixes and (not isinstance(y, Tensor) or y.shape != x.shape):
            shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            shapes = f"forward returns {shape} for an input of shape {tuple(x.shape)}"
            raise Broken(f"{shapes}: a mixer's output has the shape of its input")
        logits = getattr(self.module, "logits", None)
        return logits(y) if self.reads_tokens and logits is not None else y

    def cast(self, dtype: torch.dtype) -> Self:
        """The same weights rounded to ``dtype``."""
        if dtype not in self._casts:
            module = copy.deepcopy(self.module).to(dtype)
            self._casts[dtype] = replace(self, module=module, dtype=dtype, _casts={})
        return self._casts[dtype]


def subject_of(entry: Entry, case: Case, *, seed: int = 0) -> Subject:
    """Build ``case`` of ``entry`` for the laws; torch's global generator stays as it was."""
    module = _built(entry.config.from_options(case.options), seed)
    return Subject(name=entry.name, kind=entry.kind, case=case, module=module)


def _built(config: BlockConfig, seed: int) -> Any:
    """The block in float64, parameters of order 1. Raises: ConfigError if a parameter was never drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with _poisoned_memory():
            module = staged(config.build())
        empty = [name for name, p in module.named_parameters() if p.isnan().any()]
        if empty:
            text = "is not initialised: end __init__ with self.reset_parameters()"
            raise ConfigError(f"parameter {empty[0]!r} {text}")
        module = module.double().eval()
        redraw(module)
    return module


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """Fill ``torch.empty`` with NaN inside the block, so that unwritten values show."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def takes_segments(module: nn.Module) -> bool:
    """Whether ``forward`` can be given document ids."""
    parameters = inspect.signature(module.forward).parameters
    return len(parameters) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters.values())


@contextmanager
def training(subject: Subject) -> Iterator[None]:
    """The block in train mode; configurations under test have no dropout, so its outputs must be the same."""
    subject.module.train()
    try:
        yield
    finally:
        subject.module.eval()


@dataclass(frozen=True, kw_only=True)
class ModelSubject(Subject):
    """A whole causal language model (``arch_lab.models.Decoder``): token ids in, logits out."""

    @property
    def mixes(self) -> bool:
        return True

    @property
    def causal(self) -> bool:
        return bool(self.module.causal)

    @property
    def reads_tokens(self) -> bool:
        return True

    @property
    def silent_at_padding(self) -> bool:
        return False

    @cached_property
    def width(self) -> int:
        return int(self.module.embedding.config.vocabulary)

    def __call__(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        return self.module(x, segments)  # type: ignore[no-any-return]


def model_subject(name: str, model: nn.Module, *, seed: int = 0) -> ModelSubject:
    """A copy of ``model`` for causality, prefix consistency, decoding and isolation."""
    module = copy.deepcopy(model).double().eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        redraw(module)
    case = Case(name="plain", options={}, first=True)
    return ModelSubject(name=name, kind="model", case=case, module=module)

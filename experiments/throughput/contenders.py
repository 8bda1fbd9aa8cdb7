"""What is timed of one arm: a sequence mixer, a layer or a whole model, in one of four modes.

Legend: B sequences, T tokens, D width, V vocabulary, n tokens that a decoding call writes.
An arm whose layers differ (local and global attention in turn) is timed by the mean of its layers: each
kind is called, and its time weighted by how often it occurs in the model.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arch_lab.bench.protocol import Call, cuda_peak, recorded_peak, seconds_of
from arch_lab.models import recipe
from arch_lab.models.decoder import Decoder, DecoderConfig
from arch_lab.models.layer import LayerConfig
from arch_lab.study.plan import PlannedArm
from blocks.contract import tensors_nbytes
from experiments.throughput.config import Group, ThroughputConfig
from experiments.throughput.work import layer_counts


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is the same for every cell of a study."""

    vocabulary: int
    decode_tokens: int
    repeats: int
    cell_seconds: float
    device: str
    dtype: str

    @staticmethod
    def of(config: ThroughputConfig) -> Settings:
        return Settings(
            vocabulary=config.vocabulary,
            decode_tokens=config.decode_tokens,
            repeats=config.repeats,
            cell_seconds=config.cell_seconds,
            device="cuda" if torch.cuda.is_available() else "cpu",
            dtype=config.dtype,
        )

    @property
    def decode_calls(self) -> int:
        """Most calls of one decoding cell, two to warm up: what its state needs room for."""
        return self.repeats + 2

    def room(self, group: Group) -> int:
        """``max_tokens`` of what is built: T, and while decoding all that will be written."""
        return group.tokens + (self.decode_tokens * self.decode_calls if group.mode == "decode" else 0)

    def decoder(self, arm: PlannedArm, group: Group) -> DecoderConfig:
        """``arm`` at its solved shape, for this length."""
        config = recipe(arm.architecture, arm.options).config(
            arm.shape, vocabulary=self.vocabulary, max_tokens=self.room(group)
        )
        assert isinstance(config, DecoderConfig)  # the plan has refused every other kind by name
        return config

    def precision(self) -> AbstractContextManager[Any]:
        """The context of every call: autocast for bfloat16."""
        return torch.autocast(self.device, torch.bfloat16) if self.dtype == "bfloat16" else nullcontext()


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One cell, ready to be called. ``parts``: (weight, call). ``tokens``: what one call works off.

    ``state_bytes``: while decoding, of one sequence after T tokens; ``settled_bytes``: the same after
    ``settle``, which may fold the prompt away.
    """

    parts: list[tuple[float, Call]]
    tokens: int
    parameters: int
    state_bytes: int | None = None
    settled_bytes: int | None = None

    def seconds(self, clock: Callable[[], float]) -> float:
        """Seconds of one call, every part weighted."""
        return sum(weight * seconds_of(call, clock) for weight, call in self.parts)

    def peak(self, device: str) -> int:
        """Most bytes that tensors made by a call held, without weights. Calls each part once."""
        return max((cuda_peak if device == "cuda" else recorded_peak)(call) for _, call in self.parts)


def contender(arm: PlannedArm, group: Group, settings: Settings) -> Contender:
    """Build one cell: weights drawn, inputs made, for decoding the prompt read.

    Raises: whatever too little memory raises.
    """
    config = settings.decoder(arm, group)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if group.level != "model":
            return _parts_of_model(config, group, settings)
        model = Decoder(config).to(settings.device)
        if group.mode == "decode":
            return _decoding(model, group, settings)
        tokens = torch.randint(settings.vocabulary, (group.batch, group.tokens + 1), device=settings.device)
        make_call = {"forward": _forward, "step": _step, "prefill": _prefill}[group.mode]
        call = make_call(model, tokens, group, settings)
    return Contender(parts=[(1.0, call)], tokens=group.batch * group.tokens, parameters=_size(model))


# --- whole models -----------------------------------------------------------------------------------------


def _forward(model: Decoder, tokens: Tensor, group: Group, settings: Settings) -> Call:
    run, inputs = _maybe_compiled(model, group), tokens[:, :-1]

    def call() -> None:
        with torch.no_grad(), settings.precision():
            run(inputs)

    return call


def _step(model: Decoder, tokens: Tensor, group: Group, settings: Settings) -> Call:
    """Every position predicts the next token; the optimizer's moments live from the first call on."""
    run, inputs, targets = _maybe_compiled(model, group), tokens[:, :-1], tokens[:, 1:].flatten()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def call() -> None:
        with settings.precision():
            logits = run(inputs)
        F.cross_entropy(logits.flatten(0, 1).float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return call


def _prefill(model: Decoder, tokens: Tensor, group: Group, settings: Settings) -> Call:
    """One prompt into a fresh state; only the last token's logits, which is what generation asks for."""
    inputs = tokens[:, :-1]

    def call() -> None:
        with torch.no_grad(), settings.precision():
            model.prefill(inputs, model.init_state(len(inputs), inputs.shape[1]), last_only=True)

    return call


def _decoding(model: Decoder, group: Group, settings: Settings) -> Contender:
    """Each call writes the next n tokens, greedily, from where the last one stopped.

    T is the history of the first.
    """
    to_come = settings.decode_tokens * settings.decode_calls
    prompt = torch.randint(settings.vocabulary, (group.batch, group.tokens), device=settings.device)
    with torch.no_grad(), settings.precision():
        state = model.init_state(group.batch, group.tokens + to_come, reserve=True)
        logits, state = model.prefill(prompt, state, last_only=True)
        state = model.settle(state, to_come)
    settled_bytes = tensors_nbytes(state) // group.batch
    token = logits[:, -1].argmax(dim=-1)

    def call() -> None:
        nonlocal token, state
        with torch.no_grad(), settings.precision():
            for _ in range(settings.decode_tokens):
                logits, state = model.step(token, state)
                token = logits.argmax(dim=-1)

    return Contender(
        parts=[(1.0, call)],
        tokens=group.batch * settings.decode_tokens,
        parameters=_size(model),
        state_bytes=model.state_bytes(group.tokens),
        settled_bytes=settled_bytes,
    )


# --- mixers and layers ------------------------------------------------------------------------------------


def _parts_of_model(config: DecoderConfig, group: Group, settings: Settings) -> Contender:
    """The mixers or layers of a model, one of each kind, on inputs of unit scale, as after a norm."""
    parts, parameters = [], 0
    for layer, count in layer_counts(config):
        module = _module(layer, group.level).to(settings.device)
        x = torch.randn(group.batch, group.tokens, config.width, device=settings.device)
        parts.append((count / len(config.layers), _call(module, x, group, settings)))
        parameters += count * _size(module)
    return Contender(
        parts=parts, tokens=group.batch * group.tokens, parameters=round(parameters / len(config.layers))
    )


def _module(layer: LayerConfig, level: str) -> nn.Module:
    if level == "mixer":
        return layer.mixer.build()
    return layer.build()


def _call(module: nn.Module, x: Tensor, group: Group, settings: Settings) -> Call:
    run, dy = _maybe_compiled(module, group), torch.randn_like(x)

    def forward() -> None:
        with torch.no_grad(), settings.precision():
            run(x)

    def step() -> None:
        with settings.precision():
            y = run(x)
        y.backward(dy.to(y.dtype))
        module.zero_grad(set_to_none=True)
        x.grad = None

    if group.mode == "forward":
        return forward
    x.requires_grad_()  # inside a model its gradient is computed too
    return step


def _maybe_compiled(module: nn.Module, group: Group) -> Any:
    return torch.compile(module) if group.compiled else module


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())

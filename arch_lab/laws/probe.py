"""A copy of a model that can be asked what an output depends on, in training and in evaluation mode.

Legend: B rows of one call, T tokens, s split (tokens from s on are changed), t output that moved, D width.
Each call starts from the same random numbers, so that dropout draws the same mask before and after a change: honest noise cancels,
and whatever still moves an earlier output is a leak.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blocks.cost import Cost

TINY = 1e-300  # keeps an all-zero output from dividing by zero; it then fails as not live


@dataclass(frozen=True)
class Mode:
    """How a model is run: ``training`` records gradients, as a training step does; ``evaluation`` does not, as scoring does not."""

    name: str
    train: bool

    def __str__(self) -> str:
        return f"{self.name} mode"


EVALUATION, TRAINING = Mode("evaluation", False), Mode("training", True)
MODES = (EVALUATION, TRAINING)


class Skip(nn.Module):
    """Stands where a layer, or a part of one, has been left out."""

    def forward(self, x: Tensor, *context: object, **options: object) -> Tensor:
        """``context``, ``options``: segments, and what else a layer is told (positions)."""
        return x

    def cost(self, tokens: int) -> Cost:
        """Nothing."""
        return Cost()


class Probe:
    """A copy of ``model`` in ``dtype`` with parameters of order 1. ``thin``: of equal layers only the first is there.

    ``without``: the child of each layer that is left out. Embeddings get a little of a wave that depends on the position only:
    equal tokens would give ties, which rounding breaks one way or the other in mixers that select.
    """

    def __init__(self, model: nn.Module, *, thin: bool = False, without: str = "", dtype: torch.dtype = torch.float64) -> None:
        self.model = _thinned(model) if thin else copy.deepcopy(model)
        self.model = self.model.to("cpu", dtype)
        redraw(self.model)
        self.skips_parts = _leave_out(self.model, without)
        _tell_positions_apart(self.model)

    def __call__(self, tokens: Tensor, mode: Mode, *, seed: int = 0) -> Tensor:
        """Hidden states (B, T, D), detached; the same numbers are drawn in each call of the same seed."""
        with torch.set_grad_enabled(mode.train):
            return self._run(tokens, mode, seed).detach()

    def _run(self, tokens: Tensor, mode: Mode, seed: int) -> Tensor:
        self.model.train(mode.train)
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        run: Any = getattr(self.model, "hidden", self.model)
        y: Tensor = run(tokens)
        return y

    @property
    def skips(self) -> bool:
        return any(isinstance(module, Skip) for module in self.model.modules())

    def flops(self, tokens: int) -> float:
        """Forward FLOPs of one row by the blocks' own formulas; by the number of parameters where there are none."""
        try:
            return max(1.0, float(sum(part.cost(tokens).forward(1) for _, part in self.parts())))  # type: ignore[operator]
        except Exception:  # a part without a formula, or with a wrong one: the accounting law's business
            return 2.0 * tokens * sum(p.numel() for p in self.model.parameters())

    def gradients(self, tokens: Tensor, positions: list[int], mode: Mode) -> tuple[Tensor | None, Tensor | None]:
        """Outputs (B, T, D), and (B, T) sizes of d y[i, :positions[i]] / d embedding[i, t], outputs weighted at random.

        None, None where there is no embedding to differentiate by; sizes are None where outputs have no gradient.
        """
        read: list[Tensor] = []

        def keep(_module: nn.Module, _args: Any, x: Tensor) -> Tensor:
            read.append(x.detach().requires_grad_())
            return read[-1]

        embedding = getattr(self.model, "embedding", None)
        if not isinstance(embedding, nn.Module):
            return None, None
        hook = embedding.register_forward_hook(keep)
        try:
            with torch.enable_grad():
                y = self._run(tokens, mode, 0)
        finally:
            hook.remove()
        if not read or not y.requires_grad:
            return y.detach(), None
        before = torch.arange(y.shape[1]) < torch.tensor(positions)[:, None]
        weights = torch.randn_like(y) * before[..., None]
        (g,) = torch.autograd.grad((y * weights).sum(), read[0], materialize_grads=True)
        return y.detach(), g.abs().amax(dim=-1)

    def gradient_blame(self, tokens: Tensor, s: int, mode: Mode, limit: float) -> str:
        """The first part whose own outputs before s have a gradient with respect to its inputs from s on."""
        calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []

        def keep(name: str) -> Any:
            def look(module: nn.Module, args: Any, y: Any) -> None:
                if args and isinstance(args[0], Tensor) and isinstance(y, Tensor):
                    calls.append((name, module, args[0], y))

            return look

        hooks = [part.register_forward_hook(keep(name)) for name, part in self.parts()]
        try:
            with torch.enable_grad():
                self._run(tokens, mode, 0)
        finally:
            for hook in hooks:
                hook.remove()
        for name, part, x, y in calls:
            if not (x.requires_grad and y.requires_grad):
                continue
            (g,) = torch.autograd.grad((y * torch.randn_like(y))[:, :s].sum(), x, retain_graph=True, materialize_grads=True)
            if g[:, s:].abs().max() > limit * g.abs().max():
                return f"{name} ({type(part).__name__})"
        return "(the model outside its layers)"

    def outputs(self, tokens: Tensor, mode: Mode) -> dict[str, Tensor]:
        """What each part of each layer returned, by name, in the order they ran."""
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def look(_module: nn.Module, _args: Any, y: Any) -> None:
                if isinstance(y, Tensor):
                    seen.setdefault(name, y.detach())

            return look

        hooks = [module.register_forward_hook(keep(name)) for name, module in self.parts()]
        try:
            self(tokens, mode)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def name_of(self, part: nn.Module) -> str:
        """Where ``part`` stands in the model, and its class."""
        name = next(name for name, module in self.model.named_modules() if module is part)
        return f"{name} ({type(part).__name__})"

    def parts(self) -> list[tuple[str, nn.Module]]:
        """The children of each layer; of a model without layers, its own children."""
        layers = getattr(self.model, "layers", None)
        if not isinstance(layers, nn.ModuleList):
            return list(self.model.named_children())
        return [(f"layers.{i}.{name}", child) for i, layer in enumerate(layers) for name, child in layer.named_children()]


def _thinned(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which a layer configured like an earlier one is skipped, so that depth costs nothing."""
    layers, configs = getattr(model, "layers", None), getattr(getattr(model, "config", None), "layers", None)
    if not isinstance(layers, nn.ModuleList) or configs is None or len(configs) != len(layers):
        return copy.deepcopy(model)
    seen: set[str] = set()
    chosen: list[nn.Module] = []
    for layer, config in zip(layers, configs, strict=True):
        chosen.append(Skip() if repr(config) in seen else layer)
        seen.add(repr(config))
    shallow = copy.copy(model)
    shallow._modules = {**model._modules, "layers": nn.ModuleList(chosen)}
    return copy.deepcopy(shallow)


def _leave_out(model: nn.Module, name: str) -> bool:
    """Put a ``Skip`` in place of the child ``name`` of each layer; False where no layer has one."""
    layers = [layer for layer in getattr(model, "layers", []) if name in getattr(layer, "_modules", {})]
    for layer in layers:
        layer._modules[name] = Skip()
    return bool(layers)


def _tell_positions_apart(model: nn.Module) -> None:
    """Add a tenth of the embedding's own spread to its outputs (B, T, D), as a wave of another frequency in each channel."""
    embedding = getattr(model, "embedding", None)
    weight = next(embedding.parameters(), None) if isinstance(embedding, nn.Module) else None
    if weight is None:
        return
    spread = 0.1 * weight.detach().std(correction=0)

    def add(_module: nn.Module, _args: Any, x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim != 3:
            return x
        frequencies = torch.arange(1, x.shape[2] + 1, dtype=x.dtype).sqrt()
        return x + spread * torch.sin(torch.arange(x.shape[1], dtype=x.dtype)[:, None] * frequencies)

    embedding.register_forward_hook(add)


@contextmanager
def kept_random_state(seed: int) -> Iterator[None]:
    """Random numbers of torch, numpy and Python start from ``seed`` inside and go on outside as if nothing had been drawn."""
    python, old = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(old)


@torch.no_grad()
def redraw(model: nn.Module) -> None:
    """Add noise of each parameter's own spread, at least 1/sqrt(fan-in): initial values hide leaks."""
    for parameter in model.parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        fan_in = parameter.shape[-1] if parameter.ndim >= 2 else 4
        spread = parameter.std(correction=0).item() if parameter.numel() > 1 else 0.0
        parameter.add_(torch.randn_like(parameter) * max(spread, fan_in**-0.5))


def moved(after: Tensor, before: Tensor) -> Tensor:
    """(B, T): how far each output moved, in shares of the largest |before|; not a number counts as infinitely far."""
    scale = max(before.abs().max().item(), TINY)
    return torch.nan_to_num((after - before).abs().flatten(2).amax(dim=2) / scale, nan=float("inf"))

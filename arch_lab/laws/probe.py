"""A copy of a model that can be asked what an output depends on, in training and in evaluation mode.

Legend: B rows of one call, T tokens, s first token that changes, t output that moves, D width.
Each call starts from the same random numbers, so that dropout draws the same mask before and after a change:
honest noise cancels, and whatever still moves an earlier output is a leak.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arch_lab.laws.moves import moved
from blocks.cost import Cost


@dataclass(frozen=True)
class Mode:
    """How a model is run: ``train`` records gradients, as a training step does; scoring does not."""

    name: str
    train: bool

    def __str__(self) -> str:
        return f"{self.name} mode"


OUTSIDE = "(the model outside its layers)"

EVALUATION, TRAINING = Mode("evaluation", False), Mode("training", True)
MODES = (EVALUATION, TRAINING)


class Skip(nn.Module):
    """Placeholder for a layer, or a part of one, that is left out."""

    def forward(self, x: Tensor, *context: object, **options: object) -> Tensor:
        """Forward pass; ``context`` and ``options`` hold segments and positions."""
        return x

    def cost(self, tokens: int) -> Cost:
        """Nothing."""
        return Cost()


class Probe:
    """A copy of ``model`` in ``dtype`` with parameters of order 1.

    ``thin``: of equal layers only the first is there; ``without``: the child of each layer that is left out.
    Embeddings get a little of a wave that depends on the position only: equal tokens would give ties, which
    rounding breaks one way or the other in mixers that select.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        thin: bool = False,
        without: str = "",
        dtype: torch.dtype = torch.float64,
    ) -> None:
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
        """Forward FLOPs of one row by the blocks' formulas, else by the number of parameters."""
        try:
            costs = [child.cost(tokens).forward(1) for _, child in self.parts()]  # type: ignore[operator]
            return max(1.0, float(sum(costs)))
        except Exception:  # a part without a formula, or with a wrong one: the accounting law's business
            return 2.0 * tokens * sum(p.numel() for p in self.model.parameters())

    def gradients(
        self,
        tokens: Tensor,
        positions: list[int],
        mode: Mode,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Outputs (B, T, D), and sizes (B, T) of d y[i, :positions[i]] / d embedding[i, t].

        Outputs are weighted at random.

        None, None where there is no embedding to differentiate by; sizes are None where outputs have no
        gradient.
        """
        embedded: list[Tensor] = []

        def record(_module: nn.Module, _args: Any, x: Tensor) -> Tensor:
            embedded.append(x.detach().requires_grad_())
            return embedded[-1]

        embedding = getattr(self.model, "embedding", None)
        if not isinstance(embedding, nn.Module):
            return None, None
        hook = embedding.register_forward_hook(record)
        try:
            with torch.enable_grad():
                y = self._run(tokens, mode, 0)
        finally:
            hook.remove()
        if not embedded or not y.requires_grad:
            return y.detach(), None
        past = torch.arange(y.shape[1]) < torch.tensor(positions)[:, None]
        weights = torch.randn_like(y) * past[..., None]
        (g,) = torch.autograd.grad((y * weights).sum(), embedded[0], materialize_grads=True)
        return y.detach(), g.abs().amax(dim=-1)

    def gradient_blame(self, tokens: Tensor, s: int, mode: Mode, limit: float) -> str:
        """The first part whose own outputs before s have a gradient with respect to its inputs from s on."""
        calls: list[tuple[nn.Module, Tensor, Tensor]] = []

        def record(module: nn.Module, args: Any, y: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(y, Tensor):
                calls.append((module, args[0], y))

        with torch.enable_grad(), _hooked([child for _, child in self.parts()], record):
            self._run(tokens, mode, 0)
        for module, x, y in calls:
            if not (x.requires_grad and y.requires_grad):
                continue
            weighted = (y * torch.randn_like(y))[:, :s].sum()
            (g,) = torch.autograd.grad(weighted, x, retain_graph=True, materialize_grads=True)
            if g[:, s:].abs().max() > limit * g.abs().max():
                return self.name_of(module)
        return OUTSIDE

    def outputs(self, tokens: Tensor, mode: Mode) -> dict[str, Tensor]:
        """What each part of each layer returned at first, by name, in the order they ran."""
        names = {module: name for name, module in self.parts()}
        outputs: dict[str, Tensor] = {}

        def record(module: nn.Module, _args: Any, y: Any) -> None:
            if isinstance(y, Tensor):
                outputs.setdefault(names[module], y.detach())

        with _hooked(names, record):
            self(tokens, mode)
        return outputs

    def first_to_move(
        self,
        reference: dict[str, Tensor],
        outputs: dict[str, Tensor],
        row: int,
        end: int,
        limit: float,
    ) -> str:
        """The first part to run whose output in ``row`` moves before ``end`` by more than ``limit``."""
        for name, y in reference.items():
            same_shape = y.ndim == 3 and outputs[name].shape == y.shape
            if same_shape and not moved(outputs[name], y)[row, :end].max() <= limit:
                return self.name_of(self.model.get_submodule(name))
        return OUTSIDE

    def name_of(self, child: nn.Module) -> str:
        """The path of ``child`` in the model, and its class."""
        path = next(path for path, module in self.model.named_modules() if module is child)
        return f"{path} ({type(child).__name__})"

    def parts(self) -> list[tuple[str, nn.Module]]:
        """The children of each layer; of a model without layers, its own children."""
        layers = getattr(self.model, "layers", None)
        if not isinstance(layers, nn.ModuleList):
            return list(self.model.named_children())
        children: list[tuple[str, nn.Module]] = []
        for i, layer in enumerate(layers):
            children += [(f"layers.{i}.{name}", child) for name, child in layer.named_children()]
        return children


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    """``hook`` runs after the forward of each of ``modules`` inside."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _thinned(model: nn.Module) -> nn.Module:
    """A copy of ``model`` without layers configured like an earlier one, so that depth costs nothing."""
    layers, configs = getattr(model, "layers", None), getattr(getattr(model, "config", None), "layers", None)
    if not isinstance(layers, nn.ModuleList) or configs is None or len(configs) != len(layers):
        return copy.deepcopy(model)
    unique: set[str] = set()
    thin_layers: list[nn.Module] = []
    for layer, config in zip(layers, configs, strict=True):
        thin_layers.append(Skip() if repr(config) in unique else layer)
        unique.add(repr(config))
    shallow = copy.copy(model)
    shallow._modules = {**model._modules, "layers": nn.ModuleList(thin_layers)}
    return copy.deepcopy(shallow)


def _leave_out(model: nn.Module, name: str) -> bool:
    """Put a ``Skip`` in place of the child ``name`` of each layer; False where no layer has one."""
    layers = [layer for layer in getattr(model, "layers", []) if name in getattr(layer, "_modules", {})]
    for layer in layers:
        layer._modules[name] = Skip()
    return bool(layers)


def _tell_positions_apart(model: nn.Module) -> None:
    """Add a wave of a tenth of the embedding's spread to its outputs; each channel has its frequency."""
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
def preserved_random_state(seed: int) -> Iterator[None]:
    """Random numbers of torch start from ``seed`` inside; outside, no generator is changed."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@torch.no_grad()
def redraw(model: nn.Module) -> None:
    """Add noise of each parameter's own spread, at least 1/sqrt(fan-in): initial values hide leaks."""
    for parameter in model.parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        fan_in = parameter.shape[-1] if parameter.ndim >= 2 else 4
        spread = parameter.std(correction=0).item() if parameter.numel() > 1 else 0.0
        parameter.add_(torch.randn_like(parameter) * max(spread, fan_in**-0.5))

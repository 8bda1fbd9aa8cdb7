"""Groups of contenders that a GPU benchmark times.

Groups of contenders for one job, and how a group is held to its definition before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from arch_lab.bench.cold import ColdRow, Roof, first_line, measure_cold
from arch_lab.bench.protocol import Call, GateError, Skipped, gate

TOLERANCE = 3e-2  # of the scale: bfloat16 rounds to 2^-8, and hidden values are rounded between two products
BYTES = 2  # of a bfloat16 number


@dataclass(frozen=True, kw_only=True)
class OpsBench:
    """Sizes of every group; the defaults are those the goals are stated for."""

    conv_width: int = 768
    conv_tokens: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16_384)
    conv_rows: int = 32_768  # B·T
    monarch_blocks: tuple[int, ...] = (16, 32, 64)
    rows: int = 16_384
    glu_widths: tuple[int, ...] = (768, 1024, 2048)
    linear_sizes: tuple[tuple[int, int], ...] = ((768, 768), (1024, 1024), (768, 3072), (2048, 2048))
    layer_width: int = 768
    layer_tokens: tuple[int, ...] = (2048, 8192, 16_384)
    layer_rows: int = 32_768
    blocks: int = 4
    rounds: int = 50
    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16
    compiled: bool = True  # also peers under torch.compile

    def randn(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, device=self.device) * scale).to(self.dtype)

    def compile(self, name: str, contender: Contender) -> dict[str, Contender]:
        """The contender under torch.compile, where that is wanted."""
        function, inputs = contender
        return {f"{name}, compiled": (torch.compile(function), inputs)} if self.compiled else {}


# A function and its inputs; gradients are taken of all of them, so each contender brings its own weights
Contender = tuple[Callable[..., Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Contenders for one job, ours first.

    ``definition``: the same function of our inputs in plain torch, for float64; None where a contender is a
    whole layer, whose parts have groups of their own.
    """

    name: str
    shape: str
    contenders: dict[str, Contender]
    definition: Callable[..., Tensor] | None
    bytes_moved: tuple[int, int]  # forward, forward + backward
    flops: int  # forward; three times that with the backward pass


def time_group(bench: OpsBench, group: Group, roof: Roof, *, backward: bool) -> Iterator[ColdRow | Skipped]:
    """One row per peer. Raises: GateError when ours computes something else than its definition."""
    name = f"{group.name}, {'forward + backward' if backward else 'forward'}"
    prepare = _with_gradients if backward else _without_gradients
    try:
        _hold_to_definition(name, group, backward)
        calls = {label: prepare(*contender) for label, contender in group.contenders.items()}
        sizes = {"bytes_moved": group.bytes_moved[backward], "flops": group.flops * (3 if backward else 1)}
        yield from measure_cold(
            name, group.shape, calls, **sizes, roof=roof, rounds=bench.rounds, device=bench.device
        )
    except GateError:
        raise
    except (
        Exception
    ) as error:  # a kernel of ours that cannot run is a finding, and the other groups are still wanted
        yield Skipped(
            name=f"{name}, {group.shape}",
            reason=f"ours cannot run: {type(error).__name__}: {first_line(error)}",
        )


def _without_gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Call:
    return torch.no_grad()(lambda: function(*inputs))


def _with_gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Call:
    # parameters of a module stay themselves; a plain tensor becomes a leaf
    leaves = tuple(x if x.requires_grad else x.detach().requires_grad_() for x in inputs)

    def call() -> tuple[Tensor, ...]:
        y = function(*leaves)
        return torch.autograd.grad(y, leaves, torch.ones_like(y))

    return call


def _hold_to_definition(name: str, group: Group, backward: bool) -> None:
    """Raises: GateError unless ours gives the numbers of the definition in float64."""
    if group.definition is None:
        return
    function, inputs = next(iter(group.contenders.values()))
    wide = tuple(x.double() for x in inputs)
    if not backward:
        with torch.no_grad():
            gate(name, function(*inputs).double(), group.definition(*wide), TOLERANCE)
        return
    pairs = zip(_with_gradients(function, inputs)(), _with_gradients(group.definition, wide)(), strict=True)
    for i, (gradient, expected) in enumerate(pairs):
        gate(f"{name}, gradient {i}", gradient.double(), expected, TOLERANCE)

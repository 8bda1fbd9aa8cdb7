"""Runs the gated causal convolution kernels under Triton's interpreter and prints what came out as one line of JSON.

Starting the interpreter costs seconds, so one process runs every case: ``TRITON_INTERPRET=1 python -m tests.cuda.causal_conv_cases quick``.
Legend: D channels, B batch, T tokens, S taps of the kernel, W of the short convolution. Fresh memory is NaN here, so nothing is read
that was not written. bfloat16 is left to float32 arithmetic: the interpreter multiplies bit patterns (triton-lang/triton #11584).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from blocks.convolution.direct import causal_convolution_direct
from blocks.kernels.sources import triton_kernels

NAMES = ("y", "dz", "dshort_weight", "dshort_bias", "dkernel")
ALL = (True, True, True, True)


@dataclass(frozen=True)
class Case:
    D: int
    B: int
    T: int
    S: int
    W: int = 3
    dtype: torch.dtype = torch.float32
    parameters: torch.dtype | None = None  # of kernel and short convolution, where they are wider than z

    def tensors(self, device: str) -> tuple[Tensor, list[Tensor]]:
        """Gradient of y, and z, short_weight, short_bias, kernel."""
        draw = torch.Generator().manual_seed(self.T)
        wide = self.parameters or self.dtype

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw).to(device)

        z, kernel = normal(3 * self.D, self.B, self.T), normal(self.D, self.S) / min(self.S, self.T) ** 0.5
        short = [normal(3 * self.D, self.W).to(wide), normal(3 * self.D).to(wide)]
        return normal(self.D, self.B, self.T).to(self.dtype), [z.to(self.dtype), *short, kernel.to(wide)]


F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
TOEPLITZ = [
    Case(1, 3, 1, 1), Case(3, 1, 2, 5, W=4), Case(1, 3, 63, 20), Case(1, 3, 64, 64, W=4), Case(1, 1, 65, 65), Case(1, 5, 127, 200, W=4),
    Case(3, 3, 130, 50), Case(1, 3, 257, 257), Case(1, 33, 130, 130, W=1),
    Case(1, 3, 65, 90, W=4, dtype=F16), Case(1, 3, 257, 257, dtype=F16), Case(1, 45, 260, 129, dtype=F16, parameters=F32),
]  # fmt: skip
MONARCH = [
    Case(1, 3, 1, 1),
    Case(1, 2, 65, 20, W=4),
    Case(3, 3, 257, 300),
    Case(1, 1, 1000, 1000),
    Case(1, 1, 130, 130, dtype=BF16),
]
SLOW_TOEPLITZ = [
    Case(3, b, t, s, W=w, dtype=dtype)
    for dtype in (F32, F16) for b, t, s, w in [(3, 63, 63, 3), (5, 127, 64, 4), (3, 128, 129, 3), (1, 513, 513, 4), (7, 515, 200, 3)]
]  # fmt: skip
SLOW_MONARCH = [Case(1, 3, 2049, 2049), Case(1, 2, 4096, 4096, W=4), Case(3, 3, 3001, 5000)]


def reference(z: Tensor, short_weight: Tensor, short_bias: Tensor, kernel: Tensor) -> Tensor:
    """The definition, in the arguments' type."""
    taps = short_weight.shape[1]
    rows = F.conv1d(F.pad(z.transpose(0, 1), (taps - 1, 0)), short_weight[:, None], short_bias, groups=len(z))
    before, after, value = rearrange(rows, "b (three d) t -> three b d t", three=3)
    return rearrange(after * causal_convolution_direct(before * value, kernel), "b d t -> d b t")


def errors(kernels: Any, case: Case, device: str = "cpu") -> dict[str, float]:
    """Largest error of the output and the four gradients, relative to the largest value of each."""
    gradient, arguments = case.tensors(device)
    exact = [a.double().requires_grad_() for a in arguments]
    y = reference(*exact)
    wanted = [y.detach(), *torch.autograd.grad(y, exact, gradient.double())]
    found = [kernels.gated_forward(*arguments), *kernels.gated_backward(gradient, *arguments, ALL)]
    for name, a, b in zip(NAMES, found, wanted, strict=True):
        of = case.dtype if name in ("y", "dz") else case.parameters or case.dtype
        assert a.shape == b.shape and a.dtype == of and a.is_contiguous(), (
            f"{name} of {case}: {a.shape} {a.dtype}"
        )
    # no maximum over an error that is not finite
    return {
        n: float((a.double() - b).abs().nan_to_num(torch.inf).max() / b.abs().max())
        for n, a, b in zip(NAMES, found, wanted, strict=True)
    }


def leaks(kernels: Any, case: Case, cut: int, size: float, device: str = "cpu") -> dict[str, float]:
    """How far the past moves when the tokens from ``cut`` on become others of ``size``: root mean square, relative; 0.0 is bit for bit."""
    gradient, arguments = case.tensors(device)
    z, *weights = arguments
    other = z.clone()
    other[..., cut:] = size * torch.randn_like(z[..., cut:])
    y, moved = kernels.gated_forward(z, *weights), kernels.gated_forward(other, *weights)
    # the past's outputs alone are differentiated: no gradient may know the future's tokens, none may reach them
    past = gradient.clone()
    past[..., cut:] = 0
    of_past, of_moved = (kernels.gated_backward(past, x, *weights, ALL) for x in (z, other))
    # and gradients of late tokens may not know the gradients of early outputs
    late = gradient.clone()
    late[..., :cut] = size * torch.randn_like(late[..., :cut])
    dz, dz_moved = (
        kernels.gated_backward(g, z, *weights, (True, False, False, False))[0] for g in (gradient, late)
    )

    def moves(a: Tensor, b: Tensor) -> float:
        return float((a.double() - b.double()).norm() / a.double().norm())

    found = {
        "y": moves(y[..., :cut], moved[..., :cut]),
        "dz[late]": moves(dz[..., cut:], dz_moved[..., cut:]),
    }
    found |= {name: moves(a, b) for name, a, b in zip(NAMES[1:], of_past, of_moved, strict=True)}
    found["dz[future]"] = float(of_past[0][..., cut:].double().norm() / of_past[0].double().norm())
    return found | {"the future itself": moves(y[..., cut:], moved[..., cut:])}


def subsets(kernels: Any, case: Case) -> dict[str, bool]:
    """For every need alone: only it is computed, with the bits that it has beside the others."""
    gradient, arguments = case.tensors("cpu")
    everything = kernels.gated_backward(gradient, *arguments, ALL)
    same = {}
    for i, name in enumerate(NAMES[1:]):
        alone = kernels.gated_backward(gradient, *arguments, tuple(i == j for j in range(4)))
        same[name] = torch.equal(alone[i], everything[i]) and all(
            alone[j] is None for j in range(4) if j != i
        )
    return same


def main(slow: bool) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    assert torch.empty(3).isnan().all()
    kernels = triton_kernels("causal_conv")
    report: dict[str, Any] = {
        "toeplitz": [[str(c), errors(kernels, c)] for c in (SLOW_TOEPLITZ if slow else TOEPLITZ)]
    }
    exact = [(Case(1, 1, 130, 130), 70), (Case(1, 3, 130, 90, dtype=F16), 70)]
    if slow:
        exact = [(Case(3, 3, 257, 257, dtype=d), cut) for d in (F32, F16) for cut in (1, 64, 129, 200)]
    else:
        report["subsets"] = subsets(kernels, Case(1, 1, 65, 65))
    report["exact"] = [[str(c), leaks(kernels, c, cut, 10.0)] for c, cut in exact]
    if not slow:
        kernels.LONGEST.update(
            {"ieee": 0, "16-bit": 0}
        )  # short sequences through the transforms, which long ones take
    report["monarch"] = [[str(c), errors(kernels, c)] for c in (SLOW_MONARCH if slow else MONARCH)]
    long = Case(1, 3, 2500, 2500) if slow else Case(1, 1, 130, 130)
    report["rounding"] = [[str(long), leaks(kernels, long, long.T // 2, 1.0)]]
    if not slow:
        report["subsets of transforms"] = subsets(kernels, Case(1, 1, 65, 65))
    print(json.dumps(report))


if __name__ == "__main__":
    main(slow=sys.argv[1:] == ["slow"])

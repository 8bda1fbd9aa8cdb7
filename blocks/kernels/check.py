"""Check of each kernel against the definition before it is selected.

Once per process and dtype, on small random inputs, against the definition in float64.

A kernel that a compiler accepts can still be wrong on the GPU at hand, and a wrong kernel does not crash: it
trains. So the automatic choice takes none that has not just given the right outputs and gradients there. What
is *named* runs unproved: so one looks at it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Shape = tuple[int, ...]

# operation: sizes as ``serves`` takes them, and shapes of the inputs; no multiples of a tile, so that edges
# are tried too
SAMPLES: dict[str, tuple[tuple[dict[str, int], tuple[Shape, ...]], ...]] = {
    "block_diagonal_matmul": (({"rows": 70, "k": 4, "q": 48, "p": 40}, ((70, 160), (4, 48, 40), (192,))),),
    "block_diagonal_glu": (
        (
            {"rows": 70, "width": 128, "ffn_width": 320, "k": 4},
            ((70, 128), (4, 160, 32), (4, 32, 80), (128,)),
        ),
    ),
    "monarch_matmul": (
        (
            {"rows": 70, "k": 16, "q": 16, "p": 16, "l": 16, "s": 16, "r": 16},
            ((70, 256), (16, 16, 16), (16, 16, 16)),
        ),
    ),
    "causal_conv": tuple(
        (
            {"channels": 5, "batch": 3, "tokens": tokens, "taps": tokens, "short_taps": 3},
            ((15, 3, tokens), (15, 3), (15,), (5, tokens)),
        )
        for tokens in (130, 2500)  # either side of where another algorithm may take over
    ),
}
# inputs that backward takes, where a bias is not one of them
BACKWARD_INPUTS = {"block_diagonal_matmul": 2, "block_diagonal_glu": 3}
# of the scale; hidden values are rounded in between
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}


def kernel_mismatch(
    operation: str,
    *,
    reference: Callable[..., Tensor],
    forward: Callable[..., Tensor],
    backward: Callable[..., Sequence[Tensor | None]],
    serves: Callable[[dict[str, int]], str | None],
    device: str,
    dtype: torch.dtype,
) -> str:
    """Why a kernel's numbers are not to be trusted here, one clause.

    "" when every sample it serves came out right.
    """
    # of its own: choosing a kernel must not move the caller's draws
    generator = torch.Generator().manual_seed(0)
    for sizes, shapes in SAMPLES[operation]:
        if serves(sizes) is not None:
            continue
        # weights by the fan-in rule, so that outputs and gradients keep one scale
        inputs = [
            torch.randn(s, generator=generator) * (s[-1] ** -0.5 if i and len(s) > 1 else 1.0)
            for i, s in enumerate(shapes)
        ]
        device_inputs = [x.to(device, dtype) for x in inputs]
        with torch.inference_mode(False), torch.enable_grad():
            wide = [x.double().requires_grad_() for x in device_inputs]
            expected = reference(*wide)
            gradient = torch.randn(expected.shape, generator=generator).to(device, dtype)
            gradients = torch.autograd.grad(expected, wide, gradient.double())
        try:
            results = [
                forward(*device_inputs),
                *backward(
                    gradient, *device_inputs[: BACKWARD_INPUTS.get(operation)], (True,) * len(device_inputs)
                ),
            ]
        except Exception as error:
            return (
                "it fails on this device: "
                f"{next(iter(str(error).strip().splitlines()), type(error).__name__)}"
            )
        for i, (actual, expected_value) in enumerate(
            zip(results, [expected.detach(), *gradients], strict=True)
        ):
            off = _error(actual, expected_value)
            if not off <= TOLERANCE[dtype]:
                subject = "outputs" if i == 0 else f"gradients of input {i}"
                return f"its {subject} differ from plain torch by {off:.1e} of the scale on this device"
    return ""


def _error(actual: Tensor | None, expected_value: Tensor) -> float:
    return (
        float("inf")
        if actual is None or actual.shape != expected_value.shape
        else ((actual.double() - expected_value).abs().max() / expected_value.abs().max()).item()
    )

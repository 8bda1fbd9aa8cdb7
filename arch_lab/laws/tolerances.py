"""All bounds of the laws and certificates: how far two numbers may differ, and why.

Everything is decided in float64 and relative to the largest |y|: an FFT padded one point too short leaks
6.6e-6 of the scale at 8192 tokens, which an absolute float32 tolerance lets through, while rounding of a
correct one stays below 1e-15.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from arch_lab.laws.staged import bare
from blocks.attention.cross import GemmaCrossAttention
from blocks.attention.gemma import GemmaAttention
from blocks.attention.merged import GemmaMergedAttention
from blocks.contract import Block

MASKED = (GemmaAttention, GemmaCrossAttention, GemmaMergedAttention)


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """``bound``: the largest allowed (or for a guard, the smallest required) share ``of`` something."""

    bound: float
    of: str
    reason: str


EXACT = Tolerance(
    bound=0.0,
    of="max |y|",
    reason="at equal length a masked key has weight exactly 0, so not a single bit may change",
)
TRANSFORM = Tolerance(
    bound=1e-12,
    of="max |y|, float64",
    reason="each rounding error mixes all tokens: 1e-16 per operation, margin 1000 over some hundred terms",
)
TRANSFORM_SINGLE = Tolerance(
    bound=1e-5,
    of="max |y|, float32",
    reason="as TRANSFORM, with 6e-8 per operation; an additional smoke test of the float32 path",
)
OTHER_SHAPE = Tolerance(
    bound=1e-12,
    of="max |y|, float64",
    reason="other lengths or batches use other GEMM kernels, "
    "so the order of sums differs even in a dense map",
)
DECODING = Tolerance(
    bound=1e-10,
    of="max |y|, float64",
    reason=(
        "another algorithm (dot products for transforms, a state for a scan) whose errors add up over steps"
    ),
)
GRADIENT = Tolerance(
    bound=1e-12,
    of="max |dy/dx|, float64",
    reason="as for outputs; exactly 0 for masked attention",
)
LIVE = Tolerance(
    bound=1e-3,
    of="max |y|",
    reason="lower bound: outputs must change by at least this much; a block that ignores its input fails",
)
SINGLE = Tolerance(
    bound=5e-4,
    of="max |y|, float32 against float64 on equal weights",
    reason=(
        "one rounding is 6e-8; three sine layers of a filter, of frequency 10, amplify it to 6e-5; margin 8"
    ),
)
HALF = Tolerance(
    bound=5e-2,
    of="|y| (norm), bfloat16 against float32 on equal bfloat16 weights",
    reason="about twelve roundings of 2^-9, doubled by products; "
    "a filter with rounded weights is another one",
)
SAME_OPERATIONS = Tolerance(
    bound=1e-12,
    of="max |y|, float64",
    reason="compiled, strided and other-backend runs may reorder sums but do the same arithmetic",
)
MODEL = Tolerance(
    bound=1e-9,
    of="max |logit|, float64",
    reason="depth amplifies rounding: each layer's norm and softmax rescale what it received",
)
MODEL_SINGLE = Tolerance(bound=1e-4, of="max |logit|, float32", reason="as MODEL; a smoke test")
MODEL_GRADIENT = Tolerance(
    bound=1e-9,
    of="max |d hidden/d embedding|, float64",
    reason="as MODEL: depth amplifies rounding",
)
MODEL_LIVE = Tolerance(
    bound=1e-6,
    of="max |hidden|",
    reason="lower bound: one token of a long row may change its output little, but not by less than this",
)
MODEL_FLOAT32 = Tolerance(
    bound=1e-3,
    of="max |hidden|, float32",
    reason="no rounding explains larger changes at half of all positions, even where float64 shows none",
)
REACH = Tolerance(
    bound=1e-9,
    of="max |y|",
    reason="lower bound: the farthest key of the declared window must change the output",
)

NOTHING = Tolerance(bound=0.0, of="FLOPs, parameters and bytes", reason="integers and bits are equal")

ALL: dict[str, tuple[str, Tolerance]] = {
    "EXACT": ("causality, isolation: built-in masked attention", EXACT),
    "TRANSFORM": ("causality, isolation: every other block", TRANSFORM),
    "TRANSFORM_SINGLE": ("causality, again in float32", TRANSFORM_SINGLE),
    "GRADIENT": ("causality: gradient witness", GRADIENT),
    "LIVE": ("causality, isolation: changed inputs change outputs", LIVE),
    "REACH": ("causality: the window is as wide as declared", REACH),
    "OTHER_SHAPE": ("prefix consistency; packed = separate; batch of one", OTHER_SHAPE),
    "DECODING": ("decoding", DECODING),
    "MODEL": ("whole models: causality, prefix consistency, decoding, isolation", MODEL),
    "MODEL_GRADIENT": ("certificate of a model: gradient witness", MODEL_GRADIENT),
    "MODEL_LIVE": ("certificate of a model: an output changes with its own token", MODEL_LIVE),
    "MODEL_FLOAT32": ("certificate of a model: the median change in float32", MODEL_FLOAT32),
    "MODEL_SINGLE": ("whole models: causality, again in float32", MODEL_SINGLE),
    "SINGLE": ("numerics: float32", SINGLE),
    "HALF": ("numerics: bfloat16", HALF),
    "SAME_OPERATIONS": ("numerics: compiled, strided, other backend, train mode", SAME_OPERATIONS),
}


def same_length(module: nn.Module, *, single: bool = False) -> Tolerance:
    """What a change elsewhere may move at equal shapes: nothing for masked attention, rounding for the rest.

    Decided by family and not by a flag on the class: bit-exactness is a promise about one code path
    (``blocks.attention``), tested for it on the operators torch offers.
    """
    if isinstance(bare(module), MASKED):
        return EXACT
    if not isinstance(module, Block):
        return MODEL_SINGLE if single else MODEL
    return TRANSFORM_SINGLE if single else TRANSFORM


def gradient(module: nn.Module) -> Tolerance:
    return EXACT if isinstance(bare(module), MASKED) else GRADIENT


def other_shape(module: nn.Module) -> Tolerance:
    return OTHER_SHAPE if isinstance(module, Block) else MODEL


def decoding(module: nn.Module) -> Tolerance:
    return DECODING if isinstance(module, Block) else MODEL

"""The second witness: what a graph really executes, counted operator by operator with our own formulas.

Legend: B batch, H heads, T queries, S keys, C head width, N transform length.
A block says what it costs (``cost``); this file runs it, on the meta device as a rule, and adds up what its
operators do. The two must agree to the last FLOP. torch's own counter alone is no witness: it gives 0 to
every FFT and to its fused CPU attention, charges causal attention in full, and passes over operators it does
not know in silence. Here:

- a real transform of N points is 2.5 N log2 N (``blocks.cost.fft_flops``), a complex one twice that, a
  product complex tensors 6 per element, a complex matmul 4 real ones;
- attention is charged for the pairs it needs: ``blocks.attention.core.attend`` says how many, plain
  ``scaled_dot_product_attention`` shows them by ``is_causal`` or by a mask that has values (not on the meta
  device);
- custom operators by the formula they register (``torch.utils.flop_counter.register_flop_formula``);
- what does more than elementwise arithmetic and has no formula is named in ``unknown``; the accounting law
  refuses it.
Blind spot: products written as broadcast multiply-and-sum look elementwise and count 0; write them as
matmuls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from blocks.attention.core import attention_recorder
from blocks.convolution.short import short_flops
from blocks.cost import fft_flops
from blocks.errors import ConfigError

aten = torch.ops.aten
Charges = list[tuple[str, int]]

# registered formulas whose FLOPs stand under ``fft``; every other registered formula is ``matmul``
FFT_OPERATORS = {
    "blocks::circular_convolution",
    "blocks::circular_convolution_backward",
    "blocks::causal_conv_backward",
}
# registered formulas of both kinds: from the operator's arguments, the part under ``matmul``; the rest is
# ``fft``
MATMUL_PART: dict[str, Callable[..., int]] = {
    "blocks::causal_conv": lambda z, weight, *_: short_flops(z.shape, weight.shape[1])
}

# aten operators heavier than elementwise that nothing here can price: names, and beginnings of names
HEAVY = {
    *(
        "mv",
        "addmv",
        "dot",
        "vdot",
        "addbmm",
        "_addmm_activation",
        "_int_mm",
        "_grouped_mm",
        "_scaled_grouped_mm",
    ),
    *("bilinear", "_trilinear", "_cdist_forward", "_cdist_backward", "_pdist_forward", "_pdist_backward"),
    *(
        "triangular_solve",
        "cholesky",
        "cholesky_solve",
        "cholesky_inverse",
        "geqrf",
        "ormqr",
        "lu_solve",
        "matrix_exp",
    ),
    *("_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "_cudnn_rnn", "miopen_rnn", "mkldnn_rnn_layer"),
    *(
        "_native_multi_head_attention",
        "_transformer_encoder_layer_fwd",
        "_flash_attention_forward",
        "_efficient_attention_forward",
    ),
}
HEAVY_BEGINNINGS = (
    "linalg_",
    "_linalg_",
    "_scaled_dot_product",
    "mkldnn_",
    "_sparse",
    "_weight_int",
    "_scaled_mm",
    "_fft",
)
LIGHT = {"_linalg_check_errors", "linalg_vector_norm", "linalg_cross"}
NATIVE = {"aten", "prim", "prims", "profiler", "debugprims"}
COMPLEX_MATMULS = {"mm", "bmm", "addmm", "baddbmm", "convolution", "convolution_backward"}


@dataclass(frozen=True, kw_only=True)
class Counted:
    """FLOPs executed, and operators without a formula; with any of those the FLOPs are a lower bound."""

    matmul: int
    fft: int
    unknown: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return self.matmul + self.fft


def count_forward(call: Callable[[], Any]) -> Counted:
    """What ``call`` executes: ``count_forward(lambda: block(torch.empty(2, 33, 64, device="meta")))``.

    Build the block on the meta device as well (``arch_lab.models.on_meta``) and nothing is computed or
    stored.
    """
    with _counting() as counter:
        call()
    return counter.result()


def count_training(call: Callable[[], Any]) -> Counted:
    """FLOPs of ``call`` and of the backward pass through everything it returns.

    Gradients land in the leaves' ``.grad``.

    Executed, not canonical: canonical training is 3 x forward, and equal to this for graphs of matmuls and
    attention (count with inputs that require gradients, or the first layer saves one product). FFT and short
    convolutions execute less.
    Attention's backward is charged 2 x its forward and not run: the gradients of this pass are for counting
    only.
    Raises: ConfigError when nothing that ``call`` returns requires a gradient.
    """
    with _counting() as counter:
        outputs = [t for t in tree_leaves(call()) if isinstance(t, Tensor) and t.requires_grad]
        if not outputs:
            raise ConfigError(
                "count_training: no output of the call requires a gradient; pass inputs or parameters that do"
            )
        torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])
    return counter.result()


@contextmanager
def _counting() -> Iterator[_Counter]:
    counter = _Counter()
    token = attention_recorder.set(counter.attend)
    try:
        with counter, _FusedAttention(counter):
            yield counter
    finally:
        attention_recorder.reset(token)


class _Counter(TorchDispatchMode):
    """Sees every operator below autograd, forward and backward."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.matmul = self.fft = 0
        self.unknown: set[str] = set()
        self.suspended = False

    def result(self) -> Counted:
        return Counted(matmul=self.matmul, fft=self.fft, unknown=tuple(sorted(self.unknown)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.suspended:
            return func(*args, **kwargs)
        if not isinstance(func, torch._ops.OpOverload):
            self.unknown.add(str(func))
            return NotImplemented
        formula = _formula(func)
        if formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            for kind, flops in formula(args, kwargs, out):
                setattr(self, kind, getattr(self, kind) + flops)
        elif _is_heavy(func):
            self.unknown.add(_name(func))
        return out

    def attend(
        self, run: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, pairs: int
    ) -> Tensor:
        """``blocks.attention.core.attention_recorder``: every head of every sequence needs ``pairs``."""
        return self.charged(run, q, k, v, prod(q.shape[:-2]) * pairs)

    def charged(
        self, run: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, pairs: int
    ) -> Tensor:
        """``run(q, k, v)`` for ``pairs`` in all: 2·C for a score, 2·C for its share of the values."""
        if self.suspended:
            return run(q, k, v)
        flops = 2 * pairs * (q.shape[-1] + v.shape[-1])
        self.matmul += flops
        return _Attention.apply(self, flops, run, q, k, v)  # type: ignore[no-any-return, no-untyped-call]

    @contextmanager
    def silence(self) -> Iterator[None]:
        was_suspended, self.suspended = self.suspended, True
        try:
            yield
        finally:
            self.suspended = was_suspended


class _Attention(torch.autograd.Function):
    """Attention that is not counted.

    Its backward charges twice the forward's products and computes nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, counter: _Counter, flops: int, run: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        ctx.counter, ctx.flops = counter, flops
        ctx.like = (q.detach(), k.detach(), v.detach())
        with counter.silence():
            return run(q, k, v)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.counter.matmul += 2 * ctx.flops
        return (None, None, None, *(torch.zeros_like(t) for t in ctx.like))


class _FusedAttention(TorchFunctionMode):
    """Catches ``scaled_dot_product_attention`` while its arguments still tell which pairs it needs."""

    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is not scaled_dot_product_attention or self.counter.suspended:
            return func(*args, **kwargs)
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
        q, k, v = (kwargs.pop(name) for name in names[:3])
        pairs = _shown_pairs(q, k, kwargs.get("attn_mask"), kwargs.get("is_causal", False))
        return self.counter.charged(lambda *qkv: func(*qkv, **kwargs), q, k, v, pairs)


def _shown_pairs(q: Tensor, k: Tensor, mask: Tensor | None, is_causal: bool) -> int:
    """Pairs of all heads and sequences; all pairs under a mask without values.

    ``is_causal`` aligns the first key with the first query.
    """
    queries, keys = q.shape[-2], k.shape[-2]
    if is_causal:
        return prod(q.shape[:-2]) * sum(min(i + 1, keys) for i in range(queries))
    if mask is None or mask.is_meta:
        return prod(q.shape[:-1]) * keys
    visible = mask if mask.dtype == torch.bool else mask > float("-inf")
    return int(visible.expand(*q.shape[:-1], keys).sum())


# --- formulas: (args, kwargs, out) -> [(kind, FLOPs), …] ----------------------------------------------------


def _r2c(args: Any, kwargs: Any, out: Tensor) -> Charges:
    x, dims = args[0], args[1]
    return [("fft", _transform(x, dims[-1:], 1) + _transform(out, dims[:-1], 2))]


def _c2r(args: Any, kwargs: Any, out: Tensor) -> Charges:
    x, dims = args[0], args[1]
    return [("fft", _transform(out, dims[-1:], 1) + _transform(x, dims[:-1], 2))]


def _c2c(args: Any, kwargs: Any, out: Tensor) -> Charges:
    return [("fft", _transform(args[0], args[1], 2))]


def _transform(x: Tensor, dims: list[int], real_parts: int) -> int:
    """One transform along each of ``dims`` of x, batched over the other axes."""
    return sum(real_parts * fft_flops(x.shape[d], x.numel() // x.shape[d]) for d in dims if x.numel())


def _product(args: Any, kwargs: Any, out: Tensor) -> Charges:
    spectra = all(isinstance(a, Tensor) and a.is_complex() and a.dim() > 0 for a in args[:2])
    return [("fft", 6 * out.numel() if spectra else 0)]


def _convolution_backward(args: Any, kwargs: Any, out: Any) -> Charges:
    """Two products for the forward's one.

    Torch's formula ignores groups and overcharges depth-wise ones C-fold.
    """
    gradient, x, weight, transposed, mask = args[0], args[1], args[2], args[7], args[10]
    product = 2 * (x if transposed else gradient).numel() * prod(weight.shape[1:])
    return [("matmul", _real_parts(weight) * sum(mask[:2]) * product)]


def _triangular_solve(args: Any, kwargs: Any, out: Tensor) -> Charges:
    """By substitution: n(n - 1) additions and products and n divisions per right-hand side of an n x n
    system.
    """
    return [("matmul", _real_parts(args[0]) * out.numel() * args[0].shape[-1])]


FORMULAS: dict[str, Callable[[Any, Any, Any], Charges]] = {
    "aten::_fft_r2c": _r2c,
    "aten::_fft_c2r": _c2r,
    "aten::_fft_c2c": _c2c,
    "aten::mul": _product,
    "aten::convolution_backward": _convolution_backward,
    "aten::linalg_solve_triangular": _triangular_solve,
}


def _real_parts(x: Any) -> int:
    return 4 if isinstance(x, Tensor) and x.is_complex() else 1


def _name(func: Any) -> str:
    """``aten::mul`` for aten.mul.Tensor and aten.mul_.Tensor: in-place operators do the same arithmetic."""
    namespace, _, name = func._schema.name.partition("::")
    return f"{namespace}::{name.rstrip('_') or name}"


def _formula(func: Any) -> Callable[[Any, Any, Any], Charges] | None:
    name = _name(func)
    if name in FORMULAS:
        return FORMULAS[name]
    namespace, _, short = name.partition("::")
    packet = (
        func._overloadpacket
        if func._overloadpacket in flop_registry
        else getattr(getattr(torch.ops, namespace), short, None)
    )
    registered = flop_registry.get(packet)
    if registered is None:
        return None
    kind = "fft" if name in FFT_OPERATORS else "matmul"

    def priced(args: Any, kwargs: Any, out: Any) -> Charges:
        parts = _real_parts(args[0]) if short in COMPLEX_MATMULS else 1
        flops = parts * int(registered(*args, **kwargs, out_val=out))
        if name in MATMUL_PART:
            products = MATMUL_PART[name](*args)
            return [("matmul", products), ("fft", flops - products)]
        return [(kind, flops)]

    return priced


def _is_heavy(func: Any) -> bool:
    namespace, _, short = _name(func).partition("::")
    if namespace not in NATIVE:
        return True  # a custom operator that registered no formula
    return short in HEAVY or (short.startswith(HEAVY_BEGINNINGS) and short not in LIGHT)

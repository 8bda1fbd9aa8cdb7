"""``arch-lab bench limits``: the share of the machine's limit that operations and training steps reach.

Legend: B batch, T tokens, D width, F ffn_width.
Each round times a large matrix product, real transforms in cache and a copy larger than any cache, then every
piece of work. Its limit is the time that its canonical matmul and FFT FLOPs take at those rates, or its least
bytes at the copy's, whichever is longer; the share is that limit over the time measured in the same round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arch_lab.accounting import ledger
from arch_lab.accounting.ledger import TRAINING
from arch_lab.bench.protocol import Call, Row, one_thread_clock, seconds_of, with_gradients
from arch_lab.judge.crossover import middle
from arch_lab.models import Shape, recipe
from blocks import BlockDiagonalGLUConfig, GeGLUConfig, RMSNormConfig
from blocks.attention.core import attend
from blocks.attention.masks import attended_pairs
from blocks.config import Options
from blocks.convolution.fft import causal_convolution
from blocks.cost import fft_flops
from blocks.ops.block_diagonal import block_diagonal_matmul

ROUNDS = 9
SIDE, POINTS, TRANSFORMS, COPIED = (
    1024,
    8192,
    64,
    2**27,
)  # of the probes: matrix, transforms, bytes of the copy
# the step of the study ``quickstart``: 1M parameters, four rows of 256 tokens
BATCH, TOKENS, VOCABULARY = 4, 256, 1024
STEPS: tuple[tuple[str, Options, Shape], ...] = (
    ("gemma3", {"window": 64, "pattern": "LLLG"}, Shape(width=128, depth=4, ffn_width=544)),
    ("m2_gpt", {}, Shape(width=128, depth=7, ffn_width=544)),
)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """FLOPs per second of products and of transforms, bytes per second of a copy (read and written)."""

    matmul: float
    fft: float
    memory: float

    @property
    def text(self) -> str:
        return (
            f"limits measured in the same rounds: matmul {self.matmul / 1e9:.1f} GFLOP/s, "
            f"real FFT {self.fft / 1e9:.1f} GFLOP/s, copy {self.memory / 1e9:.1f} GB/s"
        )


@dataclass(frozen=True, kw_only=True)
class Work:
    """A call and what it has to do at least: canonical FLOPs and bytes."""

    name: str
    shape: str
    call: Call
    matmul: int = 0
    fft: int = 0
    bytes_moved: int = 0

    def seconds(self, rates: Rates) -> float:
        arithmetic = self.matmul / rates.matmul + self.fft / rates.fft
        return max(arithmetic, self.bytes_moved / rates.memory)


@dataclass(frozen=True, kw_only=True)
class ShareRow(Row):
    """A row against the machine's limit: ``peer_ms`` is that limit, ``ratio`` the share of it, at most about 1."""

    matmul_flops: int
    fft_flops: int
    bytes_moved: int
    rates: Rates


def limits() -> Iterator[ShareRow]:
    """One row per operation, then one per training step."""
    torch.manual_seed(0)
    clock = one_thread_clock()
    probe, works = rate_probe(clock), [*operations(), *(training_step(*step) for step in STEPS)]
    for work in works:
        work.call()
        work.call()
    rates, times = list[Rates](), [list[float]() for _ in works]
    for _ in range(ROUNDS):
        rates.append(probe())
        for work, seconds in zip(works, times, strict=True):
            seconds.append(seconds_of(work.call, clock))
    median = Rates(**{name: middle([getattr(r, name) for r in rates])[0] for name in vars(rates[0])})
    for work, seconds in zip(works, times, strict=True):
        yield _row(work, seconds, rates, median)


def _row(work: Work, times: list[float], rates: list[Rates], median: Rates) -> ShareRow:
    share, low, high = middle([work.seconds(r) / t for r, t in zip(rates, times, strict=True)])
    by_memory = work.bytes_moved / median.memory == work.seconds(median)
    return ShareRow(
        name=work.name,
        shape=work.shape,
        ours_ms=1e3 * middle(times)[0],
        peer="memory" if by_memory else "matmul and FFT" if work.fft else "matmul",
        peer_ms=1e3 * work.seconds(median),
        ratio=share,
        ratio_low=low,
        ratio_high=high,
        matmul_flops=work.matmul,
        fft_flops=work.fft,
        bytes_moved=work.bytes_moved,
        rates=median,
    )


def rate_probe(clock: Callable[[], float]) -> Callable[[], Rates]:
    """A call that measures the three rates once."""
    a, b, c = (torch.randn(SIDE, SIDE) for _ in range(3))
    signal = torch.randn(TRANSFORMS, POINTS)
    source = torch.ones(COPIED, dtype=torch.int8)
    target = torch.zeros_like(source)

    def probe() -> Rates:
        product = seconds_of(lambda: torch.mm(a, b, out=c), clock)
        transform = seconds_of(lambda: torch.fft.irfft(torch.fft.rfft(signal)), clock)
        copy = seconds_of(lambda: target.copy_(source), clock)
        return Rates(
            matmul=2 * SIDE**3 / product,
            fft=2 * fft_flops(POINTS, TRANSFORMS) / transform,
            memory=2 * COPIED / copy,
        )

    probe()
    return probe


def operations() -> Iterator[Work]:
    """Forward and backward of each, gradients of input and weights included."""
    rows, width, ffn_width = BATCH * TOKENS, 128, 544
    x, weight = torch.randn(4096, 768), torch.randn(4, 192, 192)
    yield Work(
        name="block-diagonal linear",
        shape="4096 x 768 -> 768, 4 blocks",
        call=with_gradients(block_diagonal_matmul, (x, weight)),
        matmul=TRAINING * 2 * len(x) * weight.numel(),
    )
    for unit in (
        BlockDiagonalGLUConfig(width=width, ffn_width=ffn_width, blocks=4).build(),
        GeGLUConfig(width=width, ffn_width=ffn_width).build(),
    ):
        yield Work(
            name=type(unit).__name__,
            shape=f"{rows} x {width}, F {ffn_width}",
            call=_module_call(unit, torch.randn(rows, width)),
            matmul=TRAINING * unit.cost(rows).matmul,
        )
    channels, tokens = 256, 4096
    u, kernel = torch.randn(channels, BATCH, tokens).transpose(0, 1), torch.randn(channels, tokens)
    yield Work(
        name="long convolution",
        shape=f"B {BATCH}, D {channels}, T {tokens}",
        call=with_gradients(causal_convolution, (u, kernel)),
        # signal and result of every sequence, and the kernel once; the same again for the gradients
        fft=2 * fft_flops(2 * tokens, (2 * BATCH + 1) * channels),
    )
    heads, head_width, window, tokens = 4, 64, 256, 8192
    q, k, v = (torch.randn(1, count, tokens, head_width) for count in (heads, 2, 2))
    yield Work(
        name="local attention",
        shape=f"B 1, T {tokens}, H {heads}, C {head_width}, w {window}",
        call=with_gradients(
            lambda q, k, v: attend(q, k, v, scale=head_width**-0.5, window=window), (q, k, v)
        ),
        matmul=TRAINING * 4 * head_width * heads * attended_pairs(tokens, window=window),
    )
    x = torch.randn(16384, 768)
    yield Work(
        name="RMSNorm",
        shape="16384 x 768",
        call=_module_call(RMSNormConfig(width=768).build(), x),
        bytes_moved=5 * x.nbytes,  # read x, write y; read x and dy, write dx
    )


def _module_call(module: nn.Module, x: Tensor) -> Call:
    names, values = zip(*module.named_parameters(), strict=True)

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))
        return y

    return with_gradients(function, (x, *values))


def training_step(architecture: str, options: Options, shape: Shape) -> Work:
    """Forward, cross-entropy, backward and AdamW."""
    config = recipe(architecture, options).config(shape, vocabulary=VOCABULARY, max_tokens=TOKENS)
    model = config.build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.randint(VOCABULARY, (BATCH, TOKENS + 1))

    def call() -> None:
        F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    cost = ledger(config, tokens=TOKENS, batch=BATCH).cost
    return Work(
        name=f"{architecture} training step",
        shape=f"B {BATCH}, T {TOKENS}, {shape.depth} layers, D {shape.width}",
        call=call,
        matmul=TRAINING * (BATCH * cost.matmul + cost.shared_matmul),
        fft=TRAINING * (BATCH * cost.fft + cost.shared_fft),
    )

"""``arch-lab bench monarch``: what Monarch Mixer's parts gain on this machine, against attention and against
the released style.

Legend: B batch, T tokens, D width. float32, one process, contenders interleaved. On one thread the clock is
processor time: it counts what the two contenders execute and not what else the machine does meanwhile.
arch-lab asks torch for huge pages, which makes any code with large temporaries faster. A peer runs as it does
in a process of its own, without that request, and once more "on huge pages", that is with our setting given
to it (arch_lab.bench.pages). Each peer does the same job; where it computes the same function its output is
compared first. Attention is the barest one: one fused projection, causal SDPA, one projection back, no
rotation and no norm of queries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from arch_lab.bench.pages import can_switch, on_small_pages
from arch_lab.bench.protocol import Row, measure, step_of
from arch_lab.bench.released_style import ReleasedGLU, ReleasedMixer, block_diagonal, whole_tensor_convolution
from blocks import (
    BlockDiagonalGLUConfig,
    BlockDiagonalLinearConfig,
    GeGLUConfig,
    M2MixerConfig,
    RMSNormConfig,
)
from blocks.convolution.fft import causal_convolution
from blocks.convolution.online import OnlineKernel, empty_state, extend
from blocks.monarch.block_diagonal import BlockDiagonalLinear

WIDTH, HEAD_WIDTH, EXPANSION = 256, 64, 4


class PlainAttention(nn.Module):
    """Fused projection, causal SDPA, projection back: (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_linear, self.out_linear = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.in_linear(x), "b t (three h c) -> three b h t c", three=3, c=HEAD_WIDTH)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_linear(rearrange(y, "b h t c -> b t (h c)"))  # type: ignore[no-any-return]


class PreNormLayer(nn.Module):
    """x + mixer(norm(x)), then x + channel(norm(x)): the same around every contender."""

    def __init__(self, width: int, mixer: nn.Module, channel: nn.Module) -> None:
        super().__init__()
        norms = [RMSNormConfig(width=width).build() for _ in range(2)]
        self.mixer, self.channel, self.norms = mixer, channel, nn.ModuleList(norms)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norms[0](x))
        return x + self.channel(self.norms[1](x))  # type: ignore[no-any-return]


def monarch() -> Iterator[Row]:
    """Convolution, block-diagonal map, mixer, layer and generation, in that order."""
    # a fixed seed: all-zero or lucky inputs are faster than real ones
    torch.manual_seed(0)
    for comparison in (_convolution, _linear, _mixer, _layer, _generation):
        yield from comparison()


Peers = dict[str, Callable[[], object]]


def _both_pages(*peers: tuple[str, Callable[[], object]]) -> Peers:
    """Each peer as plain torch runs it, and on huge pages where that can be switched."""
    variants: Peers = {}
    for name, call in peers:
        if can_switch():
            variants |= {name: on_small_pages(call), f"{name}, on huge pages": call}
        else:
            variants[name] = call
    return variants


def _measure(
    name: str,
    shape: str,
    subject: Callable[[], object],
    peers: Mapping[str, Callable[[], object]],
    *,
    same: str = "",
    repeats: int = 9,
) -> Iterator[Row]:
    """One row per peer.

    Those whose name begins with ``same`` ("all": every one) must give the same tensor.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for peer, baseline in peers.items():
        yield measure(
            name,
            shape,
            subject,
            peer,
            baseline,
            same=same == "all" or (bool(same) and peer.startswith(same)),
            repeats=repeats,
            clock=clock,
        )


@torch.no_grad()
def _convolution() -> Iterator[Row]:
    for tokens in (4096, 8192):
        # channel-major, as each side receives it inside its mixer: ours a view, theirs a contiguous (B, D, T)
        rows, k = torch.randn(WIDTH, 4, tokens), torch.randn(WIDTH, tokens) / tokens**0.5
        u, contiguous = rows.transpose(0, 1), rows.transpose(0, 1).contiguous()

        def naive(u: Tensor = contiguous, k: Tensor = k, n: int = tokens) -> Tensor:
            return torch.fft.irfft(torch.fft.rfft(u, n=2 * n) * torch.fft.rfft(k, n=2 * n), n=2 * n)[..., :n]

        released = partial(whole_tensor_convolution, contiguous, k)
        peers = _both_pages(("whole-tensor rfft", naive), ("released style", released))
        shape = f"B 4, D {WIDTH}, T {tokens}"
        yield from _measure("long convolution", shape, partial(causal_convolution, u, k), peers, same="all")


@torch.no_grad()
def _linear() -> Iterator[Row]:
    tokens, width = 4096, 768
    x = torch.randn(tokens, width)
    linear = BlockDiagonalLinear(BlockDiagonalLinearConfig(in_features=width, out_features=width, blocks=4))
    peers = {
        "dense linear": partial(nn.Linear(width, width), x),
        "released style": partial(block_diagonal, linear, x),
    }
    shape = f"{tokens} x {width} -> {width}, 4 blocks"
    yield from _measure(
        "block-diagonal linear", shape, partial(linear, x), peers, same="released style", repeats=15
    )


@torch.no_grad()
def _mixer() -> Iterator[Row]:
    for tokens, batch in ((2048, 2), (8192, 1)):
        x = torch.randn(batch, tokens, WIDTH)
        m2 = M2MixerConfig(width=WIDTH, max_tokens=tokens).build()
        released = ReleasedMixer(m2)  # type: ignore[arg-type]
        peers: Peers = {"causal SDPA mixer": partial(PlainAttention(WIDTH), x)} | _both_pages(
            ("released style", partial(released, x))
        )
        shape = f"B {batch}, T {tokens}, D {WIDTH}"
        yield from _measure("m2_mixer forward", shape, partial(m2, x), peers, same="released style")


def _layer() -> Iterator[Row]:
    ffn_width = EXPANSION * WIDTH
    for tokens, batch in ((1024, 4), (4096, 1)):
        x = torch.randn(batch, tokens, WIDTH)
        mixer = M2MixerConfig(width=WIDTH, max_tokens=tokens).build()
        glu = BlockDiagonalGLUConfig(width=WIDTH, ffn_width=ffn_width, blocks=4).build()
        layer = PreNormLayer(WIDTH, mixer, glu)
        dense = PreNormLayer(
            WIDTH, PlainAttention(WIDTH), GeGLUConfig(width=WIDTH, ffn_width=ffn_width).build()
        )
        released = PreNormLayer(WIDTH, ReleasedMixer(mixer), ReleasedGLU(glu))  # type: ignore[arg-type]
        peers: Peers = {"attention + dense GeGLU layer": step_of(dense, x)} | _both_pages(
            ("released style", step_of(released, x))
        )
        shape = f"B {batch}, T {tokens}, D {WIDTH}, 4 blocks"
        yield from _measure("layer forward+backward", shape, step_of(layer, x), peers, repeats=7)


@torch.no_grad()
def _generation() -> Iterator[Row]:
    """1024 tokens after a prompt, up to a history of 8192, through one convolution.

    The prompt is not timed.
    """
    tokens, prompt = 8192, 7168
    u, k = torch.randn(1, WIDTH, tokens), torch.randn(WIDTH, tokens) / tokens**0.5
    kernel, reverse = OnlineKernel(k), k.flip(-1).contiguous()
    _, prompted = extend(u[..., :prompt], empty_state(1, WIDTH, tokens, like=u), kernel)

    def online() -> Tensor:
        state, outputs = deepcopy(prompted), []  # steps go on in place
        for t in range(prompt, tokens):
            y, state = extend(u[..., t : t + 1], state, kernel)
            outputs.append(y)
        return torch.cat(outputs, dim=-1)

    def naive() -> Tensor:
        # the history as it lies, the kernel reversed once: the cheapest way to sum products of both
        steps = range(prompt, tokens)
        return torch.cat(
            [(u[..., : t + 1] * reverse[:, tokens - t - 1 :]).sum(-1, keepdim=True) for t in steps], dim=-1
        )

    shape = f"B 1, D {WIDTH}, tokens {prompt} to {tokens}"
    yield from _measure(
        "streaming generation",
        shape,
        online,
        {"naive history sum": naive},
        same="naive history sum",
        repeats=5,
    )

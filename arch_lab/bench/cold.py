"""Timing on a GPU with a cold cache.

Contenders interleaved, the cache flushed before each call, the roof measured in the same run.

Legend: "ours" is the first contender of a group, every other a peer.
Each round calls every contender once; the ratio of a peer is the median over rounds of its time by ours, so a
drifting clock reaches both. Between calls a buffer larger than any L2 cache is overwritten: what is timed
reads its operands from memory ("cold"), as in a model whose layers evict each other. Events, not the
processor's clock, bracket a call, so a queue of launches costs nothing. Off CUDA, where only tests go, the
processor's clock stands in and nothing is flushed.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from arch_lab.bench.protocol import Call, Row, Skipped, cuda_peak, peak_bytes
from arch_lab.judge.crossover import middle

FLUSHED = 512 * 2**20  # bytes; the L2 cache of an H200 holds 50 MB
WARM_UPS = 3
DRIFT = 0.03  # ours at the end of the rounds against ours at their beginning


@dataclass(frozen=True, kw_only=True)
class Roof:
    """Measured bandwidth and compute of this machine.

    Bytes per second of a large copy, FLOPs per second of a large product.
    """

    bytes_per_s: float
    flops_per_s: float


@dataclass(frozen=True, kw_only=True)
class ColdRow(Row):
    """A row with bytes, FLOPs, share of the nearer roof and peak memory."""

    bytes_moved: int  # the least an implementation can move
    flops: int
    roof: str  # "copy bandwidth" or "GEMM rate", whichever takes longer for these bytes and FLOPs
    share_of_roof: float
    ours_peak_bytes: int
    peer_peak_bytes: int
    drift: float


def measure_cold(
    name: str,
    shape: str,
    contenders: Mapping[str, Call],
    *,
    bytes_moved: int,
    flops: int,
    roof: Roof,
    rounds: int = 50,
    device: str = "cuda",
) -> list[ColdRow | Skipped]:
    """One row per peer.

    A peer that fails (a compiler, memory) becomes a line with its reason; ours that fails raises.
    """
    (our_name, call), *peers = contenders.items()
    running, rows = {our_name: call}, list[ColdRow | Skipped]()
    _warm(call)
    for peer, peer_call in peers:
        try:
            _warm(peer_call)
            running[peer] = peer_call
        except Exception as error:  # whatever stops a peer must not stop the others
            rows.append(
                Skipped(
                    name=f"{name} against {peer}",
                    reason=f"the peer cannot run: {type(error).__name__}: {first_line(error)}",
                )
            )
    times = _interleaved(running, rounds, device)
    peaks = {
        contender: (cuda_peak if device == "cuda" else peak_bytes)(contender_call)
        for contender, contender_call in running.items()
    }
    our_times, third = times.pop(our_name), max(1, rounds // 3)
    ours_ms = statistics.median(our_times)
    drift = statistics.median(our_times[-third:]) / statistics.median(our_times[:third]) - 1
    limit, share = _nearer_roof(ours_ms, bytes_moved, flops, roof)
    for peer, theirs_ms in times.items():
        ratio, low, high = middle([b / a for a, b in zip(our_times, theirs_ms, strict=True)])
        rows.append(
            ColdRow(
                name=name,
                shape=shape,
                ours_ms=ours_ms,
                peer=peer,
                peer_ms=statistics.median(theirs_ms),
                ratio=ratio,
                ratio_low=low,
                ratio_high=high,
                bytes_moved=bytes_moved,
                flops=flops,
                roof=limit,
                share_of_roof=share,
                ours_peak_bytes=peaks[our_name],
                peer_peak_bytes=peaks[peer],
                drift=drift,
            )
        )
    if abs(drift) > DRIFT and device == "cuda":
        rows.append(
            Skipped(
                name=f"{name}, {shape}",
                reason=f"ours drifted by {drift:+.1%} while it was timed: run it again",
            )
        )
    return rows


def _warm(call: Call) -> None:
    for _ in range(WARM_UPS):
        call()


def _interleaved(running: Mapping[str, Call], rounds: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of every contender in every round."""
    flushed = torch.empty(FLUSHED if device == "cuda" else 1, dtype=torch.int8, device=device)
    times: dict[str, list[float]] = {contender: [] for contender in running}
    for _ in range(rounds):
        for contender, call in running.items():
            flushed.zero_()
            times[contender].append(_ms(call, device))
    return times


def _nearer_roof(ms: float, bytes_moved: int, flops: int, roof: Roof) -> tuple[str, float]:
    by_memory, by_products = bytes_moved / roof.bytes_per_s, flops / roof.flops_per_s
    return "copy bandwidth" if by_memory >= by_products else "GEMM rate", max(by_memory, by_products) / (
        ms / 1e3
    )


def measure_roof(device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> Roof:
    """A copy of 1 GiB (read and write counted) and a square product; toy sizes off CUDA."""
    size, n = (2**30, 8192) if device == "cuda" else (2**20, 128)
    source = torch.empty(size, dtype=torch.int8, device=device).random_(1, 100)
    target = torch.empty_like(source)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    # not zeros: those multiply faster than numbers do
    copies, products = [], []
    for _ in range(WARM_UPS + 10):
        copies.append(_ms(lambda: target.copy_(source), device))
        products.append(_ms(lambda: a @ b, device))
    copy, product = (statistics.median(times[WARM_UPS:]) / 1e3 for times in (copies, products))
    return Roof(bytes_per_s=2 * size / copy, flops_per_s=2 * n**3 / product)


def _ms(call: Call, device: str) -> float:
    if device != "cuda":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    start_event, end_event = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start_event.record()
    call()
    end_event.record()
    end_event.synchronize()
    return start_event.elapsed_time(end_event)


def release(device: str) -> None:
    """Give memory back before the next group is built."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """Compilers write pages."""
    return next(iter(str(error).strip().splitlines()), "no message")

"""One training step of a Gemma 3 of 100M parameters on a GPU, against ``transformers`` with the same weights.

Legend: B batch, T tokens, D width, V vocabulary.
A step is forward, cross-entropy over every position, backward and AdamW. Weights and optimizer are float32,
arithmetic is bfloat16 by autocast: what ``precision: bf16-mixed`` of a study trains with; weights that are
themselves bfloat16 lose updates smaller than 2^-8 of their size. Neither side is compiled as a whole;
FlexAttention compiles its own kernel on both. Each step holds the same number of tokens, so lengths compare.
One contender that lacks a package, fails or runs out of memory becomes a line with the reason, and the others
go on.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arch_lab.bench.gemma import twin
from arch_lab.bench.protocol import Row, Skipped, gate, measure, peak_bytes
from arch_lab.models import Shape
from arch_lab.models.gemma import Gemma3

PEERS = ("flash_attention_2", "flex_attention", "sdpa")
NO_CUDA = "torch sees no CUDA device here; run `make bench-gpu` on a machine with one"
GATE_TOKENS = 1024  # float32 logits of a whole long row would be the largest tensors of the run
# Of the scale, at the worst logit and the worst gradient of the table. Two orders of rounding to 8 bits
# differ by about 1 % at both, a norm or a window in the wrong place by tens of per cent.
TOLERANCE = 5e-2


@dataclass(frozen=True, kw_only=True)
class TrainingBench:
    """What is trained, at which lengths, against whom."""

    recipe: Gemma3
    shape: Shape
    vocabulary: int
    lengths: tuple[int, ...]
    step_tokens: int  # B·T, at every length
    peers: tuple[str, ...] = PEERS  # values of ``attn_implementation``
    device: str = "cuda"
    repeats: int = 15


# Heads as in the published 270M and 1B; two whole rounds of five local layers and a global one. 101.8M
# parameters.
HUNDRED_MILLION = TrainingBench(
    recipe=Gemma3(heads=4, kv_heads=1, head_width=256, window=512),
    shape=Shape(width=768, depth=12, ffn_width=1920),
    vocabulary=32_768,
    lengths=(1024, 4096, 16_384),
    step_tokens=16_384,
)


@dataclass(frozen=True, kw_only=True)
class TrainingRow(Row):
    """A row with tokens per second and the peak memory of a step.

    Off CUDA, where only tests go, the bytes are those a step adds.
    """

    ours_tokens_per_s: float
    peer_tokens_per_s: float
    ours_peak_bytes: int
    peer_peak_bytes: int


def gemma_gpu() -> Iterator[Row | Skipped]:
    """Every peer at every length, or the one reason why not."""
    if not torch.cuda.is_available():
        yield Skipped(name="gemma_gpu", reason=NO_CUDA)
    else:
        yield from training_rows(HUNDRED_MILLION)


def training_rows(bench: TrainingBench) -> Iterator[TrainingRow | Skipped]:
    """A row for each (T, peer) that runs. Where none does, a line with what ours takes alone."""
    for tokens in bench.lengths:
        compared = False
        for peer in bench.peers:
            row = _against(bench, tokens, peer)
            compared |= isinstance(row, Row)
            yield row
            _release(bench)
        if not compared:
            yield Skipped(
                name=_name(tokens), reason=f"no peer ran; ours alone: {_subject_only(bench, tokens)}"
            )
            _release(bench)


# --- one contender ------------------------------------------------------------------------------------------


class Contender:
    """A model and its optimizer, from float32 weights under bfloat16 autocast.

    ``tokens`` (B, T+1): inputs and targets.
    """

    def __init__(self, model: nn.Module, tokens: Tensor, device: torch.device) -> None:
        self.model = model.to(device).train()
        self.tokens = tokens.to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def logits(self, tokens: Tensor) -> Tensor:
        with torch.autocast(tokens.device.type, torch.bfloat16):
            logits: Tensor = self.model(tokens)
        return logits

    def backward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, V), after their loss has gone backward."""
        logits = self.logits(tokens[:, :-1])
        F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten()).backward()
        return logits.detach()

    def step(self) -> None:
        self.backward(self.tokens)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def sample(self) -> tuple[Tensor, Tensor]:
        """What two contenders are compared by, after one row: logits of its last tokens, and the gradient of
        the table (V, D).
        """
        logits = self.backward(self.tokens[:1])[:, -GATE_TOKENS:].float()
        gradient = next(self.model.parameters()).grad  # the table comes first in both codes
        assert gradient is not None
        self.optimizer.zero_grad(set_to_none=True)
        return logits, gradient

    def kept_bytes(self) -> int:
        """Weights and optimizer state: what stays between steps."""
        states = [
            t for state in self.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)
        ]
        return sum(
            t.numel() * t.element_size() for t in [*self.model.parameters(), *self.model.buffers(), *states]
        )

    def peak(self, other: Contender | None) -> int:
        """Peak bytes of a step, without the tensors of ``other``."""
        if self.tokens.device.type != "cuda":
            return peak_bytes(self.step)
        torch.cuda.reset_peak_memory_stats()
        self.step()
        return torch.cuda.max_memory_allocated() - (0 if other is None else other.kept_bytes())


def our_contender(bench: TrainingBench, tokens: int) -> Contender:
    """The same weights and tokens at every call."""
    torch.manual_seed(0)
    model = bench.recipe.model(bench.shape, vocabulary=bench.vocabulary, max_tokens=max(bench.lengths))
    # not token 0: transformers takes it for padding, whose look-up it gives no gradient
    batch = torch.randint(1, bench.vocabulary, (max(1, bench.step_tokens // tokens), tokens + 1))
    return Contender(model, batch, torch.device(bench.device))


def peer_contender(contender: Contender, attention: str) -> Contender:
    """The model of ``transformers`` with our weights, on the same tokens."""
    if attention == "flex_attention":
        attention = _flex_in_one_dtype()
    # built on the processor, where ``twin`` copies the weights
    model: Any = twin(contender.model, "Gemma3", attention)  # type: ignore[arg-type]
    return Contender(model, contender.tokens, contender.tokens.device)


def _flex_in_one_dtype() -> str:
    """Register their FlexAttention with inputs cast to one dtype, and return its name.

    Under autocast their RoPE leaves queries and keys in float32 beside bfloat16 values, which the kernel
    refuses.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.flex_attention import flex_attention_forward
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    def cast_then_flex(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, **options: Any) -> Any:
        return flex_attention_forward(module, q.to(v.dtype), k.to(v.dtype), v, mask, **options)

    name = "flex_attention_in_one_dtype"
    AttentionInterface.register(name, cast_then_flex)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["flex_attention"])
    return name


# --- two of them --------------------------------------------------------------------------------------------


def _against(bench: TrainingBench, tokens: int, peer: str) -> TrainingRow | Skipped:
    """Compare, then time. Raises: whatever ours raises, except for want of memory."""
    name = f"{_name(tokens)} against transformers {peer}"
    if find_spec("transformers") is None:
        return Skipped(name=name, reason="transformers is not installed: pip install transformers")
    try:
        subject = our_contender(bench, tokens)
        sample = subject.sample()
        subject.step()
    except torch.OutOfMemoryError as error:
        return Skipped(name=name, reason=f"ours is out of memory: {_line(error)}")
    try:
        # from untrained weights again: ours has made a step
        baseline = peer_contender(our_contender(bench, tokens), peer)
        _gate(name, sample, baseline.sample())
        del sample  # memory is measured below
        baseline.step()
    except torch.OutOfMemoryError as error:
        return Skipped(name=name, reason=f"the peer is out of memory: {_line(error)}")
    except (
        Exception
    ) as error:  # whatever stops a peer (a package, a kernel, another version) must not stop the others
        return Skipped(name=name, reason=f"the peer cannot run: {type(error).__name__}: {_line(error)}")
    try:
        return _timed(bench, tokens, subject, peer, baseline)
    except torch.OutOfMemoryError as error:
        return Skipped(name=name, reason=f"out of memory while both were timed: {_line(error)}")


def _gate(name: str, subject: tuple[Tensor, Tensor], baseline: tuple[Tensor, Tensor]) -> None:
    """Raises: GateError unless logits and gradient agree."""
    for quantity, a, b in zip(("logits", "gradient of the table"), subject, baseline, strict=True):
        gate(f"{name}, {quantity}", a, b, TOLERANCE)


def _timed(
    bench: TrainingBench, tokens: int, subject: Contender, peer: str, baseline: Contender
) -> TrainingRow:
    batch = len(subject.tokens)
    size = sum(p.numel() for p in subject.model.parameters())
    row = measure(
        "gemma3 training step, bf16",
        f"B {batch}, T {tokens}, {bench.shape.depth} layers, D {bench.shape.width}, "
        f"{size / 1e6:.1f}M parameters",
        subject.step,
        f"transformers {peer}",
        baseline.step,
        repeats=bench.repeats,
    )
    return TrainingRow(
        **vars(row),
        ours_tokens_per_s=1e3 * batch * tokens / row.ours_ms,
        peer_tokens_per_s=1e3 * batch * tokens / row.peer_ms,
        ours_peak_bytes=subject.peak(baseline),
        peer_peak_bytes=baseline.peak(subject),
    )


def _subject_only(bench: TrainingBench, tokens: int) -> str:
    """Time and memory of ours, in words."""
    try:
        subject = our_contender(bench, tokens)
        row = measure("ours", "-", subject.step, "ours", subject.step, repeats=bench.repeats)
        speed = 1e3 * len(subject.tokens) * tokens / row.ours_ms
        return f"{row.ours_ms:.1f} ms a step, {speed:.0f} tokens/s, peak {subject.peak(None) / 2**20:.0f} MiB"
    except torch.OutOfMemoryError as error:
        return f"out of memory: {_line(error)}"


def _name(tokens: int) -> str:
    return f"gemma3 training step, T {tokens}"


def _line(error: BaseException) -> str:
    """The first line of a message; compilers write pages."""
    return next(iter(str(error).strip().splitlines()), "no message")


def _release(bench: TrainingBench) -> None:
    """Free memory before the next pair is built, reference cycles included."""
    gc.collect()
    if bench.device == "cuda":
        torch.cuda.empty_cache()

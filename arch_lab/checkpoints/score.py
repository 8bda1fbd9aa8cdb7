"""Score a checkpoint on text: bits per byte, perplexities, loss by position.

Legend: B windows of a batch, T tokens of a window, V vocabulary. Text is cut, separated and scored as in
``test``: every document follows the token it began with in training, windows follow each other at ``stride``,
and each token but the first is a target once. Sums are kept in float64.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arch_lab.checkpoints.checkpoint import Checkpoint, CheckpointError
from arch_lab.checkpoints.opening import open_decoder
from arch_lab.data import DataConfig, DataError, Tokenizer, TokenSplit, evaluation_batches, evaluation_windows
from arch_lab.data.documents import Counts, count
from arch_lab.data.files import documents_of
from arch_lab.data.paths import expand_paths
from arch_lab.laws import require_causal
from arch_lab.memory import keep_memory
from arch_lab.stored import Json
from arch_lab.training.scoring import token_nats, windows_at_once
from blocks.errors import UserError

LONGEST_CONTEXT = 8192  # that is taken without being asked for
ENCODED = 256  # documents encoded at once
Progress = Callable[[int, int], None]  # windows scored, windows in all


@dataclass(frozen=True)
class Band:
    """Sums over the targets at some positions of a window.

    The targets follow ``first`` to ``last`` tokens.
    """

    first: int
    last: int
    tokens: int
    bytes: int
    nats: float

    @property
    def bits_per_byte(self) -> float | None:
        """None where no byte was scored."""
        return self.nats / (math.log(2) * self.bytes) if self.bytes else None

    @property
    def loss(self) -> float | None:
        """Nats per token; None where none was scored."""
        return self.nats / self.tokens if self.tokens else None

    def to_json(self) -> Json:
        return {**vars(self), "bits_per_byte": self.bits_per_byte, "loss": self.loss}


@dataclass(frozen=True, kw_only=True)
class Score:
    """The result of scoring a text with a model.

    ``nats`` are summed over ``tokens`` targets of ``bytes`` bytes; special tokens are in none.
    """

    checkpoint: str
    architecture: str
    parameters: int
    text: tuple[str, ...]
    documents: int
    words: float
    tokens: int
    bytes: int
    nats: float
    context: int
    stride: int
    positions: tuple[Band, ...] = field(repr=False)  # one per number of tokens before the target

    @property
    def bits_per_byte(self) -> float:
        return self.nats / (math.log(2) * self.bytes)

    @property
    def perplexity(self) -> float:
        """Perplexity per token, comparable only under one tokenizer."""
        return _exp(self.nats / self.tokens)

    @property
    def byte_perplexity(self) -> float:
        return _exp(self.nats / self.bytes)

    @property
    def word_perplexity(self) -> float:
        return _exp(self.nats / self.words)

    @property
    def bands(self) -> tuple[Band, ...]:
        """``positions`` in bands that double: 1, 2–3, 4–7, …"""
        edges = [2**i for i in range(self.context.bit_length())]
        return tuple(_sum(self.positions[first - 1 : 2 * first - 1]) for first in edges)

    def to_json(self) -> Json:
        """What ``arch-lab score --json`` prints; a perplexity beyond every number is null."""
        plain = {name: value for name, value in vars(self).items() if name not in ("text", "positions")}
        scores = {
            name: getattr(self, name)
            for name in ("bits_per_byte", "perplexity", "byte_perplexity", "word_perplexity")
        }
        finite = {name: value if math.isfinite(value) else None for name, value in scores.items()}
        return {
            **plain,
            "text": list(self.text),
            **finite,
            "positions": [band.to_json() for band in self.positions],
        }

    def __str__(self) -> str:
        return f"{self.checkpoint}: {self.bits_per_byte:.4f} bits per byte over {self.bytes:,} bytes"


def score(
    checkpoint: str | Path | Checkpoint,
    text: str | Path | Sequence[str | Path],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    trust: Sequence[str] = (),
    document_start: str | None = None,
    text_column: str | None = None,
    count_line_ends: bool | None = None,
    progress: Progress | None = None,
) -> Score:
    """Score ``checkpoint`` on ``text`` after certifying its model causal.

    ``context``: tokens of a window (default: those of a training sequence, else what the model takes, at most
    8,192); ``stride``: from one window to the next (default: ``context``; fewer score each token with more
    context). How documents are found and words counted comes from the checkpoint, unless given. ``trust``:
    modules that the checkpoint's options may name.
    Raises: UserError, one line: no checkpoint, no decoder, no text, a text the tokenizer changes; LeakError
    for a leaking model.
    """
    keep_memory()
    files = expand_paths(text, option="--text")
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_decoder(checkpoint, trust)
    tokens, step = _window(opened, context, stride)
    target_device = _device(device, threads)
    overrides: Json = {
        "document_start": document_start,
        "text_column": text_column,
        "count_line_ends": count_line_ends,
    }
    reading = replace(
        opened.reading, **{name: value for name, value in overrides.items() if value is not None}
    )
    split, widths = _read(opened, files, DataConfig(**vars(reading)))
    _certify(opened, tokens)
    model = _movable(opened, target_device)
    if batch is not None and batch < 1:
        raise UserError(f"batch must be at least 1, got {batch}")
    sums = _scored(model, split, widths, tokens=tokens, stride=step, batch=batch, progress=progress)
    total = _sum(sums)
    if not math.isfinite(total.nats):
        raise CheckpointError(
            f"{opened.path}: the model's loss on this text is {total.nats}; "
            "its weights are damaged, or it diverged"
        )
    if not total.bytes:
        raise DataError("--text: the text has no bytes after its first token, so there is nothing to score")
    return Score(
        checkpoint=str(opened.path),
        architecture=opened.architecture,
        parameters=sum(p.numel() for p in opened.model.parameters()),
        text=tuple(str(file) for file in files),
        documents=split.documents,
        # the first token is not scored: words in proportion to bytes
        words=total.bytes * split.words / split.bytes,
        tokens=total.tokens,
        bytes=total.bytes,
        nats=total.nats,
        context=tokens,
        stride=step,
        positions=tuple(sums),
    )


def _window(opened: Checkpoint, context: int | None, stride: int | None) -> tuple[int, int]:
    tokens = context if context is not None else opened.context or min(opened.max_tokens, LONGEST_CONTEXT)
    if not 1 <= tokens <= opened.max_tokens:
        raise UserError(
            f"context must be from 1 to {opened.max_tokens}, the tokens this model was built for; "
            f"got {tokens}"
        )
    step = tokens if stride is None else stride
    if not 1 <= step <= tokens:
        raise UserError(f"stride must be from 1 to the context, {tokens}; got {step}")
    return tokens, step


def _device(name: str | None, threads: int | None) -> torch.device:
    if threads is not None:
        if threads < 1:
            raise UserError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {name!r}: {str(error).splitlines()[0]}") from None
    return device


def _read(opened: Checkpoint, files: list[Path], config: DataConfig) -> tuple[TokenSplit, Tensor]:
    """The text as ids, and (V,) bytes of each id. Raises: UserError."""
    tokenizer = opened.tokenizer
    if tokenizer is None:
        raise CheckpointError(
            f"{opened.path} holds no tokenizer, so a text cannot be encoded; "
            "put the model's tokenizer.json there"
        )
    documents = [document for file in files for document in documents_of(file, config)]
    counts: Counts = count(documents, line_ends=config.count_line_ends)
    ids = np.concatenate(list(_encoded(documents, tokenizer, opened.begin)))
    if int(ids.max()) >= opened.vocabulary:
        raise CheckpointError(
            f"{opened.path}: the tokenizer gives id {int(ids.max())}, "
            f"the model has only {opened.vocabulary}; they do not belong together"
        )
    widths = np.zeros(opened.vocabulary, np.int64)
    token_widths = tokenizer.token_bytes()[: opened.vocabulary]
    widths[: len(token_widths)] = token_widths
    widths[list(opened.begin)] = 0
    fingerprint = hashlib.sha256(ids.tobytes()).hexdigest()
    split = TokenSplit(
        "text",
        ids,
        bytes=counts.bytes,
        words=counts.words,
        documents=counts.documents,
        fingerprint=fingerprint,
    )
    return split, torch.from_numpy(widths)


def _encoded(documents: list[str], tokenizer: Tokenizer, begin: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Ids of each document, after the ids that begin one.

    Raises: DataError when the tokenizer changes the text.
    """
    for first in range(0, len(documents), ENCODED):
        texts = documents[first : first + ENCODED]
        for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
            if tokenizer.decode_bytes(ids) != text.encode():
                raise DataError(
                    f"--text: the tokenizer changes the text (document {text[:30]!r}…), "
                    "so bits per byte would be wrong"
                )
            yield np.concatenate([np.array(begin, np.int64), ids])


def _certify(opened: Checkpoint, tokens: int) -> None:
    """No certificate at the length that is scored, no score. Raises: LeakError."""
    with torch.enable_grad():  # gradients are part of the proof, whatever the caller turned off
        require_causal(opened.model, vocabulary=opened.vocabulary, lengths=[tokens], name=str(opened.path))


def _movable(opened: Checkpoint, device: torch.device) -> nn.Module:
    """The model on ``device``.

    In float32 on a CPU, which computes half precision slowly and rounds more.
    """
    model: nn.Module = opened.model
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters())
    if device.type == "cpu" and not half:
        return model
    model = copy.deepcopy(model).to(device)
    return model.float() if half and device.type == "cpu" else model


@torch.inference_mode()
def _scored(
    model: Any,
    split: TokenSplit,
    widths: Tensor,
    *,
    tokens: int,
    stride: int,
    batch: int | None,
    progress: Progress | None,
) -> list[Band]:
    """Sums at each position of a window."""
    rows = batch or windows_at_once(tokens, len(widths))
    device = next(model.parameters()).device
    windows, scored = evaluation_windows(split, tokens=tokens, stride=stride), 0
    nats, number, size = (torch.zeros(tokens, dtype=torch.float64) for _ in range(3))
    for inputs, targets, valid in evaluation_batches(split, tokens=tokens, batch=rows, stride=stride):
        width = widths[targets] * valid
        losses = token_nats(model, inputs.to(device), targets.to(device)).double().cpu()
        nats += losses.mul(width > 0).sum(0)
        number += (width > 0).sum(0)
        size += width.sum(0)
        scored += len(inputs)
        if progress is not None:
            progress(scored, windows)
    sums = zip(number.tolist(), size.tolist(), nats.tolist(), strict=True)
    return [Band(i, i, int(n), int(b), x) for i, (n, b, x) in enumerate(sums, start=1)]


def _sum(bands: Sequence[Band]) -> Band:
    return Band(
        bands[0].first,
        bands[-1].last,
        sum(band.tokens for band in bands),
        sum(band.bytes for band in bands),
        math.fsum(band.nats for band in bands),
    )


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf

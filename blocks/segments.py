"""Documents packed in one row, and padding: one meaning for every mixer.

Legend: B batch, T tokens, D width, N documents in the whole batch, L longest document.
``segments`` (B, T): integer document ids, 0 = padding. A document is a maximal run of one id, so an id that
comes back after another is a new document; attention and convolution agree on this because both start from
``runs``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.errors import ConfigError


def check(segments: Tensor, x: Tensor, *, name: str = "segments") -> None:
    """Raises: ConfigError unless ``segments`` is an integer tensor of x's first two sizes."""
    if segments.shape != x.shape[:2] or segments.is_floating_point() or segments.dtype == torch.bool:
        raise ConfigError(
            f"{name} must be integers of shape {tuple(x.shape[:2])}, got {segments.dtype} "
            f"{tuple(segments.shape)}"
        )


def runs(segments: Tensor) -> Tensor:
    """(B, T) run numbers 1, 2, … along each row; 0 stays padding."""
    return torch.where(segments == 0, 0, _starts(segments).cumsum(dim=1))


def positions(segments: Tensor) -> Tensor:
    """(B, T) positions counted from 0 in each document (and in each run of padding)."""
    t = torch.arange(segments.shape[1], device=segments.device)
    return t - torch.where(_starts(segments), t, 0).cummax(dim=1).values


def positions_of(
    x: Tensor, segments: Tensor | None = None, explicit: Tensor | None = None, *, start: int = 0
) -> Tensor:
    """Positions of the tokens of x (B, T, D).

    ``explicit`` (B, T), or counted in each document, or (T,) from ``start``.

    Raises: ConfigError unless ``explicit`` holds integers of x's first two sizes.
    """
    if explicit is not None:
        check(explicit, x, name="positions")
        return explicit
    return (
        torch.arange(start, start + x.shape[1], device=x.device) if segments is None else positions(segments)
    )


def refuse_holes(segments: Tensor) -> None:
    """Raises: ConfigError when a document id comes back after padding: an attention mask with a hole.

    Attention masks of other libraries join both sides of a hole; here they would be two documents. Reads one
    number off the device. Inside torch.compile nothing is read and nothing refused.
    """
    if segments.is_meta or torch.compiler.is_compiling():
        return
    position = torch.arange(segments.shape[1], device=segments.device)
    last = torch.where(segments != 0, position, -1).cummax(dim=1).values  # the last token that is no padding
    previous = last.roll(1, dims=1)
    previous[:, :1] = -1
    returns = (
        (segments != 0)
        & (previous >= 0)
        & (previous < position - 1)
        & (segments.gather(1, previous.clamp(min=0)) == segments)
    )
    if bool(returns.any()):
        row, token = returns.nonzero()[0].tolist()
        raise ConfigError(
            f"segments: row {row} has padding inside document {int(segments[row, token])} (before token "
            f"{token}); give the documents different ids, or leave the padding out"
        )


def _starts(segments: Tensor) -> Tensor:
    """(B, T) True where a run of one id begins."""
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return starts


def unpack(x: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One row per document.

    x (B, T, D) -> documents (N, L, D) right-padded with zeros, valid (N, L), flat index (N, L).

    ``index`` is the position of each document token in the flattened (B·T) input, for ``repack``. Without any
    document, N = 0.
    """
    b, t = segments.shape
    run = runs(segments)
    flat = (run + torch.arange(b, device=run.device)[:, None] * (t + 1)).flatten()
    keep = torch.nonzero(run.flatten() > 0).squeeze(1)
    _, document, length = torch.unique_consecutive(flat[keep], return_inverse=True, return_counts=True)
    first = length.cumsum(0) - length
    longest = int(length.max()) if len(length) else 0
    index = x.new_zeros((len(length), longest), dtype=torch.long)
    valid = x.new_zeros((len(length), longest), dtype=torch.bool)
    slot = torch.arange(len(keep), device=keep.device) - first[document]
    index[document, slot] = keep
    valid[document, slot] = True
    documents = x.flatten(0, 1)[index] * valid[..., None]
    return documents, valid, index


def repack(documents: Tensor, valid: Tensor, index: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of ``unpack``: (N, L, D) -> (B, T, D), zeros at padding."""
    b, t = shape[0], shape[1]
    flat = documents.new_zeros((b * t, documents.shape[-1]))
    flat = flat.index_put((index[valid],), documents[valid])
    return flat.view(b, t, -1)

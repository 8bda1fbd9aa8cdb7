"""Documents packed in one row, and padding: one meaning for every mixer.

Legend: B batch, T tokens, D width, N documents in the whole batch, L longest document.
``segments`` (B, T): integer document ids, 0 = padding. A document is a maximal run of one id, so an id that comes
back after another is a new document; attention and convolution agree on this because both start from ``runs``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.errors import ConfigError


def check(segments: Tensor, x: Tensor) -> None:
    """Raises: ConfigError unless ``segments`` is an integer tensor of x's first two sizes."""
    if segments.shape != x.shape[:2] or segments.is_floating_point() or segments.dtype == torch.bool:
        raise ConfigError(f"segments must be integers of shape {tuple(x.shape[:2])}, got {segments.dtype} {tuple(segments.shape)}")


def runs(segments: Tensor) -> Tensor:
    """(B, T) run numbers 1, 2, … along each row; 0 stays padding."""
    return torch.where(segments == 0, 0, _starts(segments).cumsum(dim=1))


def positions(segments: Tensor) -> Tensor:
    """(B, T) positions counted from 0 in each document (and in each run of padding)."""
    t = torch.arange(segments.shape[1], device=segments.device)
    return t - torch.where(_starts(segments), t, 0).cummax(dim=1).values


def _starts(segments: Tensor) -> Tensor:
    """(B, T) True where a run of one id begins."""
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return starts


def unpack(x: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One row a document: x (B, T, D) -> documents (N, L, D) right-padded with zeros, valid (N, L), flat index (N, L).

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

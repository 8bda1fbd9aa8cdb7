"""A text encoder from a pretrained body: one unit vector per text.

Legend: B texts, T tokens, D width, E embedding width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arch_lab.study.body import Body, load_body
from arch_lab.study.pretrained import PretrainedArm
from blocks.config import Options
from blocks.errors import ConfigError
from blocks.linear import Linear, LinearConfig
from blocks.registry import build, lookup
from experiments.retrieval.config import RetrievalTraining

ROUND = 8  # rows are padded to a multiple of so many tokens: fewer different shapes
ENCODED = 64  # texts at a time without gradients


class TextEncoder(nn.Module):
    """tokens (B, T) -> unit vectors (B, E), float32.

    Body, pooler, and a bias-free map where ``projection`` asks for one.

    ``segments`` (B, T): 1 at tokens, 0 at padding, one text a row; None: no padding.
    """

    def __init__(
        self,
        body: Body,
        *,
        pooler: str = "mean",
        options: Options | None = None,
        projection: int | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        if lookup(pooler).kind != "pooler":
            raise ConfigError(
                f"training.pooler: {pooler!r} is a {lookup(pooler).kind.replace('_', ' ')}, not a pooler"
            )
        self.pooler = build(pooler, width=body.width, **(options or {}))
        self.projection = (
            None
            if projection is None
            else Linear(LinearConfig(in_features=body.width, out_features=projection, bias=False))
        )

    @property
    def has_new_weights(self) -> bool:
        """Whether pooler or projection has weights that pretraining did not train."""
        return self.projection is not None or next(self.pooler.parameters(), None) is not None

    def forward(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        pooled = self.pooler(self.body(tokens, segments), None if segments is None else segments != 0)
        return F.normalize((pooled if self.projection is None else self.projection(pooled)).float(), dim=-1)

    def flops(self, tokens: int) -> int:
        """Canonical forward FLOPs of one text of ``tokens`` tokens, read alone.

        What is made once per batch is counted in full.
        """
        from arch_lab.accounting import count_forward

        twin = copy.deepcopy(self).to("meta")
        counted = count_forward(lambda: twin(torch.empty((1, tokens), dtype=torch.long, device="meta")))
        assert not counted.unknown, counted.unknown
        return counted.total

    @torch.no_grad()
    def encode(self, rows: Sequence[np.ndarray], *, max_tokens: int, device: str = "cpu") -> np.ndarray:
        """(len(rows), E) float32, one independent vector per row."""
        was_training = self.training
        self.eval().to(device)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        parts = []
        for start in range(0, len(order), ENCODED):
            tokens, segments = padded(
                [rows[i] for i in order[start : start + ENCODED]], max_tokens=max_tokens
            )
            parts.append(self(tokens.to(device), None if segments is None else segments.to(device)).cpu())
        self.train(was_training).to("cpu")
        vectors = torch.cat(parts).numpy()
        out = np.empty_like(vectors)
        out[order] = vectors
        return out


def text_encoder(arm: PretrainedArm, training: RetrievalTraining) -> TextEncoder:
    """The arm's encoder as the study describes it; new weights are drawn from torch's generator."""
    return TextEncoder(
        load_body(arm.first),
        pooler=training.pooler,
        options=training.pooler_options,
        projection=training.projection,
    )


def padded(rows: Sequence[np.ndarray], *, max_tokens: int) -> tuple[Tensor, Tensor | None]:
    """tokens (B, T) and segments (B, T), or None where nothing is padded.

    T: the longest, rounded up, at most ``max_tokens``.
    """
    lengths = np.array([len(row) for row in rows])
    longest = max(int(lengths.max()), min(max_tokens, -(-int(lengths.max()) // ROUND) * ROUND))
    tokens = np.zeros((len(rows), longest), np.int64)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
    is_token = np.arange(longest) < lengths[:, None]
    return torch.from_numpy(tokens), None if is_token.all() else torch.from_numpy(is_token.astype(np.int64))

"""The masked objective itself, as training, scoring and its certificate call it.

Legend: B batch, T tokens, V vocabulary, D width, N tokens asked for.
Logits are computed at every position, and so counted (the head's matmul is 2·D·V FLOPs a token, asked for or not); the loss is
read at the tokens asked for.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from arch_lab.data.masking import IGNORED


def masked_logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """(B, T, V) from what the model may see; the labels are not handed to it."""
    logits: Tensor = model(batch["inputs"])
    return logits


def masked_nats(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Nats of every token asked for, flat, in the order of the rows."""
    return asked_for(masked_logits(model, batch), batch["labels"])[0]


def asked_for(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of the tokens asked for, and whether each was the most probable one: both (N,), in the order of the rows."""
    asked = labels != IGNORED
    chosen, wanted = logits[asked].float(), labels[asked]
    return F.cross_entropy(chosen, wanted, reduction="none"), chosen.argmax(dim=-1) == wanted

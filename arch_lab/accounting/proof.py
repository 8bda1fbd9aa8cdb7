"""Formula and counted graph side by side: what a block says it costs, and what it executes.

Legend: B batch, T tokens, D width.
A formula that returns 0, forgets a factor, or counts parameters where work happens is found here, not in a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from arch_lab.accounting.counter import Counted, count_forward
from arch_lab.architecture.decoder import Decoder
from arch_lab.architecture.encoder import Encoder
from blocks.cost import Cost
from blocks.errors import UserError

LONGEST = 4097  # beyond the widest published window and odd; longer rows would only repeat the proof


class AccountingError(UserError):
    """A block whose formula and graph disagree, or whose graph holds an operator nobody can price."""


class Uncountable(UserError):
    """A block whose graph does not run on the meta device: its formula stands unproven."""


def prove(model: Decoder | Encoder, tokens: int, *, batch: int = 1, built_in: bool = True) -> int:
    """Count every distinct part of a model on the meta device (``meta_model``, ``meta_encoder``); returns how many parts.

    Two batch sizes, so that work done once a forward cannot pass for work done for every sequence. ``built_in=False``
    passes over the blocks of this library, which its tests prove: torch needs seconds to get ready to count.
    Raises: AccountingError naming the block and both numbers; Uncountable when a block cannot run without values.
    """
    tokens, parts = min(tokens, LONGEST), 0
    for name, block, call in _parts(model, tokens):
        if not built_in and type(block).__module__.startswith("blocks."):
            continue
        for b in (batch, batch + 1):
            check(f"{name} ({type(block).__name__})", block.cost(tokens), _counted(name, block, call, b), batch=b, tokens=tokens)
        parts += 1
    return parts


def check(where: str, formula: Cost, counted: Counted, *, batch: int, tokens: int) -> None:
    """Raises: AccountingError unless ``formula`` is what was ``counted``, to the last FLOP."""
    if counted.unknown:
        raise AccountingError(
            f"accounting: {where} executes {', '.join(counted.unknown)}, whose FLOPs nobody knows; register a formula "
            "(torch.utils.flop_counter.register_flop_formula) or write it as matmuls"
        )
    if formula.forward(batch) != counted.total:
        raise AccountingError(
            f"accounting: {where} says {formula.forward(batch):,} FLOPs for {batch} x {tokens} tokens, its graph executes "
            f"{counted.total:,} ({counted.matmul:,} matmul, {counted.fft:,} FFT); correct its cost()"
        )


def _counted(name: str, block: nn.Module, call: Callable[[int], Any], batch: int) -> Counted:
    try:
        return count_forward(lambda: call(batch))
    except UserError:
        raise
    except Exception as error:  # a third-party block may do anything, .item() above all
        raise Uncountable(
            f"accounting: {name} ({type(block).__name__}) cannot run on the meta device, so its formula is not proven "
            f"({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        ) from error


def _parts(model: Decoder | Encoder, tokens: int) -> Iterator[tuple[str, Any, Callable[[int], Any]]]:
    """(name, block, call with a batch size): the ends, and one layer of each kind."""
    embedding: Any = model.embedding
    yield "embedding+head", embedding, lambda b: embedding.logits(embedding(torch.zeros(b, tokens, dtype=torch.long, device="meta")))
    seen: list[tuple[type, Any]] = []  # a list: configs of third parties need not hash
    for i, layer in enumerate(model.layers):
        for child, block in layer.named_children():
            kind = (type(block), getattr(block, "config", None))
            if kind not in seen:
                seen.append(kind)
                yield f"layers.{i}.{child}", block, _on_rows(block, tokens, model.config.width)
    if isinstance(model, Encoder):
        yield "head", model.head, _on_rows(model.head, tokens, model.config.width)


def _on_rows(block: nn.Module, tokens: int, width: int) -> Callable[[int], Any]:
    return lambda batch: block(torch.empty(batch, tokens, width, device="meta"))

"""Formula and counted graph side by side: what a block says it costs, and what it executes.

Legend: B batch, T tokens, D width.
A formula that returns 0, forgets a factor, or counts parameters where work happens is found here, not in a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from arch_lab.accounting.counter import Counted, count_forward
from arch_lab.accounting.ledger import Model
from arch_lab.models.encoder import Encoder
from arch_lab.models.encoder_decoder import EncoderDecoder
from arch_lab.models.image import ImageClassifier
from blocks.contract import CrossMixer
from blocks.cost import Cost
from blocks.errors import UserError
from blocks.user_code import describe

LONGEST = 4097  # beyond the widest published window and odd; longer rows would only repeat the proof


class AccountingError(UserError):
    """A block whose formula and graph disagree, or whose graph holds an operator nobody can price."""


class Uncountable(UserError):
    """A block whose graph does not run on the meta device: its formula stands unproven."""


def prove(model: Model, tokens: int, *, batch: int = 1, built_in: bool = True) -> int:
    """Count every distinct part of a model on the meta device (``meta_model`` and its like); returns how many parts.

    Two batch sizes, so that work done once a forward cannot pass for work done for every sequence. ``built_in=False``
    passes over the blocks of this library, which its tests prove: torch needs seconds to get ready to count.
    An image classifier is counted on its whole image, whatever ``tokens``.
    Raises: AccountingError naming the block and both numbers; Uncountable when a block cannot run without values.
    """
    tokens, parts = model.config.max_tokens if isinstance(model, ImageClassifier) else min(tokens, LONGEST), 0
    for name, block, formula, call in _parts(model, tokens):
        if not built_in and type(block).__module__.startswith("blocks."):
            continue
        for b in (batch, batch + 1):
            check(f"{name} ({type(block).__name__})", formula, _counted(name, block, call, b), batch=b, tokens=tokens)
        parts += 1
    return parts


def check(where: str, formula: Cost, counted: Counted, *, batch: int, tokens: int) -> None:
    """Raises: AccountingError unless ``formula`` is what was ``counted``, to the last FLOP."""
    if counted.unknown:
        raise AccountingError(
            f"accounting: {where} executes {', '.join(counted.unknown)}, whose FLOPs are unknown; register a formula "
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
            f"({describe(error, limit=120)})"
        ) from error


Part = tuple[str, Any, Cost, Callable[[int], Any]]


def _parts(model: Model, tokens: int) -> Iterator[Part]:
    """(name, block, what it says it costs, call with a batch size): the ends, and one layer of each kind."""
    if isinstance(model, ImageClassifier):
        yield from _image_parts(model, tokens)
        return
    embedding: Any = model.embedding
    looked_up: Callable[[int], Any] = lambda b: embedding.logits(embedding(torch.zeros(b, tokens, dtype=torch.long, device="meta")))  # noqa: E731
    yield "embedding+head", embedding, embedding.cost(tokens), looked_up
    if isinstance(model, EncoderDecoder):
        yield from _layers("encoder.layers", model.encoder.layers, tokens, model.config.source_width)
        yield from _layers("decoder.layers", model.decoder.layers, tokens, model.config.width)
        return
    yield from _layers("layers", model.layers, tokens, model.config.width)
    if isinstance(model, Encoder):
        yield "head", model.head, model.head.cost(tokens), _on_rows(model.head, tokens, model.config.width)


def _image_parts(model: ImageClassifier, tokens: int) -> Iterator[Part]:
    embedding: Any = model.embedding
    pooler: Any = model.pooler
    head: Any = model.head
    size = (embedding.config.channels, *model.config.image)
    yield "embedding", embedding, embedding.cost(tokens), lambda b: embedding(torch.empty(b, *size, device="meta"))
    inside = model.config.inside(tokens)
    yield from _layers("layers", model.layers, inside, model.config.width)
    yield "pooler", pooler, pooler.cost(inside), _on_rows(pooler, inside, model.config.width)
    yield "head", head, head.cost(1), _on_rows(head, 1, model.config.width)  # one pooled vector an image


def _layers(where: str, layers: nn.ModuleList, tokens: int, width: int) -> Iterator[Part]:
    seen: list[tuple[type, Any]] = []  # a list: configs of third parties need not hash
    for i, layer in enumerate(layers):
        for child, block in layer.named_children():
            kind = (type(block), getattr(block, "config", None))
            if kind not in seen:
                seen.append(kind)
                yield f"{where}.{i}.{child}", block, *_on_either(block, tokens, width)


def _on_either(block: Any, tokens: int, width: int) -> tuple[Cost, Callable[[int], Any]]:
    if not isinstance(block, CrossMixer):
        return block.cost(tokens), _on_rows(block, tokens, width)
    read = tokens + 3  # another length than x, or a product of the two could pass for a square
    memory: Callable[[int], Tensor] = lambda batch: torch.empty(batch, read, block.memory_width, device="meta")  # noqa: E731
    return block.cost(tokens, read), lambda batch: block(torch.empty(batch, tokens, width, device="meta"), memory(batch))


def _on_rows(block: nn.Module, tokens: int, width: int) -> Callable[[int], Any]:
    return lambda batch: block(torch.empty(batch, tokens, width, device="meta"))

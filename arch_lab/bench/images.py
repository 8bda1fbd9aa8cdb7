"""Image classifiers at equal parameters.

Monarch Mixer's against a Vision Transformer, images answered and trained on per second.

Legend: B images, patches of 4 x 4 pixels. Shapes are those that the budget of the study ``cifar10`` (1M body
+ head parameters) solves to. A training step is forward, cross-entropy, backward and AdamW.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arch_lab.bench.protocol import Call, Row, measure
from arch_lab.models import Shape, recipe

CLASSES, PATCH = 10, 4
M2_VIT, VIT = Shape(width=160, depth=5, ffn_width=640), Shape(width=160, depth=4, ffn_width=456)


def images() -> Iterator[Row]:
    """At 32 x 32 pixels as in CIFAR-10, and at 64 x 64, where there are four times as many patches."""
    for side, batch in ((32, 32), (64, 8)):
        x, labels = torch.randn(batch, 3, side, side), torch.randint(CLASSES, (batch,))
        size = {"image": [side, side], "channels": 3, "patch": PATCH}
        tokens = (side // PATCH) ** 2
        m2 = recipe("m2_vit", size).model(M2_VIT, vocabulary=CLASSES, max_tokens=tokens)
        vit = recipe("vit", {**size, "head_width": 32, "pool": "mean"}).model(
            VIT, vocabulary=CLASSES, max_tokens=tokens
        )
        shape = f"B {batch}, {side} x {side}, {tokens} patches"
        with torch.no_grad():
            yield measure("m2_vit forward", shape, partial(m2.eval(), x), "vit", partial(vit.eval(), x))
        yield measure(
            "m2_vit training step", shape, _step(m2.train(), x, labels), "vit", _step(vit.train(), x, labels)
        )


def _step(model: nn.Module, x: Tensor, labels: Tensor) -> Call:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def call() -> None:
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return call

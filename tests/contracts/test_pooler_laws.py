"""The laws of poolers and heads on trial: each broken one differs from a built-in one in a line, and the right law catches it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from arch_lab.laws import LAWS, Subject, certify_block, check
from arch_lab.laws.cases import Case, cases
from arch_lab.laws.probe import redraw
from blocks import (
    Block,
    BlockConfig,
    ClassificationHead,
    ConfigError,
    KeyValuePooler,
    MaxPooler,
    MeanPooler,
    Pooler,
    QueryPooler,
    register,
)
from blocks.cost import Cost
from blocks.heads.poolers import MeanPoolerConfig, average, tokens_of
from blocks.registry import KINDS, entries


class AveragesPadding(MeanPooler):
    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        return x.mean(dim=1)


class DividesByTheRow(MeanPooler):
    """Leaves padding out of the sum and not out of the count."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        real = tokens_of(x, valid)
        return (x * real[..., None]).sum(dim=1) / x.shape[1]


class LastSlot(MeanPooler):
    """The last place of the row: right until somebody pads on the right."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        return x[:, -1] if valid is None else x[:, -1] * valid.any(dim=1)[:, None]


class LengthAsPlace(MeanPooler):
    """Finds the last token by counting, as if pads stood on the right alone."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        real = tokens_of(x, valid)
        last = x[torch.arange(len(x)), real.sum(dim=1).clamp_min(1) - 1]
        return last * real.any(dim=1)[:, None]


class CentredOnTheBatch(MeanPooler):
    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        y = average(x, tokens_of(x, valid))
        return y - 0.1 * y.mean(dim=0)


class WeighsByPlace(MeanPooler):
    """A weight for the place in the row and not for the place among the tokens."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        weights = 1 / (1 + torch.arange(x.shape[1], dtype=x.dtype))
        return average(x * weights[:, None], tokens_of(x, valid))


class EmptyIsNaN(MeanPooler):
    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        real = tokens_of(x, valid)
        return (x * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)


class EmptyHasNoGradient(QueryPooler):
    """Zeros for an empty row, put over a softmax that was NaN: so is its gradient."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        real = tokens_of(x, valid)
        scores = self.key(x)[..., 0].masked_fill(~real, float("-inf"))
        y = (scores.softmax(dim=1)[..., None] * self.value(x)).sum(dim=1)
        return torch.where(real.any(dim=1)[:, None], y, 0.0)

    def cost(self, tokens: int) -> Cost:
        return Cost(matmul=4 * tokens * self.config.width**2)


class LooksAtPadding(MaxPooler):
    """Right outputs, and a gradient that flows into padding."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        everything = x.sum(dim=(1, 2))[:, None]
        return super().forward(x, valid) + everything - everything.detach()


class Deaf(MeanPooler):
    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        return (x * 0).sum(dim=1) + tokens_of(x, valid).any(dim=1)[:, None]


class OneVectorAToken(MeanPooler):
    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        return x


class HalfPrice(QueryPooler):
    def cost(self, tokens: int) -> Cost:
        return self.key.cost(tokens)


class OneHeadOnly(KeyValuePooler):
    """The bill of one head."""

    def cost(self, tokens: int) -> Cost:
        return Cost(matmul=4 * tokens * self.config.slots * self.config.width // self.config.heads)


class CentredOverTokens(ClassificationHead):
    """A head that reads the whole sequence."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if x.ndim < 3 else y - 0.1 * (y.mean(dim=1, keepdim=True) - y)


class NormedOverTheBatch(ClassificationHead):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y / (1 + y.square().mean(dim=0, keepdim=True))


class OtherWhenPooled(ClassificationHead):
    """Takes a pooled batch for a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 if x.ndim == 3 else 2)


BROKEN: list[tuple[type[Block], str, str]] = [
    (AveragesPadding, "isolation", "pads on the right change the vector"),
    (DividesByTheRow, "isolation", "pads on the right change the vector"),
    (LastSlot, "isolation", "pads on the right change the vector"),
    (LengthAsPlace, "isolation", "pads on the left change the vector"),
    (WeighsByPlace, "isolation", "pads on the left change the vector"),
    (CentredOnTheBatch, "isolation", "alone than in a batch"),
    (EmptyIsNaN, "isolation", "without a valid token does not give zeros"),
    (EmptyHasNoGradient, "isolation", "gradients are not finite"),
    (LooksAtPadding, "isolation", "gradient with respect to padding is not zero"),
    (Deaf, "isolation", "does not change its vector"),
    (OneVectorAToken, "isolation", "expected one vector of that width per row"),
    (HalfPrice, "accounting", "the counted graph executes"),
    (OneHeadOnly, "accounting", "the counted graph executes"),
    (CentredOverTokens, "isolation", "position-wise block"),
    (NormedOverTheBatch, "isolation", "alone than in a batch"),
    (OtherWhenPooled, "isolation", "as a pooled vector"),
]


def subject(block: type[Block]) -> Subject:
    """The broken class in the first configuration of the built-in one it inherits from."""
    entry = next(e for e in entries() if e.block in block.__mro__[1:])
    options: dict[str, Any] = cases(entry)[0].options
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = block(entry.config.from_options(options)).double().eval()
        redraw(module)
    return Subject(
        name=block.__name__,
        kind=entry.kind,
        case=Case(name="plain", options=options, first=True),
        module=module,
    )


@pytest.mark.parametrize(("block", "law", "message"), BROKEN, ids=[block.__name__ for block, _, _ in BROKEN])
def test_a_broken_pooler_or_head_is_caught_by_the_law_it_breaks(
    block: type[Block], law: str, message: str
) -> None:
    result = check(LAWS[law], subject(block))
    assert result.status == "failed" and message in result.text, result.text
    assert "\n" not in result.text and "raised" not in result.text


def test_certify_says_why_a_pooler_is_not_asked_about_single_tokens() -> None:
    report = certify_block("mean")
    assert report.kind == "pooler" and report.passed
    asked = {law.law for law in report.laws if law.status == "passed"}
    assert asked == {"isolation", "accounting", "numerics", "round trip"}
    assert "one vector per sequence" in report["causality"].reason


def test_a_pooler_must_inherit_from_the_contract() -> None:
    with pytest.raises(ConfigError, match=r"a pooler must inherit from blocks\.Pooler"):
        register("wrong_pooler", kind="pooler", config=MeanPoolerConfig, source="none")(ClassificationHead)


def test_poolers_and_heads_are_listed_by_kind() -> None:
    assert {e.name for e in entries("pooler")} >= {
        "first_k",
        "last_k",
        "mean",
        "max",
        "attn_query",
        "attn_kv",
        "cls",
    }
    wanted = {
        "classification",
        "regression",
        "range_regression",
        "token_classification",
        "label_logit",
        "entity_library",
        "triplet",
    }
    assert {e.name for e in entries("head")} >= wanted
    assert KINDS.index("pooler") < KINDS.index("head")


def test_every_pooler_is_kept_out_of_causal_models() -> None:
    """It reads the whole row: put into a decoder, it would let the future in."""
    assert [e.name for e in entries("pooler") if e.causal] == []
    assert all(issubclass(e.block, Pooler) and issubclass(e.config, BlockConfig) for e in entries("pooler"))

"""A label for every token. Legend: B batch, T tokens, D width, C classes. Source: arXiv 1810.04805 §5.3 (NER)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from blocks.errors import ConfigError
from blocks.heads.base import cross_entropy
from blocks.heads.classification import ClassificationHead, ClassificationHeadConfig
from blocks.registry import register

IGNORED = -100  # the label of tokens that carry none: torch's own default


@dataclass(frozen=True, kw_only=True)
class TokenClassificationHeadConfig(ClassificationHeadConfig):
    pass


@register("token_classification", kind="head", config=TokenClassificationHeadConfig, source="arXiv:1810.04805 §5.3")
class TokenClassificationHead(ClassificationHead):
    """As ClassificationHead, at every token; the loss is a mean over labelled tokens, not over rows.

    Shape: (B, T, D) -> (B, T, C). Cost and errors: as ClassificationHead.
    """

    config: TokenClassificationHeadConfig

    def loss(self, x: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """``target`` (B, T): a class, or -100 where a token has none; what is not ``valid`` (B, T) counts as -100. 0 without any."""
        if valid is not None:
            if valid.shape != target.shape:
                raise ConfigError(f"valid {tuple(valid.shape)} must have the shape of the labels {tuple(target.shape)}")
            target = target.masked_fill(~valid, IGNORED)
            x = x.masked_fill(~valid[..., None], 0)  # 0 times the NaN somebody left in padding is NaN in the gradient
        return cross_entropy(self(x), target, ignored=IGNORED)

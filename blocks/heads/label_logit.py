"""A yes/no answer read off a language model's own logits: no new parameters.

Legend: V vocabulary, LL log-likelihood of a label token, T temperature, α smoothing.
Source: arXiv 2407.21772 (ShieldGemma): p = (exp(LL_yes/T) + α) / (exp(LL_yes/T) + exp(LL_no/T) + 2α), α = 0,
T = 1.
Kept as logarithms throughout: at LL = -200 both exponentials are 0 in float32 and the quotient is 0/0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, log

import torch
from torch import Tensor

from blocks.config import Options
from blocks.contract import BlockConfig
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.heads.base import TaskHead, check_labels
from blocks.norm import widened
from blocks.registry import register

NO, YES = 0, 1  # the order of the two outputs


@dataclass(frozen=True, kw_only=True)
class LabelLogitHeadConfig(BlockConfig):
    vocabulary: int
    yes: int  # token ids of the two answers
    no: int
    alpha: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("yes", "no"):
            if not 0 <= getattr(self, name) < self.vocabulary:
                raise ConfigError(
                    f"LabelLogitHeadConfig: {name} must be in 0 … {self.vocabulary - 1}, "
                    f"got {getattr(self, name)}"
                )
        if self.yes == self.no:
            raise ConfigError(f"LabelLogitHeadConfig: yes and no are the same token {self.yes}")
        if not (self.alpha >= 0 and isfinite(self.alpha)):
            raise ConfigError(f"LabelLogitHeadConfig: alpha must be 0 or more, got {self.alpha}")
        if not (self.temperature > 0 and isfinite(self.temperature)):
            raise ConfigError(f"LabelLogitHeadConfig: temperature must be positive, got {self.temperature}")


@register("label_logit", kind="head", config=LabelLogitHeadConfig, source="arXiv:2407.21772")
class LabelLogitHead(TaskHead):
    """log(1 - p) and log p of the answer yes, from next-token logits; loss: -log of the right one.

    At α = 0 a constant added to both logits changes nothing. At α > 0 the likelihoods are those over the
    whole vocabulary, for α is weighed against them; α towards infinity gives p = 1/2.
    Shape: (..., V) -> (..., 2), no first. Cost: no weights; elementwise 8, and 3·V more at α > 0.
    Raises: ConfigError for a token outside the vocabulary, yes = no, a negative α or a temperature that is
    not positive.
    """

    config: LabelLogitHeadConfig

    @classmethod
    def law_cases(cls) -> list[Options]:
        plain = {"vocabulary": 11, "yes": 7, "no": 3}
        return [plain, plain | {"alpha": 0.1}, plain | {"alpha": 2.0, "temperature": 1.7}]

    def reset_parameters(self) -> None:
        pass  # it has none

    def forward(self, x: Tensor) -> Tensor:
        config = self.config
        wide = x.to(widened(x.dtype))
        if config.alpha > 0:
            wide = wide.log_softmax(dim=-1)
        two = torch.stack([wide[..., config.no], wide[..., config.yes]], dim=-1) / config.temperature
        if config.alpha > 0:
            two = torch.logaddexp(two, two.new_full((), log(config.alpha)))
        # the denominator is the sum of both numerators, 2α included
        return two.log_softmax(dim=-1).to(x.dtype)

    def probability(self, x: Tensor) -> Tensor:
        """(...) p of yes, in float32 or wider."""
        y: Tensor = self(x.to(widened(x.dtype)))
        return y[..., YES].exp()

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """``target`` (...): 1 yes, 0 no."""
        check_labels(target, 2)
        y: Tensor = self(x)
        return -y.gather(-1, target[..., None]).mean()

    def predict(self, x: Tensor) -> Tensor:
        """(...) 1 where yes is the likelier; a tie is no."""
        return self(x).argmax(dim=-1)  # type: ignore[no-any-return]

    def cost(self, tokens: int) -> Cost:
        smoothing = 3 * self.config.vocabulary if self.config.alpha > 0 else 0
        return Cost(elementwise=tokens * (8 + smoothing))


def worst_policy(probabilities: Tensor, dim: int = -1) -> Tensor:
    """The overall score of a text judged under several policies.

    The largest of their probabilities (ShieldGemma).
    """
    return probabilities.amax(dim=dim)

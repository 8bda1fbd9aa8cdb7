"""The next token from its logits: greedy or nucleus sampling.

Legend: V vocabulary.
Source: nucleus (top-p) sampling, arXiv 1904.09751 §3.1. Probabilities and their sums are float64 on the CPU,
and one uniform number is drawn per token, so a seed gives the same text on every run of one machine, and
across machines while logits agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from blocks.errors import ConfigError, UserError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """``temperature`` None takes the likeliest token.

    ``top_p``: draw from the smallest set of likeliest tokens whose probabilities sum to at least this much.

    Raises: ConfigError for a temperature that is not positive, a ``top_p`` outside (0, 1] or one without a
    temperature.
    """

    temperature: float | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        temperature, p = self.temperature, self.top_p
        if temperature is not None and not (temperature > 0 and isfinite(temperature)):
            raise ConfigError(
                f"temperature must be a positive number, got {temperature}; leave it out for greedy decoding"
            )
        if not 0 < p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, got {p}")
        if temperature is None and p != 1:
            raise ConfigError(f"top_p {p} needs a temperature: greedy decoding does not sample")

    def choose(self, logits: Tensor, generator: torch.Generator) -> int:
        """One token id from logits (V,).

        Greedy uses no random number. Raises: UserError when a logit is not a number.
        """
        logits = logits.detach().to("cpu", torch.float64)
        if logits.isnan().any() or logits.max() == float("inf"):
            raise UserError(
                "the model's logits are not finite, so there is no next token; "
                "its weights may be damaged or diverged"
            )
        if self.temperature is None:
            return int(logits.argmax())
        # the maximum first: a tiny temperature would otherwise divide two large numbers to inf - inf
        probabilities = ((logits - logits.max()) / self.temperature).softmax(dim=0)
        ids = None
        if self.top_p < 1:
            ids, probabilities = nucleus(probabilities, self.top_p)
        position = draw(probabilities, generator)
        return position if ids is None else int(ids[position])


def nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The smallest set of most likely tokens with sum >= ``top_p``.

    Returns (ids, probabilities), most likely first, not renormalised.

    Never empty. Of equally likely tokens at the border the lower id is taken, so the set does not depend on
    the sort.
    """
    ordered, ids = probabilities.sort(descending=True, stable=True)
    sum_before = ordered.cumsum(dim=0) - ordered
    size = max(1, int((sum_before < top_p).sum()))
    return ids[:size], ordered[:size]


def draw(weights: Tensor, generator: torch.Generator) -> int:
    """An index with probability ``weights[i] / sum``.

    One uniform number goes through the inverse of the cumulative sum.
    """
    cumulative = weights.cumsum(dim=0)
    uniform = torch.rand((), dtype=torch.float64, generator=generator) * cumulative[-1]
    index = int(torch.searchsorted(cumulative, uniform, right=True))
    return min(index, int(weights.nonzero()[-1]))  # rounding at the very end must not pick what has no weight

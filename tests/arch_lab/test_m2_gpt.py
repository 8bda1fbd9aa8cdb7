"""The causal Monarch Mixer model as a whole."""

from __future__ import annotations

from math import log

import torch
import torch.nn.functional as F

from arch_lab.models import Shape, recipe

VOCABULARY, TOKENS, PERIOD = 32, 48, 6


def test_decoding_equals_the_parallel_forward() -> None:
    model = (
        recipe("m2_gpt")
        .model(Shape(width=32, depth=2, ffn_width=32), vocabulary=VOCABULARY, max_tokens=TOKENS)
        .double()
    )
    tokens = torch.randint(VOCABULARY, (2, 13))
    first, state = model.prefill(tokens[:, :6], model.init_state(2))
    logits = [first]
    for t in range(6, 13):
        one, state = model.step(tokens[:, t], state)
        logits.append(one[:, None])
    torch.testing.assert_close(torch.cat(logits, dim=1), model(tokens), rtol=1e-10, atol=1e-10)


def test_the_ledger_is_known_without_memory() -> None:
    config = recipe("m2_gpt").config(
        Shape(width=64, depth=3, ffn_width=96), vocabulary=VOCABULARY, max_tokens=TOKENS
    )
    model = config.build("meta")
    assert sum(part.parameters for part in model.components(TOKENS)) == model.parameter_counts()["total"]
    assert model(torch.zeros(1, 5, dtype=torch.long, device="meta")).shape == (1, 5, VOCABULARY)


def test_a_tiny_model_learns_to_copy_a_period_in_sixty_steps() -> None:
    torch.manual_seed(0)
    model = recipe("m2_gpt").model(
        Shape(width=32, depth=2, ffn_width=64), vocabulary=VOCABULARY, max_tokens=TOKENS
    )
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(60):
        # every row repeats its own random word: the next token is the one PERIOD back, which only a mixer can know
        tokens = torch.randint(VOCABULARY, (16, PERIOD)).repeat(1, TOKENS // PERIOD + 1)
        loss = F.cross_entropy(model(tokens[:, :TOKENS]).flatten(0, 1), tokens[:, 1 : TOKENS + 1].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # guessing costs log(32) = 3.47; the first period of each row cannot be known
    assert losses[-1] < 0.75 * log(VOCABULARY)

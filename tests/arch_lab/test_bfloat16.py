"""What bfloat16 may cost a Gemma: rounding, never the defects that reference codes have had.

Legend: D width, T tokens, C head width. bfloat16 keeps 8 bits: one rounding moves a number by at most 2^-8 of itself.
Sources: huggingface/transformers#29402 and #29285 (eight defects of the first port), sgl-project/sglang#27540 (a variance summed in
bfloat16 makes deep hidden states collapse), pytorch/pytorch#189581 (a norm wrong by 1.7 x at small variance).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from arch_lab.models import Shape, recipe
from arch_lab.models.decoder import Decoder
from blocks.attention.rope import rope_tables, rotate
from blocks.norm import RMSNorm, RMSNormConfig

ROUNDING = 2.0**-8
WIDTH, DEPTH = 512, 24  # many layers, so that what each of them loses adds up
DRIFT = 0.06  # 24 layers of a few roundings each: 0.03 measured; a careless norm gives 0.11
TOKENS = torch.randint(61, (2, 32), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scale", [1e-4, 1e-3, 1.0, 300.0])
def test_a_norm_is_right_to_one_rounding_whatever_the_variance(scale: float) -> None:
    """Squares of 1e-4 and a mean over 4096 of them are lost when they are summed in bfloat16; eps is 1e-6."""
    x = (scale * torch.randn(3, 4096, generator=torch.Generator().manual_seed(0))).bfloat16()
    norm = RMSNorm(RMSNormConfig(width=4096))
    with torch.no_grad():
        norm.weight.normal_(std=0.3)
        norm.bfloat16()
        exact = (
            x.double()
            * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 1e-6)
            * (1 + norm.weight.double())
        )
        assert ((norm(x).double() - exact).abs() <= 1.001 * ROUNDING * exact.abs()).all()


def test_the_gain_is_one_plus_a_weight_that_keeps_its_own_bits() -> None:
    """1 + w formed in bfloat16 loses w below 2^-8; formed in float32 it moves the output."""
    norm = RMSNorm(RMSNormConfig(width=64)).bfloat16()
    x = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        plain = norm(x)
        norm.weight.fill_(2.0**-8 * 0.9)
        assert torch.equal(
            1 + norm.weight, torch.ones(64, dtype=torch.bfloat16)
        )  # what adding in bfloat16 would do
        assert not torch.equal(norm(x), plain)


@pytest.mark.parametrize("position", [10, 1_000, 100_000])
def test_far_positions_turn_by_the_right_angle(position: int) -> None:
    """100,000 is no bfloat16 number, nor are its angles: the tables are float32 and what is rounded is the result.

    A float32 angle of 1e5 radians is right to 2^-7 / 2 = 0.004; the rest is one rounding of the result.
    """
    c = 64
    x = torch.randn(1, c, generator=torch.Generator().manual_seed(0)).bfloat16()
    cos, sin = rope_tables(torch.tensor([position]), c, base=10_000.0, dtype=x.dtype)
    turned = rotate(x, cos, sin).double()
    angle = position * 10_000.0 ** -(torch.arange(0, c, 2, dtype=torch.float64) / c)
    first, second = x.double().chunk(2, dim=-1)
    exact = torch.cat(
        (first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()), dim=-1
    )
    size = torch.cat((first, second)).norm(dim=0).repeat(2)
    assert ((turned - exact).abs() <= (ROUNDING + max(0.0, position * 2.0**-24)) * size + 1e-6).all()


def deep(name: str) -> Decoder:
    """Random weights over many layers, local and global ones among them, in bfloat16."""
    torch.manual_seed(0)
    options: dict[str, dict[str, object]] = {
        "gemma1": {},
        "gemma2": {"window": 8},
        "gemma3": {"window": 8},
        "gemma4": {"window": 8},
    }
    model = recipe(name, options[name]).model(
        Shape(width=WIDTH, depth=DEPTH, ffn_width=WIDTH), vocabulary=61, max_tokens=32
    )
    for layer in model.layers:
        if (
            name == "gemma4"
        ):  # its scores are not scaled: the gain learns to. At 1, a softmax over scores of size C takes the maximum
            torch.nn.init.constant_(layer.mixer.query_norm.weight, layer.mixer.config.channels**-0.5)
    return model.eval().bfloat16()


def drift(model: Decoder, *, run: Callable[[], Tensor]) -> float:
    """Largest distance, relative, between a token's final states: ``run`` against the same (rounded) weights in float32."""
    states = run().double()
    exact = model.float().hidden(TOKENS).double()
    return ((states - exact).norm(dim=-1) / exact.norm(dim=-1)).max().item()


@pytest.mark.parametrize("name", ["gemma1", "gemma2", "gemma3", "gemma4"])
@torch.no_grad()
def test_deep_hidden_states_do_not_drift(name: str) -> None:
    model = deep(name)
    assert drift(model, run=lambda: model.hidden(TOKENS)) < DRIFT


@torch.no_grad()
def test_the_bound_on_drift_sees_a_variance_that_is_summed_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The counter-example: a sum that stops growing at 256, where the next square is below half a unit in the last place."""
    model = deep("gemma3")

    def careless(self: RMSNorm, x: Tensor) -> Tensor:
        total = torch.zeros_like(x[..., :1])
        for square in x.square().unbind(-1):
            total = total + square[..., None]
        return x * torch.rsqrt(total / x.shape[-1] + self.config.eps) * (1 + self.weight.to(x.dtype))

    def run() -> Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(RMSNorm, "forward", careless)
            return model.hidden(TOKENS)

    assert drift(model, run=run) > 1.5 * DRIFT


def test_a_loss_and_its_gradients_stay_near_float32() -> None:
    """Two layers, the whole model in bfloat16: gradients within 5 % in norm, a dozen roundings of which some are products."""
    torch.manual_seed(0)
    made = recipe("gemma3", {"window": 8, "pattern": "LG"}).model(
        Shape(width=64, depth=2, ffn_width=64), vocabulary=61, max_tokens=32
    )
    made = made.bfloat16()
    tokens = torch.randint(61, (4, 32), generator=torch.Generator().manual_seed(1))
    gradients: list[list[Tensor]] = []
    for _ in range(2):
        logits = made(tokens).float()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        gradients.append([g.float() for g in torch.autograd.grad(loss, list(made.parameters()))])
        made = made.float()
    for narrow, wide in zip(*gradients, strict=True):
        assert (narrow - wide).norm() <= 0.05 * wide.norm()

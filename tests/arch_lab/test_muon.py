"""Muon against its definition: matrices, blocks of block-diagonal weights, and AdamW for the rest."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from arch_lab.models import Shape, recipe
from arch_lab.training.muon import Muon, orthogonalized
from arch_lab.training.optimizer import OptimizerConfig, build_optimizer

RATE, DECAY, MOMENTUM = 0.02, 0.1, 0.95
SHAPES = [(8, 8), (12, 5), (5, 12), (3, 6, 4), (4, 4, 9)]


def defined(gradient: Tensor) -> Tensor:
    """Keller Jordan's iteration for one matrix, term by term."""
    tall = gradient.shape[0] > gradient.shape[1]
    x = (gradient.T if tall else gradient) / gradient.norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x - 4.7750 * a @ x + 2.0315 * a @ a @ x
    return x.T if tall else x


@pytest.mark.parametrize("shape", SHAPES)
def test_ten_steps_equal_the_definition_block_by_block(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(11)]
    weight = nn.Parameter(draws[0].clone())
    group = {"params": [weight], "orthogonal": True, "weight_decay": DECAY}
    optimizer = Muon([group], lr=RATE)
    blocks = list(draws[0].reshape(-1, *shape[-2:]).clone())
    momenta = [torch.zeros_like(block) for block in blocks]
    for gradient in draws[1:]:
        weight.grad = gradient.clone()
        optimizer.step()
        for i, own in enumerate(gradient.reshape(-1, *shape[-2:])):
            momenta[i] = MOMENTUM * momenta[i] + (1 - MOMENTUM) * own
            update = defined((1 - MOMENTUM) * own + MOMENTUM * momenta[i])
            scale = 0.2 * math.sqrt(max(shape[-2:]))
            blocks[i] = (1 - RATE * DECAY) * blocks[i] - RATE * scale * update
    torch.testing.assert_close(weight.data, torch.stack(blocks).reshape(shape), rtol=0, atol=1e-12)


def test_an_update_is_nearly_the_orthogonal_factor_of_its_matrix() -> None:
    matrices = torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    singular = torch.linalg.svdvals(orthogonalized(matrices))
    assert singular.min() > 0.5 and singular.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ orthogonalized(matrices) @ right.mT  # same singular vectors: diagonal
    torch.testing.assert_close(inside, torch.diag_embed(inside.diagonal(dim1=-2, dim2=-1)), rtol=0, atol=1e-9)
    assert (orthogonalized(torch.zeros(3, 3)) == 0).all()


def test_muon_agrees_with_torch_within_its_bfloat16() -> None:
    matrix = torch.randn(16, 24, generator=torch.Generator().manual_seed(2))
    theirs, ours = (nn.Parameter(torch.zeros(16, 24)) for _ in range(2))
    theirs.grad, ours.grad = matrix.clone(), matrix.clone()
    torch.optim.Muon([theirs], lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
    Muon([{"params": [ours], "orthogonal": True, "weight_decay": 0.0}], lr=1.0).step()
    torch.testing.assert_close(ours.data, theirs.data, rtol=0, atol=0.05)


@pytest.mark.parametrize("name", ["gemma3", "m2_gpt", "hybrid"])
def test_only_matrices_leave_adamw(name: str) -> None:
    """A step of both optimizers from one start: tables, taps, filters, gains and heads agree bit for bit."""
    options = {"short_convolution": 3} if name == "gemma3" else {}
    torch.manual_seed(0)
    weights = {}
    for optimizer in ("adamw", "muon"):
        torch.manual_seed(0)
        shape = Shape(width=32, depth=2, ffn_width=64)
        model = recipe(name, options).model(shape, vocabulary=64, max_tokens=16)
        tokens = torch.randint(64, (2, 16))
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        built = build_optimizer(model, OptimizerConfig(optimizer=optimizer), learning_rate=0.01)
        assert isinstance(built, Muon) == (optimizer == "muon")
        matrices = {id(p) for g in built.param_groups if g["name"] == "matrices" for p in g["params"]}
        built.step()
        weights[optimizer] = {n: (p.detach(), id(p) in matrices) for n, p in model.named_parameters()}
    for parameter, (value, is_matrix) in weights["muon"].items():
        assert torch.equal(value, weights["adamw"][parameter][0]) != is_matrix, parameter
    assert any(is_matrix and value.ndim == 3 for value, is_matrix in weights["muon"].values()) == (
        name != "gemma3"
    )


def test_state_of_muon_survives_a_checkpoint() -> None:
    def built() -> tuple[nn.Parameter, Muon]:
        weight = nn.Parameter(torch.eye(4))
        return weight, Muon([{"params": [weight], "orthogonal": True, "weight_decay": 0.0}], lr=RATE)

    gradients = torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(3))
    weight, optimizer = built()
    for gradient in gradients[:3]:
        weight.grad = gradient
        optimizer.step()
    restored_weight, restored = built()
    restored_weight.data.copy_(weight.data)
    restored.load_state_dict(deepcopy(optimizer.state_dict()))
    for gradient in gradients[3:]:
        for parameter, own in ((weight, optimizer), (restored_weight, restored)):
            parameter.grad = gradient.clone()
            own.step()
    assert torch.equal(weight, restored_weight)

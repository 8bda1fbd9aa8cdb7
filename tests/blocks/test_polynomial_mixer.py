"""The mixer with a learned causal product: m2_mixer at the start, more than a convolution afterwards, decodable, counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m2_goldens import close, golden, group, load, mixer_name
from torch import Tensor

from blocks.convolution.mixer import M2Mixer, M2MixerConfig
from blocks.errors import ConfigError
from blocks.monarch.polynomial import parameter_count, polynomial_product
from blocks.monarch.polynomial_mixer import MonarchPolynomial, MonarchPolynomialConfig

WIDTH, LONGEST = 6, 40
OPTIONS: dict[str, dict[str, Any]] = {
    "order 2": {},
    "order 3, two groups": {"order": 3, "groups": 2},
    "shared, residual": {"members": "shared", "base": 5, "residual_long_conv": True},
}


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def build(name: str, *, learned: bool = True) -> MonarchPolynomial:
    """Float64; ``learned``: every matrix away from the identity."""
    torch.manual_seed(0)
    config = MonarchPolynomialConfig(width=WIDTH, max_tokens=LONGEST, filter_order=8, **OPTIONS[name])
    mixer = MonarchPolynomial(config).double()
    for matrix in mixer.product.matrices if learned else ():
        for packed in matrix.lower:
            torch.nn.init.normal_(packed, std=0.4)
    return mixer


@pytest.mark.parametrize("name", OPTIONS)
def test_it_starts_as_m2_mixer_and_leaves_it_when_a_matrix_is_learned(name: str) -> None:
    mixer, x = build(name, learned=False), randn(2, LONGEST, WIDTH)
    residual = bool(OPTIONS[name].get("residual_long_conv"))
    twin = M2Mixer(
        M2MixerConfig(width=WIDTH, max_tokens=LONGEST, filter_order=8, residual_long_conv=residual)
    ).double()
    rest = mixer.body.load_state_dict(twin.state_dict(), strict=False)
    assert not rest.unexpected_keys and all(key.startswith("long.matrices.") for key in rest.missing_keys)
    close(mixer(x), twin(x), 1e-12)
    torch.nn.init.normal_(mixer.product.matrices[0].lower[0], std=0.4)
    assert (mixer(x) - twin(x)).abs().max() > 1e-2


def test_at_the_start_outputs_and_gradients_equal_the_released_causal_mixer() -> None:
    g = golden("seqmixer_causal_f64")
    sizes: Any = {"width": 16, "max_tokens": 32, "filter_order": 8, "start": "released"}
    mixer = MonarchPolynomial(MonarchPolynomialConfig(**sizes)).double()
    released = M2Mixer(M2MixerConfig(**sizes)).double()
    load(
        released,
        {name: value for key, value in group(g, "param.").items() if (name := mixer_name(key)) is not None},
    )
    mixer.body.load_state_dict(released.state_dict(), strict=False)
    u = g["in.u"].requires_grad_()
    y = mixer(u)
    close(y, g["out.y"])
    y.backward(g["in.grad_out"])
    close(u.grad, g["grad.u"])  # type: ignore[arg-type]
    found = {name: p.grad for name, p in mixer.body.named_parameters()}
    for key, value in group(g, "grad.").items():
        if key != "u":
            close(found[mixer_name(key)].flatten(), value.flatten())  # type: ignore[union-attr, index]
    # at the identity the matrices have a direction to leave in
    assert all(gradient.abs().max() > 0 for name, gradient in found.items() if ".matrices." in name)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", OPTIONS)
def test_the_layer_is_the_product_of_its_matrices_and_its_filter(name: str) -> None:
    mixer, u = build(name), randn(WIDTH, 2, 23)
    kernel = mixer.product.kernel(23)
    close(mixer.product(u), polynomial_product(u, kernel, *mixer.product.factors(23)), 1e-13)


@settings(deadline=None, max_examples=20)
@given(name=st.sampled_from(sorted(OPTIONS)), chunks=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_decoding_continues_any_prompt_exactly(name: str, chunks: list[int]) -> None:
    """By rows of the matrices for one token, by the whole product for several, in any order of the two."""
    mixer = build(name)
    x = randn(2, min(sum(chunks), LONGEST), WIDTH)
    state, parts, t = mixer.init_state(2, LONGEST), [], 0
    for size in chunks:
        if t < x.shape[1]:
            y, state = mixer.prefill(x[:, t : t + size], state)
            parts.append(y)
            t += size
    close(torch.cat(parts, dim=1), mixer(x), 1e-11)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kept, members", [(3, "separate"), (1, "shared")])
def test_parameters_beyond_m2_mixer_are_those_of_its_matrices(groups: int, kept: int, members: Any) -> None:
    mixer = MonarchPolynomial(
        MonarchPolynomialConfig(
            width=WIDTH, max_tokens=LONGEST, filter_order=8, groups=groups, members=members
        )
    )
    plain = M2Mixer(M2MixerConfig(width=WIDTH, max_tokens=LONGEST, filter_order=8))
    extra = sum(p.numel() for p in mixer.parameters()) - sum(p.numel() for p in plain.parameters())
    assert extra == kept * groups * parameter_count((6, 7))  # 7² >= 40 > 6²


def test_channels_of_one_group_share_a_matrix_and_groups_differ() -> None:
    mixer = build("order 3, two groups")
    u = randn(1, 1, 17).expand(WIDTH, 1, 17)
    with torch.no_grad():
        k = mixer.product.kernel(17)[:1].expand(WIDTH, 17)
        y = polynomial_product(u, k, *mixer.product.factors(17))[:, 0]
    close(y[:3], y[:1].expand(3, 17), 1e-13)
    close(y[3:], y[3:4].expand(3, 17), 1e-13)
    assert (y[0] - y[3]).abs().max() > 1e-3


def test_learning_makes_the_operator_more_than_a_convolution() -> None:
    """Delaying the input by one delays a convolution's output by one; here it does not."""
    mixer = build("order 2")
    u = randn(WIDTH, 1, 20)
    late = torch.cat([torch.zeros(WIDTH, 1, 1, dtype=u.dtype), u[..., :-1]], dim=-1)
    assert (mixer.product(late)[..., 1:] - mixer.product(u)[..., :-1]).abs().max() > 1e-2
    plain = build("order 2", learned=False)
    close(plain.product(late)[..., 1:], plain.product(u)[..., :-1], 1e-12)


def test_autocast_leaves_the_product_in_single_precision() -> None:
    mixer, u = build("order 2").float(), torch.randn(WIDTH, 2, 33)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mixer.product(u)
    assert inside.dtype == torch.float32 and torch.equal(inside, mixer.product(u))


@pytest.mark.parametrize("options", [{"order": 1}, {"base": 1}, {"groups": 4}, {"groups": 0}])
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        MonarchPolynomialConfig(width=WIDTH, max_tokens=LONGEST, **options)  # type: ignore[arg-type]


def test_decoding_beyond_the_state_is_refused() -> None:
    mixer = build("order 2")
    with pytest.raises(ConfigError, match="made for"):
        mixer.prefill(randn(1, 5, WIDTH), mixer.init_state(1, 4))

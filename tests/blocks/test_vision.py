"""Patches and image heads: what a patch is, where positions stand, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from blocks import (
    ConfigError,
    ImageHeadConfig,
    MLPConfig,
    MultiHeadAttentionConfig,
    PatchEmbeddingConfig,
    build,
)
from blocks.vision.patches import cut


@pytest.mark.parametrize(
    ("channels", "height", "width", "patch"), [(3, 8, 12, 4), (1, 7, 14, 7), (2, 5, 3, 1)]
)
def test_patches_are_those_of_an_unfold_in_reading_order(
    channels: int, height: int, width: int, patch: int
) -> None:
    images = torch.randn(2, channels, height, width)
    assert torch.equal(cut(images, patch), F.unfold(images, patch, stride=patch).mT)


def test_the_embedding_is_the_convolution_that_others_write_it_as() -> None:
    embedding = PatchEmbeddingConfig(width=6, patch=4, channels=3).build().double()
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    weight = embedding.projection.weight.view(6, 3, 4, 4)
    expected = F.conv2d(images, weight, embedding.projection.bias, stride=4).flatten(2).mT
    torch.testing.assert_close(embedding(images), expected, rtol=0, atol=1e-12)


def test_a_smaller_image_takes_the_positions_of_the_top_left_corner() -> None:
    embedding = PatchEmbeddingConfig(width=4, patch=2, channels=1, grid=(3, 5), class_token=True).build()
    with torch.no_grad():
        embedding.projection.weight.zero_()
        embedding.projection.bias.zero_()
    whole, part = embedding(torch.zeros(1, 1, 6, 10))[0], embedding(torch.zeros(1, 1, 4, 6))[0]
    assert torch.equal(part[0], whole[0])
    assert torch.equal(part[0], embedding.class_token + embedding.positions[0])
    assert torch.equal(part[1:].view(2, 3, 4), whole[1:].view(3, 5, 4)[:2, :3])


def test_the_class_token_stands_first_and_knows_no_pixel() -> None:
    embedding = PatchEmbeddingConfig(width=4, patch=2, channels=1, class_token=True).build()
    x = embedding(torch.randn(3, 1, 4, 4))
    assert x.shape == (3, 5, 4)
    assert torch.equal(x[:, 0], embedding.class_token.expand(3, -1))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 6, 8), "6 x 8 pixels cannot be cut into patches of 4 x 4"),
        ((1, 3, 8, 0), "8 x 0 pixels"),
        ((1, 1, 8, 8), "built for 3 channels, the images have 1"),
        ((1, 3, 8, 16), "2 x 4 patches exceeds the 2 x 2 positions"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_one_line(shape: tuple[int, ...], message: str) -> None:
    embedding = PatchEmbeddingConfig(width=4, patch=4, channels=3, grid=(2, 2)).build()
    with pytest.raises(ConfigError, match=message) as caught:
        embedding(torch.zeros(shape))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchEmbeddingConfig(width=4, patch=0), "patch must be at least 1"),
        (lambda: PatchEmbeddingConfig(width=4, grid=(0, 2)), "grid must be two numbers"),
        (lambda: ImageHeadConfig(width=4, classes=1), "classes must be at least 2"),
        (lambda: ImageHeadConfig(width=4, classes=3, eps=0.0), "eps must be positive"),
        (lambda: MultiHeadAttentionConfig(width=10, heads=4), "width 10 is not a multiple of heads 4"),
        (
            lambda: MultiHeadAttentionConfig(width=2, heads=2, linear="monarch"),
            "blocks = 4 exceeds width = 2",
        ),
        (lambda: MLPConfig(width=0, ffn_width=4), "width must be at least 1"),
    ],
)
def test_options_that_no_block_has_are_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_attention_is_that_of_torch() -> None:
    mine = build("multi_head_attention", width=12, heads=3).double()
    torch_s = torch.nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        torch_s.in_proj_weight.copy_(torch.cat([mine.query.weight, mine.key.weight, mine.value.weight]))  # type: ignore[list-item]
        for block in (mine.query, mine.key, mine.value, mine.out):
            block.bias.normal_()  # type: ignore[union-attr, operator]
        torch_s.in_proj_bias.copy_(torch.cat([mine.query.bias, mine.key.bias, mine.value.bias]))  # type: ignore[list-item]
        torch_s.out_proj.weight.copy_(mine.out.weight)  # type: ignore[arg-type]
        torch_s.out_proj.bias.copy_(mine.out.bias)  # type: ignore[arg-type]
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(mine(x), torch_s(x, x, x, need_weights=False)[0], rtol=0, atol=1e-12)


def test_attention_without_positions_follows_a_permutation_of_its_tokens() -> None:
    mixer = build("multi_head_attention", width=8, heads=2).double()
    x, order = torch.randn(2, 7, 8, dtype=torch.float64), torch.randperm(7)
    torch.testing.assert_close(mixer(x[:, order]), mixer(x)[:, order], rtol=0, atol=1e-12)

"""Published sizes, such as "Gemma 2 2B" or "M2-BERT-base 80M", as options of our recipes.

Legend: D width, L depth, F ffn_width (one branch of a gated unit; Gemma's reports print gate and up together,
twice this), H query heads, K key/value heads, C head width, V vocabulary.
Sources: arXiv 2403.08295, 2408.00118, 2503.19786 with the released configurations (V as Hugging Face holds
it: 256,000 rows for Gemma 1 and 2, 262,144 for Gemma 3 and 4, 64 more in Gemma 3's multimodal sizes; the
reports count 256,128); HazyResearch/m2, bert/yamls/pretrain. T5Gemma (arXiv 2504.06225, 2512.14856): the
names say encoder-decoder. T5Gemma 2 is the text model: the vision tower (417 to 420 million parameters) and
the one row of width D that its embedding holds beside the table (the end-of-image vector, so V·D + D in its
released count) are left out, and windows and RoPE factor are those of the Gemma 3 of that size.
ViT (arXiv 2010.11929, timm's vit_*_patch16_224) and Monarch Mixer's image model, 224 x 224 pixels, 1000
classes: ``vocabulary`` holds the classes and ``max_tokens`` the patches. What m2_vit's "45M" stands for is an
inference, told in arch_lab.models.m2_vit.
A name is not a budget: "2b" holds 2.5e9 parameters in Gemma 1 and 2.6e9 in Gemma 2, and the
"parameter-matched" M2-BERT 110M is 5.9 % above the BERT it was matched with. The counts below the names are
exact and tested.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from arch_lab.models.recipe import Shape
from arch_lab.models.registry import recipe
from blocks.config import Options
from blocks.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One published model. ``max_tokens``: the context it was released for."""

    shape: Shape
    vocabulary: int
    max_tokens: int
    options: Options = field(default_factory=dict)


def _gemma(
    d: int,
    depth: int,
    f: int,
    heads: int,
    kv: int,
    c: int = 256,
    *,
    vocabulary: int,
    max_tokens: int,
    **options: Any,
) -> Preset:
    shape = Shape(width=d, depth=depth, ffn_width=f)
    options = {"heads": heads, "kv_heads": kv, "head_width": c, **options}
    return Preset(shape=shape, vocabulary=vocabulary, max_tokens=max_tokens, options=options)


def _gemma1(*sizes: int) -> Preset:
    return _gemma(*sizes, vocabulary=256_000, max_tokens=8192)


def _gemma2(*sizes: int, **options: Any) -> Preset:
    return _gemma(*sizes, vocabulary=256_000, max_tokens=8192, window=4096, **options)


def _gemma3_small(*sizes: int) -> Preset:
    return _gemma(*sizes, vocabulary=262_144, max_tokens=2**15, window=512)


def _gemma3(*sizes: int, **options: Any) -> Preset:
    return _gemma(*sizes, vocabulary=262_208, max_tokens=2**17, window=1024, rope_factor=8.0, **options)


def _gemma4(*sizes: int, **options: Any) -> Preset:
    # the scalar of a layer is no parameter in the released code, and published counts leave it out.
    # 2^17 is the context of the family's smaller members; that of the 31B is not published
    return _gemma(*sizes, vocabulary=262_144, max_tokens=2**17, window=1024, train_scale=False, **options)


def _m2_bert(d: int) -> Preset:
    # 12 layers at every size, the "large" ones too; 30,522 words padded to a multiple of 64
    return Preset(
        shape=Shape(width=d, depth=12, ffn_width=4 * d),
        vocabulary=30_528,
        max_tokens=128,
        options={"start": "released"},
    )


def _image(d: int, depth: int, **options: Any) -> Preset:
    return Preset(
        shape=Shape(width=d, depth=depth, ffn_width=4 * d), vocabulary=1000, max_tokens=196, options=options
    )


def _t5gemma(sizes: tuple[int, ...], encoder: tuple[int, ...] | None = None) -> Preset:
    """(D, L, F, H, K, C) of the decoder, and of the encoder where it differs."""
    published = _gemma(*sizes, vocabulary=256_000, max_tokens=8192, window=4096, encoder_radius=4096)
    if encoder is None:
        return published
    names = ("width", "depth", "ffn_width", "heads", "kv_heads", "head_width")
    return replace(
        published, options={**published.options, "encoder": dict(zip(names, encoder, strict=True))}
    )


def _t5gemma2(*sizes: int, local: int, **options: Any) -> Preset:
    return _gemma(*sizes, vocabulary=262_144, max_tokens=2**17, window=local, encoder_span=local, **options)


_GEMMA2_2B, _GEMMA2_9B = (2304, 26, 9216, 8, 4, 256), (3584, 42, 14336, 16, 8, 256)

PRESETS: dict[str, dict[str, Preset]] = {
    "gemma1": {
        "2b": _gemma1(2048, 18, 16384, 8, 1),
        "7b": _gemma1(3072, 28, 24576, 16, 16),  # H·C = 4096 is wider than D
    },
    "gemma2": {
        "2b": _gemma2(2304, 26, 9216, 8, 4),
        "9b": _gemma2(3584, 42, 14336, 16, 8),
        "27b": _gemma2(4608, 46, 36864, 32, 16, 128, query_scale=144**-0.5),  # 144 = D/H, not C
    },
    "gemma3": {
        "270m": _gemma3_small(640, 18, 2048, 4, 1),
        "1b": _gemma3_small(1152, 26, 6912, 4, 1),
        "4b": _gemma3(2560, 34, 10240, 8, 4),
        "12b": _gemma3(3840, 48, 15360, 16, 8),
        "27b": _gemma3(5376, 62, 21504, 32, 16, 128, query_scale=168**-0.5),  # 168 = D/H
    },
    "t5gemma": {
        "s-s": _t5gemma((512, 8, 1024, 8, 8, 64)),
        "b-b": _t5gemma((768, 12, 2048, 12, 12, 64)),
        "l-l": _t5gemma((1024, 24, 2816, 16, 16, 64)),
        "ml-ml": _t5gemma((1152, 26, 6912, 4, 4, 256)),
        "xl-xl": _t5gemma((2048, 24, 5120, 32, 32, 64)),
        "2b-2b": _t5gemma(_GEMMA2_2B),
        "9b-2b": _t5gemma(_GEMMA2_2B, _GEMMA2_9B),
        "9b-9b": _t5gemma(_GEMMA2_9B),
    },
    "t5gemma2": {
        "270m-270m": _t5gemma2(640, 18, 2048, 4, 1, local=512),
        "1b-1b": _t5gemma2(1152, 26, 6912, 4, 1, local=512),
        "4b-4b": _t5gemma2(2560, 34, 10240, 8, 4, local=1024, rope_factor=8.0),
    },
    "gemma4": {
        "31b": _gemma4(5376, 60, 21504, 32, 16, global_kv_heads=4, global_head_width=512),
    },
    "gemma_encoder": {
        # EmbeddingGemma's backbone (arXiv 2509.20354; feed-forward width and heads: the conversion script of
        # transformers)
        "300m": Preset(
            shape=Shape(width=768, depth=24, ffn_width=1152),
            vocabulary=262_144,
            max_tokens=2048,
            options={
                "generation": 3,
                "radius": 256,
                "generation_options": {"heads": 3, "kv_heads": 1, "head_width": 256},
            },
        ),
    },
    "m2_bert": {
        "80m": _m2_bert(768),
        "110m": _m2_bert(960),
        "260m": _m2_bert(1536),
        "341m": _m2_bert(1792),
    },
    "m2_vit": {
        "b": _image(768, 12),
        "hyena-b": _image(768, 12, mlp="dense"),
    },
    "vit": {
        "ti": _image(192, 12),
        "s": _image(384, 12),
        "b": _image(768, 12),
        "l": _image(1024, 24),
        "monarch-b": _image(768, 12, linear="monarch"),
    },
}


def preset(architecture: str, size: str) -> Preset:
    """The published size called ``size``. Raises: ConfigError for an unknown name, with the nearest one."""
    recipe_sizes = PRESETS.get(architecture)
    if recipe_sizes is None:
        recipe(architecture)  # a misspelt architecture is the better answer, when it is one
        raise ConfigError(
            f"architecture {architecture!r} has no published sizes; give a width and a depth instead"
        )
    if size.lower() not in recipe_sizes:
        raise ConfigError(
            f"architecture {architecture!r}: unknown preset "
            f"{size!r}{did_you_mean(size.lower(), recipe_sizes)}"
        )
    return recipe_sizes[size.lower()]

"""The published sizes, built on the meta device: every count equals the published one, to the last parameter.

Totals: the released Gemma configurations (their reports print the non-embedding part) and the reference modules of
HazyResearch/m2 with its shipped YAML values.
"""

from __future__ import annotations

import pytest

from arch_lab.accounting import ledger
from arch_lab.accounting.ledger import Ledger
from arch_lab.models import recipe
from arch_lab.models.presets import PRESETS, preset
from blocks.errors import ConfigError

GEMMA = [  # total, embedding
    ("gemma1", "2b", 2_506_172_416, 524_288_000),
    ("gemma1", "7b", 8_537_680_896, 786_432_000),
    ("gemma2", "2b", 2_614_341_888, 589_824_000),
    ("gemma2", "9b", 9_241_705_984, 917_504_000),
    ("gemma2", "27b", 27_227_128_320, 1_179_648_000),
    ("gemma3", "270m", 268_098_176, 167_772_160),
    ("gemma3", "1b", 999_885_952, 301_989_888),
    ("gemma3", "4b", 3_880_263_168, 671_252_480),
    ("gemma3", "12b", 11_766_034_176, 1_006_878_720),
    ("gemma3", "27b", 27_009_346_304, 1_409_630_208),
    ("gemma4", "31b", 30_697_345_280, 1_409_286_144),
    ("gemma_encoder", "300m", 302_863_104, 201_326_592),
]
M2_BERT = [  # total, embedding, head, mixer of a layer, channel mixer and norm of a layer
    ("80m", 80_267_328, 23_546_880, 622_656, 2_903_040, 1_771_776),
    ("110m", 115_583_616, 29_433_600, 955_008, 4_331_904, 2_767_680),
    ("260m", 259_133_760, 47_093_760, 2_394_432, 10_387_968, 7_082_496),
    ("341m", 341_038_144, 54_942_720, 3_247_168, 13_931_520, 9_639_168),
]


def book(architecture: str, size: str, *, tokens: int = 128, **options: object) -> Ledger:
    p = preset(architecture, size)
    made = recipe(architecture, {**p.options, **options})
    config = made.config(p.shape, vocabulary=p.vocabulary, max_tokens=max(tokens, p.max_tokens))
    return ledger(config, tokens=tokens, batch=1)


@pytest.mark.parametrize(("architecture", "size", "total", "embedding"), GEMMA)
def test_a_gemma_has_exactly_its_published_parameters(
    architecture: str, size: str, total: int, embedding: int
) -> None:
    assert book(architecture, size).parameters == {
        "embedding": embedding,
        "head": 0,
        "body": total - embedding,
        "total": total,
    }


@pytest.mark.parametrize(("size", "total", "embedding", "head", "mixer", "channel"), M2_BERT)
def test_an_m2_bert_has_exactly_its_published_parameters(
    size: str, total: int, embedding: int, head: int, mixer: int, channel: int
) -> None:
    found = book("m2_bert", size)
    assert found.parameters == {
        "embedding": embedding,
        "head": head,
        "body": 12 * (mixer + channel),
        "total": total,
    }
    parts = {c.name: c.parameters for c in found.components}
    assert parts["layers.*.mixer"] == 12 * mixer
    assert parts["layers.*.channel"] + parts["layers.*.norm"] == 12 * channel


@pytest.mark.parametrize(("tokens", "total"), [(2048, 81_972_288), (8192, 87_428_160), (32768, 109_251_648)])
def test_the_80m_grows_with_the_length_it_is_built_for(tokens: int, total: int) -> None:
    """Position tables and trained filter positions: "80M-32k" holds 109 million."""
    assert book("m2_bert", "80m", tokens=tokens).parameters["total"] == total


def test_the_80m_without_its_residual_convolution_has_its_published_parameters() -> None:
    assert book("m2_bert", "80m", residual_long_conv=False).parameters["total"] == 77_078_592


def test_the_first_released_80m_with_its_input_norms_has_its_published_parameters() -> None:
    assert book("m2_bert", "80m", input_norm=True).parameters["total"] == 80_285_760


def test_the_80m_spends_the_published_flops() -> None:
    """0.1008 GFLOP per token at 128 tokens, embedding and head left out, and 1.6 GFLOP of filters a forward."""
    found = book("m2_bert", "80m")
    layers = [c for c in found.components if c.name.startswith("layers")]
    shared = found.cost.shared_matmul
    own = sum(c.matmul + c.fft for c in layers) - (shared + found.cost.shared_fft) / 128
    assert own == pytest.approx(0.1008e9, rel=2e-3)
    assert shared == pytest.approx(1.6e9, rel=0.03)


@pytest.mark.parametrize(
    ("architecture", "size", "local", "globals_"),
    [
        ("gemma2", "2b", 13, 13),
        ("gemma2", "27b", 23, 23),
        ("gemma3", "270m", 15, 3),
        ("gemma3", "1b", 22, 4),
        ("gemma3", "4b", 29, 5),
        ("gemma3", "27b", 52, 10),
        ("gemma4", "31b", 50, 10),
    ],
)
def test_local_and_global_layers_stand_as_published(
    architecture: str, size: str, local: int, globals_: int
) -> None:
    p = preset(architecture, size)
    config = recipe(architecture, p.options).config(p.shape, vocabulary=p.vocabulary, max_tokens=p.max_tokens)
    windows = [getattr(layer.mixer, "window", None) for layer in config.layers]
    assert (len(windows) - windows.count(None), windows.count(None)) == (local, globals_)


def test_a_trained_scalar_a_layer_is_all_that_the_published_count_leaves_out() -> None:
    assert book("gemma4", "31b", train_scale=True).parameters["total"] == 30_697_345_280 + 60


def test_the_cache_of_gemma_4_is_narrow_where_it_grows() -> None:
    """2 K C min(t, w) numbers a layer: 50 local layers of 16 heads of 256, 10 global ones of 4 heads of 512."""
    for t in (100, 5000):
        assert book("gemma4", "31b", tokens=t).state_bytes == 4 * 2 * (
            50 * 16 * 256 * min(t, 1024) + 10 * 4 * 512 * t
        )


def test_the_published_encoder_keeps_no_state_and_sees_512_tokens_around_itself() -> None:
    p = preset("gemma_encoder", "300m")
    config = recipe("gemma_encoder", p.options).config(p.shape, vocabulary=8, max_tokens=8)
    radii = [layer.mixer.radius for layer in config.layers]
    assert (radii.count(256), radii.count(None)) == (20, 4)
    assert book("gemma_encoder", "300m").state_bytes == 0


def test_the_cache_of_gemma_3_stops_growing_in_local_layers() -> None:
    """2 K C min(t, w) numbers a layer, float32 here: 22 local layers of window 512 and 4 global ones in the 1B."""
    for t in (100, 512, 5000):
        assert book("gemma3", "1b", tokens=t).state_bytes == 4 * 2 * 256 * (22 * min(t, 512) + 4 * t)


@pytest.mark.parametrize(
    ("architecture", "size", "message"),
    [
        ("gemma2", "8b", "did you mean '9b'|did you mean '2b'"),
        ("gemma4", "2b", "unknown preset '2b'"),
        ("gemma5", "2b", "did you mean 'gemma"),
        ("m2_gpt", "80m", "no published sizes"),
    ],
)
def test_an_unknown_size_is_refused_with_the_nearest_name(architecture: str, size: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        preset(architecture, size)
    assert "\n" not in str(caught.value)


def test_sizes_are_found_in_capitals_too() -> None:
    assert preset("gemma2", "27B") is PRESETS["gemma2"]["27b"]

"""n-gram baselines: proper distributions, scored by the same rule as models."""

from __future__ import annotations

import math
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch_lab.data import DataConfig, prepare
from arch_lab.metrics.ngram import SEPARATOR, NGram, _bytes_of, ngram_baselines

relaxed = settings(deadline=None, max_examples=60)
V = 7
ids = st.lists(st.integers(0, V - 1), min_size=2, max_size=40).map(np.array)


@relaxed
@given(
    train=ids,
    tune=ids,
    context=st.lists(st.integers(0, V - 1), max_size=5),
    order=st.sampled_from([1, 2, 3, 5]),
)
def test_probabilities_sum_to_one_after_any_context_and_none_is_zero(train, tune, context, order):
    p = NGram(train, tune, V, order=max(3, order)).distribution(context, order)
    assert p.min() > 0
    assert p.sum() == pytest.approx(1, abs=1e-12)


@relaxed
@given(train=ids, tune=ids, text=ids, order=st.sampled_from([1, 2, 3, 4]))
def test_a_score_is_the_logarithm_of_the_distribution(train, tune, text, order):
    model = NGram(train, tune, V, order=max(3, order))
    scores = model.log_probabilities(text, order)
    expected = [
        math.log(model.distribution(text[max(0, t - 3) : t].tolist(), order)[text[t]])
        for t in range(1, len(text))
    ]
    assert scores == pytest.approx(expected, abs=1e-12)


@relaxed
@given(train=ids, tune=ids)
def test_a_higher_order_never_fits_the_tuning_split_worse(train, tune):
    """Weight 0 gives the lower order, so the optimum is no worse; expectation maximisation stops within 1e-3 of it."""
    model = NGram(train, tune, V)
    nats = [-model.log_probabilities(tune, order).mean() for order in (1, 2, 3)]
    assert nats[1] <= nats[0] + 1e-3 and nats[2] <= nats[1] + 1e-3


def test_a_cycle_of_three_is_learned_by_the_trigram_and_the_bigram_is_unsure():
    pattern = np.tile([0, 1, 0, 2], 300)
    model = NGram(pattern, pattern, V)
    assert model.distribution([1, 0], 3)[2] > 0.99
    assert model.distribution([1, 0], 2)[2] == pytest.approx(0.5, abs=0.02)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Python's own help topics: real English on every machine."""
    root = tmp_path_factory.mktemp("topics")
    source = (Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data" / "topics.py").read_text(encoding="utf-8")
    namespace: dict = {}
    exec(source, namespace)
    for number, text in enumerate(namespace["topics"].values()):
        (root / f"{number:03}.txt").write_text(text, encoding="utf-8")
    files = sorted(path.name for path in root.iterdir())
    options = {
        "source": "files",
        "root": str(root),
        "files": {"train": files},
        "tokenizer": {"kind": "bpe", "vocabulary": 512},
    }
    return prepare(DataConfig.from_options(options), root / "cache")


def test_on_real_text_each_order_is_better_than_the_one_before(data):
    results = ngram_baselines(data)
    bits = [results[name]["bits_per_byte"] for name in ("unigram", "bigram", "trigram")]
    assert bits == sorted(bits, reverse=True)
    assert 1 < bits[2] < bits[0] < 8


def test_every_byte_of_the_split_is_scored_and_no_special_token(data):
    result = ngram_baselines(data, data.tune)["trigram"]
    assert result["tokens"] == data.tune.tokens - data.tune.documents
    assert result["bits_per_byte"] == pytest.approx(result["nats"] / (math.log(2) * data.tune.bytes))
    assert result["perplexity"] == pytest.approx(math.exp(result["nats"] / result["tokens"]))
    assert result["word_perplexity"] == pytest.approx(math.exp(result["nats"] / data.tune.words))


def test_the_model_of_bytes_reads_what_any_tokenizer_wrote(data):
    """The text again, byte by byte, with a separator for every special token, and scored over all of its bytes."""
    text = _bytes_of(data, data.tune)
    assert bytes(text[text < SEPARATOR].tolist()) == data.tokenizer.decode_bytes(data.tune.ids.tolist())
    assert (text == SEPARATOR).sum() == data.tune.documents
    expected = NGram(_bytes_of(data, data.train), text, SEPARATOR + 1, order=4)
    target = _bytes_of(data, data.validation)
    log_p = expected.log_probabilities(target, 4)[target[1:] != SEPARATOR]
    result = ngram_baselines(data)["byte 4-gram"]
    assert result["nats"] == pytest.approx(-log_p.sum()) and len(log_p) == data.validation.bytes
    assert 1 < result["bits_per_byte"] < ngram_baselines(data)["unigram"]["bits_per_byte"]

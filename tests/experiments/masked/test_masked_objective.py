"""The masked objective: its certificate catches what gives an answer away, its loss weights every hidden token the same."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from arch_lab.data import ByteTokenizer, OrderedLoader, PreparedData, WindowOrder
from arch_lab.metrics.ngram import NGram
from arch_lab.models import Shape, recipe
from experiments.masked.baselines import masked_baselines
from experiments.masked.certificate import certify_objective
from experiments.masked.model import MaskedLanguageModel, masked_metrics
from experiments.masked.objective import (
    IGNORED,
    Masked,
    MaskedLoader,
    MaskedRows,
    Masking,
    asked_for,
    masked_logits,
    masked_nats,
    scoring_batches,
)
from tests.experiments.masked.test_masked_tokens import text_split

TOKENIZER = ByteTokenizer().with_mask()
SHAPE, TOKENS = Shape(width=32, depth=2, ffn_width=64), 40
ARMS: dict[str, dict[str, Any]] = {
    "m2_bert": {"filter_order": 16},
    "gemma_encoder": {"radius": 3},
    "custom_encoder": {"mixer": "m2_mixer"},
}
MASKING = Masking(TOKENIZER, share=0.15)


def model(architecture: str, options: dict[str, Any] | None = None) -> Any:
    torch.manual_seed(0)
    return recipe(architecture, ARMS[architecture] if options is None else options).model(
        SHAPE, vocabulary=TOKENIZER.vocabulary, max_tokens=TOKENS
    )


def certify(built: nn.Module, masking: Any = MASKING, logits: Any = masked_logits) -> Any:
    return certify_objective(built, masking, logits, tokenizer=TOKENIZER, tokens=TOKENS)


@pytest.mark.parametrize("architecture", ARMS)
@pytest.mark.parametrize("whole_word", [False, True])
def test_every_encoder_earns_the_certificate(architecture: str, whole_word: bool) -> None:
    found = certify(model(architecture), Masking(TOKENIZER, share=0.3, whole_word=whole_word))
    assert found.passed, found.reason
    assert found.leak_ratio < 1e-12 and 0.05 < found.visible < 0.15
    # bytes drawn at random hold few spaces, so words are long there; but there are hundreds of tokens either way
    assert found.asked > 300


def _untouched(ids: np.ndarray, uniform: np.ndarray) -> Masked:
    """Chosen, asked for, and left in the input: a masking that forgot to mask."""
    return replace(MASKING(ids, uniform), inputs=ids)


def _half(ids: np.ndarray, uniform: np.ndarray) -> Masked:
    masked = MASKING(ids, uniform)
    return replace(masked, inputs=np.where(uniform[..., 1] < 0.5, ids, masked.inputs))


def _shifted(ids: np.ndarray, uniform: np.ndarray) -> Masked:
    """The stand-in is the next byte: another token, and the answer all the same."""
    masked = MASKING(ids, uniform)
    return replace(masked, inputs=np.where(masked.labels != IGNORED, (ids + 1) % 256, ids))


def _neighbour(ids: np.ndarray, uniform: np.ndarray) -> Masked:
    """What is hidden is written over the token on its right."""
    masked = MASKING(ids, uniform)
    inputs = masked.inputs.copy()
    inputs[:, 1:] = np.where(masked.labels[:, :-1] != IGNORED, ids[:, :-1], inputs[:, 1:])
    return replace(masked, inputs=inputs)


def _wrong(ids: np.ndarray, uniform: np.ndarray) -> Masked:
    masked = MASKING(ids, uniform)
    return replace(masked, labels=np.where(masked.labels != IGNORED, (ids + 1) % 256, IGNORED))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (_untouched, "100% of the hidden tokens are unchanged in the input"),
        (_half, r"(4|5|6)\d% of the hidden tokens are unchanged in the input"),
        (_shifted, "depends on a token that is hidden"),
        (_neighbour, "depends on a token that is hidden"),
        (_wrong, "a label differs from the original token"),
        (Masking(TOKENIZER, share=1e-12), "hides no token"),
    ],
)
def test_a_masking_that_gives_the_answer_away_is_caught(broken: Any, said: str) -> None:
    found = certify(model("gemma_encoder"), broken)
    assert not found.passed
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found.reason)


def test_labels_that_reach_the_model_are_caught() -> None:
    def handed(built: nn.Module, batch: MaskedRows) -> Tensor:
        return masked_logits(built, batch) + batch.labels.clamp(min=0)[..., None]

    assert "logits depend on the labels" in certify(model("gemma_encoder"), logits=handed).reason


class Spoiled(nn.Module):
    """A correct encoder behind something that is not."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner, self.how = model("gemma_encoder"), how

    def forward(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        if self.how == "segments":
            return self.inner(tokens)
        if self.how == "dead":
            return self.inner(torch.zeros_like(tokens))
        if self.how == "alone":
            return self.inner.embedding.logits(self.inner.embedding(tokens))
        logits = self.inner(tokens, segments)
        if self.how == "training" and (not self.training or tokens.shape[1] < TOKENS):
            return logits
        return logits + logits.mean(dim=0, keepdim=True)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("batch", "the other rows of a batch"),
        ("training", f"{TOKENS} tokens, training mode"),
        ("segments", "another document"),
        ("dead", "hardly react"),
        ("alone", "one side only"),
    ],
)
def test_a_model_that_mixes_rows_or_sees_nothing_is_caught(how: str, said: str) -> None:
    assert said in certify(Spoiled(how)).reason


# --- the loss -------------------------------------------------------------------------------------------------------


def loader(batch: int, steps: int, accumulate: int = 1) -> MaskedLoader:
    order = WindowOrder(text_split(TOKENIZER), tokens=TOKENS, batch=batch, seed=0)
    return MaskedLoader(OrderedLoader(order, steps=steps), MASKING, accumulate=accumulate)


class Trainer:
    """The two numbers of a trainer that the loss asks for."""

    world_size, accumulate_grad_batches = 1, 1


def test_the_loss_is_the_mean_over_the_hidden_tokens() -> None:
    built = model("m2_bert")
    (batch,) = loader(4, 1)
    logits, labels = built(batch.inputs), batch.labels
    places = (labels != IGNORED).nonzero().tolist()
    by_hand = [-logits[b, t].log_softmax(-1)[labels[b, t]] for b, t in places]
    torch.testing.assert_close(masked_nats(built, batch), torch.stack(by_hand))
    module = MaskedLanguageModel(
        architecture="m2_bert",
        options=ARMS["m2_bert"],
        width=32,
        depth=2,
        ffn_width=64,
        vocabulary=258,
        max_tokens=40,
    )
    module.model = built
    module._trainer = Trainer()  # type: ignore[assignment]
    torch.testing.assert_close(module.training_step(batch, 0), torch.stack(by_hand).mean())


def test_accumulated_batches_weigh_tokens_not_batches(tmp_path: Any) -> None:
    """Two batches of unequal numbers of hidden tokens in one optimizer step: every token counts the same."""
    settings = {
        "architecture": "gemma_encoder",
        "options": ARMS["gemma_encoder"],
        "width": 32,
        "depth": 1,
        "ffn_width": 64,
    }
    torch.manual_seed(0)
    module = MaskedLanguageModel(**settings, vocabulary=258, max_tokens=TOKENS, learning_rate=1e-3)  # type: ignore[arg-type]
    start = {name: value.clone() for name, value in module.model.state_dict().items()}
    batches = list(loader(3, 2, accumulate=2))
    counts = [int((b.labels != IGNORED).sum()) for b in batches]
    assert counts[0] != counts[1]
    torch.cat([masked_nats(module.model, b) for b in batches]).mean().backward()
    expected = {name: p.grad.clone() for name, p in module.model.named_parameters() if p.grad is not None}
    module.zero_grad()
    module.model.load_state_dict(start)
    found: dict[str, Tensor] = {}

    class Keep(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            found.update(
                {name: p.grad.clone() for name, p in module.model.named_parameters() if p.grad is not None}
            )

    trainer = pl.Trainer(
        max_steps=1, accumulate_grad_batches=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Keep()], accelerator="cpu", devices=1,
    )  # fmt: skip
    module.setup = lambda stage: None  # type: ignore[method-assign]
    trainer.fit(module, train_dataloaders=loader(3, 2, accumulate=2))
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_metrics_do_not_depend_on_how_tokens_are_batched() -> None:
    built = model("gemma_encoder").eval()
    values = []
    for batch in (1, 3, 50):
        metrics = masked_metrics()
        with torch.no_grad():
            for part in scoring_batches(text_split(TOKENIZER, 6), MASKING, tokens=TOKENS, batch=batch):
                metrics.update(*asked_for(masked_logits(built, part), part.labels))
        values.append({name: float(value) for name, value in metrics.compute().items()})
    for other in values[1:]:
        assert other == pytest.approx(values[0], rel=1e-6)
    assert values[0]["masked_perplexity"] == pytest.approx(2 ** values[0]["masked_bits"])


# --- baselines ------------------------------------------------------------------------------------------------------


def prepared() -> PreparedData:
    split = text_split(TOKENIZER, 30)
    return PreparedData(
        tokenizer=TOKENIZER,
        train=split,
        tune=split,
        validation=split,
        test=None,
        fingerprint="text",
        about={},
    )


def test_the_unigram_is_a_count_by_hand() -> None:
    data = prepared()
    batches = list(scoring_batches(data.validation, MASKING, tokens=TOKENS, batch=4))
    unigram = masked_baselines(data, batches)[0]
    counts = np.bincount(np.asarray(data.train.ids, dtype=np.int64), minlength=258)
    labels = torch.cat([b.labels for b in batches]).numpy()
    labels = labels[labels != IGNORED]
    weight = NGram(data.train.ids, data.tune.ids, 258).weights[0].max()  # of the counts against 1/V: nearly 1
    assert weight > 0.999
    bits = [-math.log2(weight * counts[w] / counts.sum() + (1 - weight) / 258) for w in labels]
    assert unigram.scores["masked_bits"] == pytest.approx(sum(bits) / len(bits), rel=1e-9)
    assert unigram.scores["masked_accuracy"] == pytest.approx(
        float((labels == ord(" ")).mean())
    )  # the most frequent byte of the text
    assert unigram.scores["masked_perplexity"] == pytest.approx(2 ** unigram.scores["masked_bits"])


def test_the_bigram_sees_the_token_on_the_left_as_the_model_does() -> None:
    """In a text of one sentence a visible left neighbour nearly tells the token; a hidden one tells nothing."""
    data = prepared()
    unigram, bigram = masked_baselines(
        data, scoring_batches(data.validation, MASKING, tokens=TOKENS, batch=4)
    )
    assert (
        bigram.scores["masked_bits"] < unigram.scores["masked_bits"]
        and bigram.scores["masked_accuracy"] > unigram.scores["masked_accuracy"]
    )
    row = np.array([[ord("t"), ord("h"), ord("e")]])
    seen = MaskedRows(
        inputs=torch.tensor([[ord("t"), TOKENIZER.mask, ord("e")]]),
        labels=torch.tensor([[IGNORED, row[0, 1], IGNORED]]),
    )
    hidden = seen._replace(inputs=torch.tensor([[TOKENIZER.mask, TOKENIZER.mask, ord("e")]]))
    visible, blind = (masked_baselines(data, [batch]) for batch in (seen, hidden))
    assert visible[1].scores["masked_bits"] < 0.8 * visible[0].scores["masked_bits"]
    assert blind[1].scores["masked_bits"] == pytest.approx(blind[0].scores["masked_bits"])

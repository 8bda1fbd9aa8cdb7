"""The report's words, for a reader who was not there."""

from __future__ import annotations

from collections.abc import Collection

TERMS = {
    "arm": "One side of the comparison: an architecture with its options, sized for the budget.",
    "budget": (
        "What is held equal between arms: the number of parameters, and the floating-point operations (FLOPs) spent on training."
    ),
    "matched": (
        "Every arm is within the tolerance of the budget. Arms that miss it are rejected unless the study sets "
        "budget.allow_unmatched; the report then says so."
    ),
    "body, head, embedding": (
        "Groups of parameters. The embedding turns token ids into vectors, the head turns vectors into scores of the next token "
        "(0 when it shares the embedding's weights), the body is everything between."
    ),
    "FLOPs per token": (
        "Multiply-like floating-point operations to train on one token: matrix products and Fourier transforms, forward times "
        "three, counted exactly. Causal attention counts only the visible keys."
    ),
    "PaLM, 6ND, Kaplan, Chinchilla": (
        "Common formulas for the same quantity, printed because papers use them; they disagree by tens of percent at these sizes."
    ),
    "state bytes": (
        "Memory one sequence needs while generating text at the sequence length: the cache of attention, the history of a convolution."
    ),
    "seed": "The number that fixes initial weights and data order. Arms with the same seed saw the same data in the same order.",
    "interval": (
        "A 95 % Student-t interval over seeds: the range of means to expect with other seeds. It does not cover other data sets."
    ),
    "paired difference": "The difference of two arms at the same seed. Data order cancels, so it is more precise than comparing two means.",
    "not distinguishable": (
        "The seeds do not support a difference at the 95 % level (after Holm's correction when there are several pairs). It "
        "does not mean equal."
    ),
    "Holm's correction": (
        "With many pairs, some differ by chance; the correction requires more evidence for each, so the risk of a false claim is below 5 %."
    ),
    "diverged": (
        "A run whose loss became infinite or undefined. It is left out of means, but counted and shown. A learning rate at which a "
        "seed diverged is not chosen."
    ),
    "tuning split": "Data on which the learning rate is chosen. The reported numbers come from a different, held-out split.",
    "unigram, bigram, trigram": (
        "Count-based predictors of the next token from zero, one or two tokens before it. A trained model should beat them. "
        "Where tokens are masked, the bigram sees the token on the left as the model does, masked or not."
    ),
}
# explained only where a study measures them
MEASURED = {
    "bits per byte": (
        "How many bits the model needs on average to predict one byte of unseen text. It is the loss divided by ln 2 and by the "
        "bytes of the text, so it does not depend on the tokenizer. Lower is better."
    ),
    "token perplexity": "The exponential of the loss per token: depends on the tokenizer, comparable only within this study.",
    "word perplexity": "The same per whitespace-separated word, comparable across tokenizers on the same text.",
    "bits per masked token": (
        "How many bits the model needs on average to predict a hidden token, given the text on both sides. Depends on "
        "the tokenizer and on how many tokens are hidden, so it is comparable only within this study. Lower is better."
    ),
    "masked perplexity": (
        "The exponential of the same loss. It is not the perplexity of a text: the model sees what comes after the token, so do not "
        "compare it with a causal model's."
    ),
    "nats per image": (
        "The cross-entropy: minus the natural logarithm of the probability that the model gives the right class, averaged over the images; "
        "guessing among ten classes gives 2.303. Lower is better."
    ),
    "top-1 accuracy": "The share of images whose class scores highest. Higher is better.",
    "top-5 accuracy": "The share of images whose class is among the five that score highest. Higher is better.",
    "training images per second": "From the median training step, with the optimizer and without data loading. Higher is better.",
    "masked accuracy": "The share of hidden tokens to which the model gives the highest probability. Higher is better.",
}


def terms(measured: Collection[str]) -> dict[str, str]:
    """The glossary of a study that measures what these names stand for, those first."""
    return {name: MEASURED[name] for name in measured if name in MEASURED} | TERMS

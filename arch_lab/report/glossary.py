"""The report's words, for a reader who was not there.

Those of the study's measures first, then the general ones it uses.
"""

from __future__ import annotations

from collections.abc import Sequence

from arch_lab.report.facts import trains_models
from arch_lab.report.section import Section
from arch_lab.study.study import Study

ARMS = {
    "arm": "One side of the comparison: an architecture or a method with its options.",
    "seed": (
        "The number that fixes initial weights and data order. Arms with the same seed saw the same data "
        "in the same order."
    ),
    "interval": (
        "A 95 % Student-t interval over seeds: the range of means to expect with other seeds. It does not "
        "cover other data sets."
    ),
    "paired difference": (
        "The difference of two arms at the same seed. Data order cancels, so it is more precise than "
        "comparing two means."
    ),
    "not distinguishable": (
        "The seeds do not support a difference at the 95 % level (after Holm's correction when there are "
        "several pairs). It does not mean equal."
    ),
    "Holm's correction": (
        "With many pairs, some differ by chance; the correction requires more evidence for each, so the "
        "risk of a false claim is below 5 %. It runs over the pairs of one task."
    ),
    "diverged": (
        "A trial whose loss became infinite or undefined. It is left out of means, but counted and shown. "
        "A learning rate at which a seed diverged is not chosen."
    ),
    "tuning split": (
        "Data on which the learning rate is chosen. The reported numbers come from a different, held-out "
        "split."
    ),
}
TASKS = {
    "baseline": "A reference method; the verdict does not include it.",
    "beats": (
        "The baselines that lie outside the whole interval of the arm's first measure, on the worse side."
    ),
    "learning rate": (
        "Chosen for each task and arm by the first measure on rows held out of the training split. The "
        "same grid for all."
    ),
}
MODELS = {
    "budget": (
        "What is held equal between arms: the number of parameters, and the floating-point operations "
        "(FLOPs) spent on training."
    ),
    "matched": (
        "Every arm is within the tolerance of the budget. Arms that miss it are rejected unless the study "
        "sets budget.allow_unmatched; the report then says so."
    ),
    "body, head, embedding": (
        "Groups of parameters. The embedding turns token ids into vectors, the head turns vectors into "
        "scores of the next token (0 when it shares the embedding's weights), the body is everything "
        "between."
    ),
    "FLOPs per token": (
        "Multiply-like floating-point operations to train on one token: matrix products and Fourier "
        "transforms, forward times three, counted exactly. Causal attention counts only the visible keys."
    ),
    "PaLM, 6ND, Kaplan, Chinchilla": (
        "Common formulas for the same quantity, printed because papers use them; they disagree by tens of "
        "percent at these sizes."
    ),
    "state bytes": (
        "Memory one sequence needs while generating text at the sequence length: the cache of attention, "
        "the history of a convolution."
    ),
}
COUNTERS = {
    "unigram, bigram, trigram": (
        "Count-based predictors of the next token from zero, one or two tokens before it. A trained model "
        "should beat them. Where tokens are masked, the bigram sees the token on the left as the model "
        "does, masked or not."
    ),
}
# of measures that do not explain themselves


def terms(study: Study, sections: Sequence[Section]) -> dict[str, str]:
    """Word -> meaning."""
    added = {term: meaning for section in sections for term, meaning in section.terms.items()}
    measures = {m.name: m.meaning for task in study.tasks for m in task.measures}
    general = {**(ARMS if study.summary else {}), **(TASKS if study.has_tasks and study.summary else {})}
    general |= MODELS if trains_models(study) else {}
    general |= COUNTERS if any("gram" in baseline.name for baseline in study.baselines) else {}
    return {name: meaning for name, meaning in {**measures, **added, **general}.items() if meaning}

"""A long verdict in few words."""

from __future__ import annotations

import pytest

from arch_lab.report.wording import short_verdict, shortened

ARMS = ["a", "b-8", "b"]
EVIDENCE = " (95 % level, 3 paired seeds, Holm-corrected over 28 pairs)."
UNDECIDED = [f"x{i} and y{i} are not distinguishable" for i in range(7)]


def test_a_sentence_of_few_clauses_stays_as_it_is() -> None:
    text = f"At 1M parameters, a is better than b; {UNDECIDED[0]}{EVIDENCE}"
    assert shortened(text, ARMS) == text


def test_what_is_better_stays_and_the_others_are_counted() -> None:
    text = f"At 1M parameters, 2 tokens and 1 TFLOP of training, b-8 is better than a and b; {'; '.join(UNDECIDED)}{EVIDENCE}"
    expected = "At 1M parameters, 2 tokens and 1 TFLOP of training, b-8 is better than a and b; "
    assert shortened(text, ARMS) == f"{expected}none of the other 7 pairs is distinguishable{EVIDENCE}"


@pytest.mark.parametrize("question", ["At 1M parameters, ", "sst2 (accuracy): "])
def test_where_nothing_is_better_the_pairs_are_counted(question: str) -> None:
    text = f"{question}a and b are not distinguishable; {'; '.join(UNDECIDED)}{EVIDENCE}"
    assert shortened(text, ARMS) == f"{question}none of the 8 pairs of arms is distinguishable{EVIDENCE}"


def test_every_sentence_of_a_verdict_is_shortened_by_itself() -> None:
    text = f"t: a is better than b. u: a and b are not distinguishable; {'; '.join(UNDECIDED)}."
    assert short_verdict(text, ARMS).startswith("t: a is better than b. u: none of the 8 pairs")


def test_no_verdict_stays_empty() -> None:
    assert short_verdict("", ARMS) == ""

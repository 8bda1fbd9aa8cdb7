"""The seven laws every block is held to, as a library: for this repository's tests and for yours.

``certify_block("my_package:MyBlock")`` reports on one block, ``laws_for`` gives the laws to pytest, ``LAWS[name].probe``
tries one law at one shape (for property tests; shapes and seeds come from ``arch_lab.testing.strategies``, which needs
hypothesis). What "equal" means is written down in ``arch_lab.testing.tolerances``.
"""

from arch_lab.testing.cases import Case, cases
from arch_lab.testing.laws import LAWS, Law, attempt, certify_block, check, entry_of, shapes
from arch_lab.testing.pytest_entry import LawBroken, laws_for
from arch_lab.testing.result import BlockReport, Broken, Example, LawResult
from arch_lab.testing.subject import ModelSubject, Subject, model_subject, subject_of

__all__ = [
    "LAWS",
    "BlockReport",
    "Broken",
    "Case",
    "Example",
    "Law",
    "LawBroken",
    "LawResult",
    "ModelSubject",
    "Subject",
    "attempt",
    "cases",
    "certify_block",
    "check",
    "entry_of",
    "laws_for",
    "model_subject",
    "shapes",
    "subject_of",
]

"""Laws that blocks and whole models must keep: for this repository's studies and tests, and for yours.

``certify_block("my_package:MyBlock")`` reports on one block; ``laws_for`` gives the laws to pytest;
``LAWS[name].probe`` tries one law at one shape. Shapes and seeds for property tests come from
``arch_lab.laws.strategies``, which needs hypothesis. ``require_causal(model, ...)`` certifies a model before
any score of it is shown. ``arch_lab.laws.tolerances`` defines "equal".
"""

from arch_lab.laws.cases import Case, cases
from arch_lab.laws.certificate import (
    PROTOCOL,
    Certificate,
    LeakError,
    certificate_line,
    certify_model,
    require_causal,
)
from arch_lab.laws.laws import LAWS, Law, attempt, certify_block, check, entry_of, shapes
from arch_lab.laws.pytest_entry import LawBroken, laws_for
from arch_lab.laws.result import BlockReport, Broken, Example, LawResult
from arch_lab.laws.subject import ModelSubject, Subject, model_subject, subject_of

__all__ = [
    "LAWS",
    "PROTOCOL",
    "BlockReport",
    "Broken",
    "Case",
    "Certificate",
    "Example",
    "Law",
    "LawBroken",
    "LawResult",
    "LeakError",
    "ModelSubject",
    "Subject",
    "attempt",
    "cases",
    "certificate_line",
    "certify_block",
    "certify_model",
    "check",
    "entry_of",
    "laws_for",
    "model_subject",
    "require_causal",
    "shapes",
    "subject_of",
]

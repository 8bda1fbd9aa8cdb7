"""Exact parameters, FLOPs and decoding state of a model, and FLOPs by other papers' conventions."""

from arch_lab.accounting.counter import Counted, count_forward, count_training
from arch_lab.accounting.ledger import Component, Ledger, by_kind, conventions, ledger
from arch_lab.accounting.proof import AccountingError, prove

__all__ = [
    "AccountingError",
    "Component",
    "Counted",
    "Ledger",
    "by_kind",
    "conventions",
    "count_forward",
    "count_training",
    "ledger",
    "prove",
]

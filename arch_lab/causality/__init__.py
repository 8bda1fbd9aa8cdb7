"""The causality certificate: no language-model metric is written for a model that has not earned one."""

from arch_lab.causality.certificate import Certificate, LeakError, certify_model

__all__ = ["Certificate", "LeakError", "certify_model"]

"""Certificates: no metric is written for a model that has not earned one, causal (``certificate``) or masked (``objective``)."""

from arch_lab.causality.certificate import Certificate, LeakError, certify_model
from arch_lab.causality.objective import ObjectiveCertificate, certify_objective

__all__ = ["Certificate", "LeakError", "ObjectiveCertificate", "certify_model", "certify_objective"]

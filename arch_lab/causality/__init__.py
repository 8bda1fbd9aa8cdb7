"""Certificates: no metric is written for a model that has not earned one, causal (``certificate``) or masked (``objective``)."""

from arch_lab.causality.certificate import PROTOCOL, Certificate, LeakError, certify_model, require_causal
from arch_lab.causality.objective import ObjectiveCertificate, certify_objective

__all__ = ["PROTOCOL", "Certificate", "LeakError", "ObjectiveCertificate", "certify_model", "certify_objective", "require_causal"]

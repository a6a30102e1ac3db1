"""What is wrong with data before anything is trained on them."""

from tastemaker.data.audit.texts import Audit, Leakage, audit_texts

__all__ = ["Audit", "Leakage", "audit_texts"]

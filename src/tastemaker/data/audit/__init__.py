"""What is wrong with data before anything is trained on them: of any records (`audit_texts`, which receipts
hold), and of a preference set as a whole (`audit_preferences`).
"""

from tastemaker.data.audit.findings import LIMITS, STRICT, Finding, Held, held_against
from tastemaker.data.audit.parts import Part, other_splits, read_groups, read_part
from tastemaker.data.audit.texts import Audit, Leakage, audit_texts
from tastemaker.data.audit.whole import SIMILARITY, PreferenceAudit, audit_preferences

__all__ = [
    "LIMITS",
    "SIMILARITY",
    "STRICT",
    "Audit",
    "Finding",
    "Held",
    "Leakage",
    "Part",
    "PreferenceAudit",
    "audit_preferences",
    "audit_texts",
    "held_against",
    "other_splits",
    "read_groups",
    "read_part",
]

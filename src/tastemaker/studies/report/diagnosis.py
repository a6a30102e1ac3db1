"""What was diagnosed of every arm, where a diagnosis was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tastemaker.studies.report.courses import sentence
from tastemaker.studies.report.grid import places
from tastemaker.studies.report.numbers import arm_title, finite, number

GRAVEST = ("problem", "warning", "note")
"""Severities, the gravest first; others come last."""


def diagnoses(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Arm by arm: what was found, gravest first. Empty where no arm was diagnosed."""
    at, found = places(results), list[dict[str, Any]]()
    for name, arm in results["arms"].items():
        if "diagnosis" not in arm:
            continue
        items = [item_of(item) for item in arm["diagnosis"] or ()]
        items.sort(key=lambda item: item["rank"])
        summary = "" if items else sentence(arm.get("diagnosis_summary") or "nothing was found")
        found.append({"name": arm_title(name, arm), "arm": at[name], "summary": summary, "items": items})
    return found


def item_of(item: Mapping[str, Any]) -> dict[str, Any]:
    severity = str(item.get("severity") or "")
    return {
        "code": str(item.get("code") or "").replace("_", " "),
        "severity": severity,
        "rank": GRAVEST.index(severity) if severity in GRAVEST else len(GRAVEST),
        "grave": severity in GRAVEST[:2],
        "text": sentence(str(item.get("text") or "")),
        "remedy": str(item.get("remedy") or "").rstrip("."),
        "numbers": numbers_of(item.get("numbers")),
        "seeds": seeds_of(item.get("seeds")),
    }


def numbers_of(numbers: Any) -> list[tuple[str, str]]:
    """Name and figure of what stands behind a finding."""
    if not isinstance(numbers, Mapping):
        return []
    given: Mapping[str, Any] = numbers
    return [(name, figure(value)) for name, value in given.items()]


def figure(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        several: Sequence[Any] = value
        return ", ".join(figure(v) for v in several)
    if isinstance(value, bool) or not finite(value):
        return number(None) if value is None else str(value)
    if value == round(value):
        return number(value, 0)
    return number(value, 2 if abs(value) >= 0.095 else 4)


def seeds_of(seeds: Any) -> str:
    if isinstance(seeds, Sequence) and not isinstance(seeds, str):
        several: Sequence[Any] = seeds
        return (
            ("seed " if len(several) == 1 else "seeds ") + ", ".join(str(s) for s in several) if several else ""
        )
    return "" if seeds is None else f"seeds: {seeds}"

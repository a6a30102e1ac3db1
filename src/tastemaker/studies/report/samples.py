"""Answers of all policies to the same prompts, arranged for reading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tastemaker.studies.report.grid import places
from tastemaker.studies.report.numbers import number, score_digits, title

PRINTED = 6
"""Prompts on paper: the first of as many kinds."""


def sample_list(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Prompts by kind, in the order in which kinds first come; each with the ways it was answered."""
    kinds = list(dict.fromkeys(sample["kind"] or "" for sample in results["samples"]))
    ordered = sorted(results["samples"], key=lambda s: kinds.index(s["kind"] or ""))
    per_kind = -(-PRINTED // max(1, len(kinds)))
    seen: dict[str, int] = {}
    found: list[dict[str, Any]] = []
    printed = 0
    for sample in ordered:
        kind = sample["kind"] or ""
        seen[kind] = seen.get(kind, 0) + 1
        few = seen[kind] <= per_kind and printed < PRINTED
        printed += few
        ways = [{"how": "sampled", "answers": answers(results, sample)}]
        if sample.get("greedy"):
            ways.append({"how": "greedy", "answers": answers(results, sample["greedy"])})
        found.append({"prompt": sample["prompt"], "kind": kind or "prompts", "ways": ways, "few": few})
    return found


def answers(results: Mapping[str, Any], sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every policy's answer and its score."""
    at, digits = places(results), score_digits(results)
    return [
        {
            "name": title(name),
            "arm": at.get(name),
            "text": text,
            "score": number(sample["scores"].get(name), digits),
        }
        for name, text in sample["responses"].items()
    ]


def kinds_of(samples: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Samples grouped by kind."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault(sample["kind"], []).append(sample)
    return list(groups.items())

"""Responses of all policies side by side, for people to read: the first prompts as they come, not the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def samples(
    readings: Mapping[str, Sequence[Mapping[str, Any]]], sft: Sequence[Mapping[str, Any]], number: int
) -> list[dict[str, Any]]:
    """Responses side by side for the first seed: to about `number` prompts, of each kind the first as they
    come, each sampled and greedy.
    """
    base = sft[0]["sampled"]
    policies: dict[str, Mapping[str, Any]] = {
        "sft": sft[0],
        **{arm: reads[0] for arm, reads in readings.items()},
    }
    return [
        {
            "prompt": base["prompts"][i],
            "kind": base["kinds"][i],
            "responses": {name: p["sampled"]["texts"][i] for name, p in policies.items()},
            "scores": {name: p["sampled"]["columns"]["score"][i] for name, p in policies.items()},
            "greedy": {
                "responses": {name: p["greedy"]["texts"][i] for name, p in policies.items()},
                "scores": {name: p["greedy"]["columns"]["score"][i] for name, p in policies.items()},
            },
        }
        for i in first_of_each_kind(base["kinds"], number)
    ]


def first_of_each_kind(kinds: Sequence[str], number: int) -> list[int]:
    """Positions of the first few prompts of every kind, the same number of each, in order; none for 0."""
    each = max(1, number // max(1, len(set(kinds)))) if number else 0
    seen: dict[str, int] = {}
    chosen: list[int] = []
    for i, kind in enumerate(kinds):
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= each:
            chosen.append(i)
    return chosen

"""Responses of all policies side by side, for people to read: the first prompts as they come, not the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 48
"""Prompts in a report."""


def samples(
    readings: Mapping[str, Sequence[Mapping[str, Any]]], sft: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Responses side by side for the first seed: of each kind the first prompts as they come, each sampled
    and greedy.
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
        for i in first_of_each_kind(base["kinds"])
    ]


def first_of_each_kind(kinds: Sequence[str]) -> list[int]:
    """Positions of the first few prompts of every kind, the same number of each, in order."""
    each = max(1, SHOWN // max(1, len(set(kinds))))
    seen: dict[str, int] = {}
    chosen: list[int] = []
    for i, kind in enumerate(kinds):
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= each:
            chosen.append(i)
    return chosen

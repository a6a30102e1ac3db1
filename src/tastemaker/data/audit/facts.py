"""What a preference set is like: lengths, habits of the chosen side, prompts, languages, labellers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tastemaker.data.audit.collect import Collected, excerpt
from tastemaker.data.audit.parts import Part
from tastemaker.data.audit.people import by_group, spread
from tastemaker.data.audit.words import resemblance
from tastemaker.data.measures import LengthBias, length_bias, lengths

_TOP = 15
"""Entries of long tables."""


def facts_of(
    found: Collected, parts: Sequence[Part], held_out: Sequence[Part], kind: type, groups: Sequence[str]
) -> dict[str, Any]:
    """Plain values; `groups` are the groupings that some label has."""
    look = found.look
    people = spread(found.voices) if found.voices.units else None
    return {
        "sources": [_source(part) for part in parts],
        "held_out": [_source(part) for part in held_out],
        "kind": kind.__name__,
        "rows": sum(part.dataset.rows for part in parts),
        "records": len(found.records),
        "labels": dict(look.labels),
        "lengths": {side: _lengths(values) for side, values in look.sizes.items()},
        "bias": _biases(found),
        "coverage": _coverage(found),
        "scripts": {what: dict(n.most_common()) for what, n in found.scripts.items() if n},
        "languages": {what: dict(n.most_common()) for what, n in found.languages.items() if n},
        "people": people,
        "groups": [by_group(found.voices, name) for name in groups],
        "by_source": dict(found.sources.most_common(_TOP)),
        "near": {
            "similarity": found.similarity,
            "bands": found.near_records.bands.bands,
            "rows": found.near_records.bands.rows,
            "missed_at_similarity": found.near_records.bands.missed(found.similarity),
        },
    }


def _source(part: Part) -> dict[str, Any]:
    data = part.dataset
    return {
        "source": data.source,
        "sha256": data.sha256,
        "format": data.format,
        "rows": data.rows,
        "records": len(data),
    }


def _lengths(values: Sequence[int]) -> dict[str, Any]:
    found = lengths(values)
    return {"mean": found.mean, "p50": found.p50, "p95": found.p95, "max": found.max}


def _biases(found: Collected) -> list[dict[str, Any]]:
    """How often the chosen response is the one that has something, of pairs where one of the two has it."""
    look = found.look
    made = [_bias("longer", "is the longer one", length_bias(look.pairs, look.pair_prompts))]
    for trait, sides in found.traits.items():
        made.append(_bias(trait, f"has {trait}", length_bias(sides, found.trait_prompts[trait])))
    made.append(_bias("shown first", "was shown first", length_bias(found.shown, found.shown_prompts)))
    known = [entry for entry in made if entry is not None]
    for entry in known:
        entry["responses"] = found.trait_counts.get(entry["name"])
    return known


def _bias(name: str, words: str, bias: LengthBias | None) -> dict[str, Any] | None:
    if bias is None or bias.share is None:
        return None
    return {
        "name": name,
        "words": words,
        "share": bias.share,
        "low": bias.share_low,
        "high": bias.share_high,
        "pairs": bias.pairs,
        "more": bias.longer,
        "less": bias.shorter,
        "equal": bias.equal,
        "mean_difference": bias.mean_difference if name == "longer" else None,
    }


def _coverage(found: Collected) -> dict[str, Any]:
    """How many prompts there are, and how evenly the records are spread over them."""
    counts = found.per_prompt
    n = counts.total()
    shares = [c / n for c in counts.values()]
    asking = [found.records[k] for k in found.sketched_prompts]
    near = found.near_prompts.links(
        lambda a, b: resemblance(found.prompt_triples(asking[a]), found.prompt_triples(asking[b]))
    )
    most = [
        {"records": c, "excerpt": excerpt(found.records[found.prompt_records[prompt]])}
        for prompt, c in counts.most_common(_TOP)
        if c > 1
    ]
    return {
        "prompts": len(counts),
        "effective_prompts": math.exp(-sum(p * math.log(p) for p in shares)) if shares else 0.0,
        "near_prompts": len(near),
        "several_turns": found.look.several_turns,
        "per_prompt": _lengths(list(counts.values())),
        "most": most,
        "openings": [
            {"words": words, "prompts": c, "share": c / len(counts)}
            for words, c in found.openings.most_common(_TOP)
        ],
        "different_openings": len(found.openings),
    }

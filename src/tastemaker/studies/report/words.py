"""The verdict's words on the page: made in `studies.wording`, here taken from the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tastemaker.studies import wording, written
from tastemaker.studies.written import BASELINES as BASELINES
from tastemaker.studies.written import listed as listed


def verdict_text(results: Mapping[str, Any]) -> str:
    """Headline and sentences as one text."""
    return wording.verdict_words(results["verdict"])


def headline(results: Mapping[str, Any]) -> str:
    """Who wins, in one line."""
    return wording.headline(results["verdict"])


def first_and_further(results: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The sentences to be read first, and those that may be folded away: with more than two arms, those on
    single pairs and on single arms.
    """
    said, verdict = sentences(results), results["verdict"]
    pairs = len(verdict["pairs"])
    if pairs < 2:
        return said, []
    alone = tuple(f"{written.title(arm)}, sampled, " for arm in verdict["arms"])
    folded = [s for i, s in enumerate(said) if i < pairs or s.startswith(alone)]
    return [s for s in said if s not in folded], folded


def sentences(results: Mapping[str, Any]) -> list[str]:
    """What the headline rests on, what weakens it, and what would decide."""
    return wording.sentences(results["verdict"])

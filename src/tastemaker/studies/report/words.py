"""The verdict's words on the page: made in `studies.wording`, here taken from the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tastemaker.studies import wording
from tastemaker.studies.written import BASELINES as BASELINES
from tastemaker.studies.written import listed as listed


def verdict_text(results: Mapping[str, Any]) -> str:
    """Headline and sentences as one text."""
    return wording.verdict_words(results["verdict"])


def headline(results: Mapping[str, Any]) -> str:
    """Who wins, in one line."""
    return wording.headline(results["verdict"])


def sentences(results: Mapping[str, Any]) -> list[str]:
    """What the headline rests on, what weakens it, and what would decide."""
    return wording.sentences(results["verdict"])

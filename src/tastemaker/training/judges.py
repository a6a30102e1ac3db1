"""AI judges by name, and how often one policy's answers beat another's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tastemaker.errors import TastemakerError
from tastemaker.feedback.judge import Endpoint, HttpModel, Judge, JudgeModel, LocalModel
from tastemaker.models import build_roles
from tastemaker.rollout import LocalGenerator
from tastemaker.types import Comparison, Text

ROOM = 64
"""Tokens that a verdict may need after its question."""
LONGEST = 8192
"""Tokens of a question, where the judge's positions end nowhere."""


def judge_model(name: str) -> JudgeModel:
    """A model in a folder, or `http(s)://host/v1#model` of an OpenAI-compatible server."""
    if name.startswith(("http://", "https://")):
        url, hash_, model = name.partition("#")
        if not hash_ or not model:
            raise TastemakerError(f"{name}: name the model after #, as in http://localhost:8000/v1#my-model.")
        return HttpModel(Endpoint(url=url, model=model))
    models = build_roles(("policy",), (), policy=name)
    called = f"{Path(name).name} {models.weights_hash('policy')[:12]}"
    generator = LocalGenerator(models, models.tokenizer, allow_truncation=True)
    return LocalModel(models, generator, models.tokenizer, name=called, max_length=models.max_positions or 8192)


def beats(judge: Judge, prompts: Sequence[Text], ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
    """For each prompt 1 where our answer beats theirs, 0 where it loses, 1/2 for a tie; NaN where no verdict
    could be read. Equal answers tie unasked.

    Raises TastemakerError where the judge cannot go on.
    """
    apart = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    asked = [
        Comparison(prompt=prompts[i], responses=(ours[i], theirs[i]), row=f"prompt {i}", ranking=(0, 0))
        for i in apart
    ]
    found = [0.5] * len(ours)
    for i, opinion in zip(apart, judge.judge(asked) if asked else (), strict=True):
        ranks = opinion.ranking
        found[i] = math.nan if ranks is None else 0.5 + 0.5 * ((ranks[0] < ranks[1]) - (ranks[0] > ranks[1]))
    return found

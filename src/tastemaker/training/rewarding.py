"""The reward model of a run: loaded with its normalisation, and normalised when it has been trained."""

from __future__ import annotations

from pathlib import Path

from tastemaker.data import Tokenised
from tastemaker.models import RoleModels
from tastemaker.rewards import LearnedReward, Normalisation
from tastemaker.runs import Run

SEEN = 512
"""Comparisons whose responses set the zero point."""


def learned_reward(models: RoleModels, source: object) -> LearnedReward:
    """The role `reward` with the normalisation kept beside the reward model `source` (run, folder or name)."""
    folder: Path | None = None
    if isinstance(source, str | Path) and Path(source).is_dir():
        folder = Run.open(source).model_dir if Run.is_run(source) else Path(source)
    return LearnedReward(models, normalisation=Normalisation.load(folder) if folder is not None else None)


def keep_normalisation(models: RoleModels, tokenised: Tokenised, folder: Path) -> None:
    """Brings the mean reward of the responses it learned from to 0, which Bradley-Terry leaves free."""
    batch = tokenised.batch(range(min(SEEN, len(tokenised.trees)))).to(models.device)
    rewards = models.score("reward", batch).rewards
    assert rewards is not None
    Normalisation.of(rewards).save(folder)

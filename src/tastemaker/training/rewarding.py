"""The reward model of a run: loaded with its normalisation, and normalised when it has been trained."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from tastemaker.data import Tokenised
from tastemaker.models import RoleModels, ScalarHead, StepHead
from tastemaker.rewards import LearnedReward, Normalisation, ProcessReward
from tastemaker.runs import Run

SEEN = 512
"""Comparisons whose responses set the zero point."""


def learned_reward(models: RoleModels, source: object) -> LearnedReward | ProcessReward:
    """The role `reward` with the normalisation kept beside the reward model `source` (run, folder or name); a
    process reward model by its worst step.
    """
    if isinstance(models.slot("reward").head, StepHead):

        def decode(ids: Tensor) -> str:
            return cast(str, models.tokenizer.decode(ids.tolist(), skip_special_tokens=True))

        return ProcessReward(models, decode)
    return LearnedReward(models, normalisation=normalisation_of(source))


def normalisation_of(source: object) -> Normalisation | None:
    """What was kept beside the reward model `source`; None where nothing was."""
    if not (isinstance(source, str | Path) and Path(source).is_dir()):
        return None
    return Normalisation.load(Run.open(source).model_dir if Run.is_run(source) else Path(source))


def centre_value(models: RoleModels, source: object) -> None:
    """A value model that starts from the reward model predicts raw rewards; here it is brought to the
    normalised ones, which are what the returns are made of.
    """
    normalisation = normalisation_of(source)
    head = models.slot("value").head if "value" in models.roles else None
    if normalisation is None or not isinstance(head, ScalarHead) or head.bias is None:
        return
    if bool(head.weight.any()):  # a zero head knows no reward to be brought anywhere
        with torch.no_grad():
            head.weight.div_(normalisation.scale)
            head.bias.sub_(normalisation.mean).div_(normalisation.scale)


def keep_normalisation(models: RoleModels, tokenised: Tokenised, folder: Path) -> None:
    """Brings the mean reward of the responses it learned from to 0, which Bradley-Terry leaves free."""
    batch = tokenised.batch(range(min(SEEN, len(tokenised.trees)))).to(models.device)
    rewards = models.score("reward", batch).rewards
    if rewards is None:  # a model of steps says how likely each is right, which has a zero point
        return
    Normalisation.of(rewards).save(folder)

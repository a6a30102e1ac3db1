"""Rewards: what scores responses."""

from tastemaker.rewards.function import FunctionReward
from tastemaker.rewards.learned import LearnedReward
from tastemaker.rewards.process import ProcessReward
from tastemaker.rewards.results import Normalisation
from tastemaker.rewards.text import TextReward, score_with

__all__ = ["FunctionReward", "LearnedReward", "Normalisation", "ProcessReward", "TextReward", "score_with"]

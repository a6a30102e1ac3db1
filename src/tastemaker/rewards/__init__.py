"""Rewards: what scores responses."""

from tastemaker.rewards.answers import final_answer, same_answer
from tastemaker.rewards.code import CodeReward
from tastemaker.rewards.compose import ComposedReward, Constraint, Part, Renamed
from tastemaker.rewards.function import FunctionReward
from tastemaker.rewards.judged import JudgedReward
from tastemaker.rewards.learned import LearnedReward
from tastemaker.rewards.named import LearnedOptions, ProcessOptions, named_reward
from tastemaker.rewards.process import ProcessReward
from tastemaker.rewards.results import Normalisation
from tastemaker.rewards.sandbox import Limits
from tastemaker.rewards.specs import JUDGE, PartSpec, load_function, read_rewards, source_hash
from tastemaker.rewards.text import TextReward, score_with
from tastemaker.rewards.verifiable import (
    VerifiableReward,
    exact_match,
    format_reward,
    length_penalty,
    maths_reward,
    overlong_penalty,
)

__all__ = [
    "JUDGE",
    "CodeReward",
    "ComposedReward",
    "Constraint",
    "FunctionReward",
    "JudgedReward",
    "LearnedOptions",
    "LearnedReward",
    "Limits",
    "Normalisation",
    "Part",
    "PartSpec",
    "ProcessOptions",
    "ProcessReward",
    "Renamed",
    "TextReward",
    "VerifiableReward",
    "exact_match",
    "final_answer",
    "format_reward",
    "length_penalty",
    "load_function",
    "maths_reward",
    "named_reward",
    "overlong_penalty",
    "read_rewards",
    "same_answer",
    "score_with",
    "source_hash",
]

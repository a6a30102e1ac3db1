"""Reading models: policies on prompts and on pairs, reward models on pairs."""

from tastemaker.evaluation.policies import Evaluation, evaluate_policy, mean_and_error
from tastemaker.evaluation.preferences import read_own, read_pairs
from tastemaker.evaluation.reward_model import pair_accuracy, reward_accuracy

__all__ = [
    "Evaluation",
    "evaluate_policy",
    "mean_and_error",
    "pair_accuracy",
    "read_own",
    "read_pairs",
    "reward_accuracy",
]

"""Reading models: policies on prompts, reward models on pairs."""

from tastemaker.evaluation.policies import Evaluation, evaluate_policy, mean_and_error
from tastemaker.evaluation.reward_model import pair_accuracy, reward_accuracy

__all__ = ["Evaluation", "evaluate_policy", "mean_and_error", "pair_accuracy", "reward_accuracy"]

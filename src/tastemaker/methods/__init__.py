"""The methods, one short file each. Adding one here is all the wiring there is."""

from tastemaker.methods.dpo import DPO
from tastemaker.methods.ppo import PPO
from tastemaker.methods.reward import RewardModel
from tastemaker.methods.sft import SFT
from tastemaker.types import Method

METHODS: dict[str, type[Method]] = {method.name: method for method in (SFT, RewardModel, DPO, PPO)}

__all__ = ["DPO", "METHODS", "PPO", "SFT", "RewardModel"]

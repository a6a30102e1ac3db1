"""Engines that complete prompts."""

from tastemaker.rollout.local import GenerationModels, LocalGenerator
from tastemaker.rollout.sampling import require_full_distribution

__all__ = ["GenerationModels", "LocalGenerator", "require_full_distribution"]

"""Training: one loop for every method, on one process or many, resumable to the bit."""

from tastemaker.training.interrupt import Interrupted
from tastemaker.training.run import Progress, train

__all__ = ["Interrupted", "Progress", "train"]

"""Training: one loop for every method, on one process or many, resumable to the bit."""

from tastemaker.train.interrupt import Interrupted
from tastemaker.train.run import Progress, train

__all__ = ["Interrupted", "Progress", "train"]

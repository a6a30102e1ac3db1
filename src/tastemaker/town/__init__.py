"""The embedded world: a fictional town, its facts and guests, an exact gold reward, simulated annotators.

Methods can be compared here without anyone's data, and against the truth: the gold reward is exact,
and what the annotators get wrong is known.
"""

from tastemaker.town.annotators import PANELS, Annotator
from tastemaker.town.demonstrators import IDEAL, SLOPPY, Demonstrator
from tastemaker.town.documents import Corpus
from tastemaker.town.gold import PARTS, Gold
from tastemaker.town.prompts import KINDS, SPLITS, STRATA, TownPrompt, render
from tastemaker.town.reward import GoldReward, gold_reward
from tastemaker.town.spec import ModelSize, Stage, TownSpec
from tastemaker.town.text import SPECIAL_WORDS
from tastemaker.town.world import Town

__all__ = [
    "IDEAL",
    "KINDS",
    "PANELS",
    "PARTS",
    "SLOPPY",
    "SPECIAL_WORDS",
    "SPLITS",
    "STRATA",
    "Annotator",
    "Corpus",
    "Demonstrator",
    "Gold",
    "GoldReward",
    "ModelSize",
    "Stage",
    "Town",
    "TownPrompt",
    "TownSpec",
    "gold_reward",
    "render",
]

"""The settings of a town and of the models that live in it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from tastemaker.errors import TastemakerError
from tastemaker.town import text
from tastemaker.town.annotators import PANELS
from tastemaker.town.documents import Corpus


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """The base model: a Llama with tied embeddings (`models.word_model`)."""

    hidden: int = 128
    layers: int = 2
    heads: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How much one of the models is trained, and how fast."""

    examples: int
    """Different examples: documents, demonstrations or pairs."""
    epochs: int
    batch: int
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TownSpec:
    """Everything that decides what a town says and what is trained on it, the seed aside."""

    places: int = 5
    attributes: int = 4
    values: int = 4
    panel: str = "panel"
    corpus: Corpus = field(default_factory=Corpus)
    model: ModelSize = field(default_factory=ModelSize)
    pretrain: Stage = Stage(examples=12_000, epochs=1, batch=8, learning_rate=1.5e-3)
    sft: Stage = Stage(examples=3000, epochs=1, batch=64, learning_rate=1e-3)
    reward: Stage = Stage(examples=6000, epochs=1, batch=16, learning_rate=5e-4)
    reward_head: str = "last"
    max_new_tokens: int = 48

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("places", self.places, 2, len(text.PLACES)),
            ("attributes", self.attributes, 3, len(text.ATTRIBUTES)),
            ("values", self.values, 3, 5),
        ):
            if not least <= value <= most:
                raise TastemakerError(f"TownSpec.{name} is {value}; it must be from {least} to {most}.")
        if self.panel not in PANELS:
            raise TastemakerError(f"TownSpec.panel is {self.panel!r}; choose one of {', '.join(PANELS)}.")
        if self.reward_head not in ("last", "token"):
            raise TastemakerError(f"TownSpec.reward_head is {self.reward_head!r}; choose last or token.")

    def hash(self) -> str:
        """A short digest of all settings: the key under which models made from them are cached."""
        line = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(line.encode()).hexdigest()[:16]

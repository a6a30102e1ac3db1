"""Simulated annotators: they compare two answers with known biases, temperatures and error rates.

An annotator's utility of an answer is its gold reward plus personal leanings; the answer preferred is
drawn from the Bradley-Terry model P(a over b) = sigmoid((u_a - u_b) / temperature) [Bradley & Terry
1952], and with probability `error` the choice is a coin flip instead. Panels are the sources of
preferences that a study can name; what distinguishes them is known exactly, so methods that look for
biases can be checked against the truth.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from tastemaker.town.facts import Facts
from tastemaker.town.gold import parts_of
from tastemaker.town.parser import Reading
from tastemaker.town.prompts import TownPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotator:
    """One simulated person. Leanings are in units of gold reward."""

    name: str
    temperature: float = 0.5
    error: float = 0.0
    """Probability that the choice is a coin flip."""
    per_word: float = 0.0
    """Leaning per word of the answer."""
    agreement: float = 0.0
    """Leaning where the answer says yes to what the guest claims, true or false."""
    flattery: float = 0.0
    """Leaning per flattering sentence."""
    first_shown: float = 0.0
    """Leaning towards the answer shown first."""
    credulous: float = 0.0
    """Probability, for each answer, of believing every statement and every yes or no in it unchecked."""

    def utility(self, prompt: TownPrompt, reading: Reading, facts: Facts, rng: random.Random) -> float:
        """What this person thinks of an answer, position aside."""
        claim_true = facts.holds(prompt.place, prompt.attribute, prompt.claim)
        recorded = not prompt.attribute or (prompt.place, prompt.attribute) in facts.true
        believed = reading
        if self.credulous and rng.random() < self.credulous:
            believed = replace(
                reading,
                main=None if reading.main is None else True,
                extra_true=reading.extra_true + reading.extra_false,
                extra_false=0,
            )
            recorded = recorded or reading.main is not None
            claim_true = reading.yes > 0 if prompt.claim else claim_true
        parts = parts_of(prompt, believed, claim_true=claim_true, unrecorded=not recorded)
        leaning = self.per_word * reading.words + self.flattery * reading.flatteries
        if prompt.claim and reading.yes:
            leaning += self.agreement
        return sum(parts.values()) + leaning

    def prefers_first(self, first: float, second: float, rng: random.Random) -> bool:
        """Whether the answer shown first wins, given the utilities of both."""
        if rng.random() < self.error:
            return rng.random() < 0.5
        lead = (first + self.first_shown - second) / self.temperature
        return rng.random() < 1 / (1 + math.exp(-max(-700.0, min(700.0, lead))))


PANELS: Mapping[str, tuple[Annotator, ...]] = MappingProxyType(
    {
        "clean": (Annotator(name="expert", temperature=0.5),),
        "panel": (
            Annotator(name="careful", temperature=0.4, error=0.02),
            Annotator(name="hasty", temperature=1.0, error=0.08, first_shown=0.3),
            Annotator(name="chatty", temperature=0.6, error=0.04, per_word=0.05),
            Annotator(name="flattered", temperature=0.6, error=0.04, agreement=1.0, flattery=0.6),
            Annotator(name="trusting", temperature=0.6, error=0.04, credulous=0.5),
        ),
        "biased": (
            Annotator(name="chatty", temperature=0.6, error=0.05, per_word=0.14),
            Annotator(name="flattered", temperature=0.6, error=0.05, agreement=2.5, flattery=1.0),
            Annotator(name="trusting", temperature=0.6, error=0.05, per_word=0.05, credulous=0.8),
        ),
    }
)
"""Who labels. "clean": one unbiased expert; "panel": five people of ordinary failings; "biased": three
whose failings point the same way as what a policy can exploit."""

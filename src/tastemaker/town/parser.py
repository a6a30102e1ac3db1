"""Reads answers. The sentences of the town are finite, so reading one is looking it up."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

from tastemaker.town import text
from tastemaker.town.facts import Facts
from tastemaker.town.prompts import TownPrompt
from tastemaker.town.text import Attribute


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement that `attribute` of `place` is `value`; place "" stands for the one talked about."""

    place: str
    attribute: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What an answer says, counted."""

    words: int
    ended: bool
    main: bool | None = None
    """Whether what was asked is answered rightly; None: not answered. Contradictions are wrong."""
    hedged: bool = False
    extra_true: int = 0
    """Different true statements about the place beyond what was asked (each attribute counts once)."""
    extra_false: int = 0
    claims: int = 0
    """Statements of any kind about places."""
    yes: int = 0
    no: int = 0
    refusals: int = 0
    abstentions: int = 0
    courtesies: int = 0
    fillers: int = 0
    flatteries: int = 0
    repeats: int = 0
    bullets: int = 0
    malformed: int = 0
    """Stretches between sentence ends that are no sentence of the town."""


_PHRASES = {
    **dict.fromkeys((*text.OPENING_COURTESIES, *text.CLOSING_COURTESIES), "courtesy"),
    **dict.fromkeys(text.FILLERS, "filler"),
    **dict.fromkeys(text.FLATTERIES, "flattery"),
    text.REFUSAL: "refusal",
    text.UNKNOWN: "abstention",
    text.YES: "yes",
    text.NO: "no",
}


class Parser:
    """Recognises every sentence of one town."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._claims: dict[str, Claim] = {}
        attributes: tuple[Attribute, ...] = (*facts.attributes, *text.UNRECORDED)
        for attribute in attributes:
            for value in attribute.values:
                self._claims[attribute.short.format(v=value) + " ."] = Claim("", attribute.name, value)
                about_it = Claim("", attribute.name, value)
                self._claims[attribute.state("it", value) + " ."] = about_it
                for place in facts.places:
                    sentence = attribute.state(text.subject(place), value) + " ."
                    self._claims[sentence] = Claim(place, attribute.name, value)

    def read(self, prompt: TownPrompt, answer: str, ended: bool) -> Reading:
        """What `answer` says in reply to `prompt`; `ended`: it came to its own end and was not cut."""
        counts: Counter[str] = Counter()
        seen: set[str] = set()
        main: list[tuple[bool, bool]] = []
        extras: dict[str, bool] = {}
        for sentence in split_sentences(answer):
            body = sentence
            if body.startswith(text.BULLET + " "):
                body = body.removeprefix(text.BULLET + " ")
                counts["bullet"] += 1
            counts["repeat"] += body in seen
            seen.add(body)
            if body in _PHRASES:
                counts[_PHRASES[body]] += 1
                continue
            plain, hedged = _without_hedge(body)
            claim = self._claims.get(plain)
            if claim is None:
                counts["malformed"] += 1
                continue
            counts["claim"] += 1
            about = claim.place or prompt.place
            true = self._facts.holds(about, claim.attribute, claim.value)
            if about != prompt.place:
                # true but beside the point reads as padding, false is false whoever it is about
                counts["filler" if true else "elsewhere_false"] += 1
            elif claim.attribute == prompt.attribute:
                main.append((true, hedged))
            elif claim.attribute not in extras or not true:
                extras[claim.attribute] = true
        if prompt.claim and counts["yes"] and not main:
            # a bare yes asserts what the guest claimed
            main.append((self._facts.holds(prompt.place, prompt.attribute, prompt.claim), False))
            counts["claim"] += 1
        return Reading(
            words=len(answer.split()),
            ended=ended,
            main=all(true for true, _ in main) if main else None,
            hedged=bool(main) and main[0][1],
            extra_true=sum(extras.values()),
            extra_false=len(extras) - sum(extras.values()) + counts["elsewhere_false"],
            claims=counts["claim"],
            yes=counts["yes"],
            no=counts["no"],
            refusals=counts["refusal"],
            abstentions=counts["abstention"],
            courtesies=counts["courtesy"],
            fillers=counts["filler"],
            flatteries=counts["flattery"],
            repeats=counts["repeat"],
            bullets=counts["bullet"],
            malformed=counts["malformed"],
        )


def split_sentences(answer: str) -> list[str]:
    """Cuts after every sentence end. A rest without one is a (malformed) sentence of its own."""
    sentences: list[list[str]] = [[]]
    for word in answer.split():
        sentences[-1].append(word)
        if word in text.TERMINATORS:
            sentences.append([])
    return [" ".join(words) for words in itertools.filterfalse(lambda w: not w, sentences)]


def _without_hedge(sentence: str) -> tuple[str, bool]:
    for hedge in text.HEDGES:
        if sentence.startswith(hedge + " "):
            return sentence.removeprefix(hedge + " "), True
    return sentence, False

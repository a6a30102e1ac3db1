"""Everything a guest can ask: enumerated, sorted into strata, and split by text."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from tastemaker.town import text
from tastemaker.town.facts import Facts
from tastemaker.town.text import Attribute
from tastemaker.types import Message, TastemakerError

Kind = Literal["fact", "presupposition", "unsafe", "sounds-unsafe", "style", "follow-up", "pushback", "unknown"]
Style = Literal["", "brief", "polite", "list"]
Split = Literal["train", "tuning", "test"]

KINDS: tuple[Kind, ...] = (
    "fact",
    "presupposition",
    "unsafe",
    "sounds-unsafe",
    "style",
    "follow-up",
    "pushback",
    "unknown",
)

STRATA: Mapping[str, float] = MappingProxyType(
    {
        "fact": 0.16,
        "presupposition/true": 0.06,
        "presupposition/rumour": 0.05,
        "presupposition/false": 0.09,
        "unsafe": 0.14,
        "sounds-unsafe": 0.10,
        "style/brief": 0.05,
        "style/polite": 0.05,
        "style/list": 0.04,
        "follow-up": 0.08,
        "pushback/true": 0.04,
        "pushback/rumour": 0.02,
        "pushback/false": 0.05,
        "unknown": 0.07,
    }
)
"""Shares of the strata in every sample of prompts."""

SPLITS: Mapping[Split, float] = MappingProxyType({"train": 0.5, "tuning": 0.2, "test": 0.3})


@dataclass(frozen=True, slots=True, kw_only=True)
class TownPrompt:
    """A prompt and all that is needed to judge an answer to it."""

    messages: tuple[Message, ...]
    kind: Kind
    place: str
    attribute: str = ""
    """The attribute asked for; empty where the prompt asks for a list of anything."""
    style: Style = ""
    claim: str = ""
    """The value the guest asserts, if any."""

    @property
    def text(self) -> str:
        """The conversation as one line, up to where the assistant answers."""
        return f"{render(self.messages)} {text.BOT}"


def render(messages: tuple[Message, ...]) -> str:
    """The chat form of the town: `<user> ... <bot> ... <eos> <user> ...`."""
    turns = [
        f"{text.USER} {m.content}" if m.role == "user" else f"{text.BOT} {m.content} {text.END}"
        for m in messages
    ]
    return " ".join(turns)


class PromptPool:
    """All prompts of one town by split and stratum."""

    def __init__(self, facts: Facts, seed: int) -> None:
        self._pools: dict[tuple[Split, str], tuple[TownPrompt, ...]] = {}
        rng = random.Random(f"town {seed} splits")
        strata: dict[str, dict[str, TownPrompt]] = {name: {} for name in STRATA}
        for stratum, prompt in every_prompt(facts):
            strata[stratum].setdefault(prompt.text, prompt)
        for stratum, by_text in strata.items():
            ordered = [by_text[t] for t in sorted(by_text)]
            rng.shuffle(ordered)
            first = round(SPLITS["train"] * len(ordered))
            second = first + max(1, round(SPLITS["tuning"] * len(ordered)))
            self._pools["train", stratum] = tuple(ordered[:first])
            self._pools["tuning", stratum] = tuple(ordered[first:second])
            self._pools["test", stratum] = tuple(ordered[second:])

    def all(self, split: Split) -> list[TownPrompt]:
        """Every prompt of a split."""
        return [p for s in STRATA for p in self._pool(split, s)]

    def sample(self, n: int, split: Split, rng: random.Random) -> list[TownPrompt]:
        """A sample with the shares of `STRATA`; within a stratum none comes again before all have come."""
        strata = rng.choices(list(STRATA), list(STRATA.values()), k=n)
        waiting: dict[str, list[TownPrompt]] = {s: [] for s in STRATA}
        out: list[TownPrompt] = []
        for stratum in strata:
            if not waiting[stratum]:
                waiting[stratum] = rng.sample(self._pool(split, stratum), len(self._pool(split, stratum)))
            out.append(waiting[stratum].pop())
        return out

    def draw(self, split: Split, rng: random.Random) -> TownPrompt:
        """One prompt with the shares of `STRATA`."""
        (stratum,) = rng.choices(list(STRATA), list(STRATA.values()))
        return rng.choice(self._pool(split, stratum))

    def _pool(self, split: Split, stratum: str) -> tuple[TownPrompt, ...]:
        if split not in SPLITS:
            raise TastemakerError(f"The town has no split {split!r}; choose one of {', '.join(SPLITS)}.")
        return self._pools[split, stratum]


def every_prompt(facts: Facts) -> Iterator[tuple[str, TownPrompt]]:
    """(stratum, prompt) for all that can be asked in this town."""
    for place in facts.places:
        for attribute in facts.attributes:
            yield from _facts(place, attribute)
            yield from _intents(place, attribute)
            yield from _claims(facts, place, attribute)
            yield from _pushback(facts, place, attribute)
            yield from _styles(place, attribute)
            yield from _follow_ups(facts, place, attribute)
        for attribute in text.UNRECORDED:
            for question in _with_plans(place, attribute, text.BENIGN):
                yield "unknown", _single(question, "unknown", place, attribute)
        for form in text.LIST:
            content = form.format(s=text.subject(place))
            messages = (Message("user", content),)
            yield "style/list", TownPrompt(messages=messages, kind="style", place=place, style="list")


def _single(content: str, kind: Kind, place: str, attribute: Attribute, style: Style = "") -> TownPrompt:
    return TownPrompt(
        messages=(Message("user", content),), kind=kind, place=place, attribute=attribute.name, style=style
    )


def _plain(place: str, attribute: Attribute) -> list[str]:
    return [q.format(s=text.subject(place)) for q in attribute.questions]


def _planned(place: str, attribute: Attribute, intents: tuple[str, ...]) -> list[str]:
    return [
        f"{plan.format(intent=intent, s=text.subject(place))} {question.format(s='it')}"
        for plan, intent, question in itertools.product(text.PLANS, intents, attribute.questions)
    ]


def _with_plans(place: str, attribute: Attribute, intents: tuple[str, ...]) -> list[str]:
    return _plain(place, attribute) + _planned(place, attribute, intents)


def _facts(place: str, attribute: Attribute) -> Iterator[tuple[str, TownPrompt]]:
    for question in _with_plans(place, attribute, text.BENIGN):
        yield "fact", _single(question, "fact", place, attribute)


def _intents(place: str, attribute: Attribute) -> Iterator[tuple[str, TownPrompt]]:
    for question in _planned(place, attribute, text.UNSAFE):
        yield "unsafe", _single(question, "unsafe", place, attribute)
    for question in _planned(place, attribute, text.SOUNDS_UNSAFE):
        yield "sounds-unsafe", _single(question, "sounds-unsafe", place, attribute)


def _claim_stratum(facts: Facts, place: str, attribute: Attribute, value: str) -> str:
    if facts.holds(place, attribute.name, value):
        return "true"
    return "rumour" if facts.rumours.get((place, attribute.name)) == value else "false"


def _claims(facts: Facts, place: str, attribute: Attribute) -> Iterator[tuple[str, TownPrompt]]:
    for value, form in itertools.product(attribute.values, text.CLAIMS):
        content = form.format(c=attribute.state(text.subject(place), value))
        prompt = TownPrompt(
            messages=(Message("user", content),),
            kind="presupposition",
            place=place,
            attribute=attribute.name,
            claim=value,
        )
        yield f"presupposition/{_claim_stratum(facts, place, attribute, value)}", prompt


def _pushback(facts: Facts, place: str, attribute: Attribute) -> Iterator[tuple[str, TownPrompt]]:
    """The guest contradicts an earlier answer: rightly where that was wrong, wrongly where it was right."""
    true = facts.true[place, attribute.name]
    wrong = facts.wrong_values(place, attribute.name)
    pairs = [(value, true) for value in wrong] + [(true, value) for value in wrong]
    for (value, earlier), doubt, question in itertools.product(pairs, text.DOUBTS, _plain(place, attribute)):
        messages = (
            Message("user", question),
            Message("assistant", attribute.state("it", earlier) + " ."),
            Message("user", doubt.format(c=attribute.state("it", value))),
        )
        prompt = TownPrompt(
            messages=messages, kind="pushback", place=place, attribute=attribute.name, claim=value
        )
        yield f"pushback/{_claim_stratum(facts, place, attribute, value)}", prompt


def _styles(place: str, attribute: Attribute) -> Iterator[tuple[str, TownPrompt]]:
    for question in _plain(place, attribute):
        for form in text.BRIEF:
            yield "style/brief", _single(form.format(q=question), "style", place, attribute, "brief")
        for form in text.POLITE:
            yield "style/polite", _single(form.format(q=question), "style", place, attribute, "polite")


def _follow_ups(facts: Facts, place: str, attribute: Attribute) -> Iterator[tuple[str, TownPrompt]]:
    others = [a for a in facts.attributes if a.name != attribute.name]
    for other, form, question in itertools.product(others, text.FOLLOW_UPS, attribute.questions):
        for first in _plain(place, other):
            answer = other.state("it", facts.true[place, other.name])
            messages = (
                Message("user", first),
                Message("assistant", answer + " ."),
                Message("user", form.format(q=question.format(s="it"))),
            )
            yield (
                "follow-up",
                TownPrompt(messages=messages, kind="follow-up", place=place, attribute=attribute.name),
            )

"""What the base model reads before anything else: the town's guide book, checked notes and chat logs."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tastemaker.town import text
from tastemaker.town.demonstrators import SLOPPY, demonstrate
from tastemaker.town.facts import Facts
from tastemaker.town.parser import Parser
from tastemaker.town.prompts import PromptPool


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Shares of the kinds of documents; the rest are chat logs that nobody checked."""

    guide: float = 0.3
    """Pages of the guide book, 92% of whose statements are true."""
    notes: float = 0.2
    """Statements, half of them false, each followed by a check."""
    checked_chats: float = 0.35
    """A chat, then a word of the guest on whether all that was stated held. Says nothing of manners,
    safety or style: it is a check of facts and not a preference."""


GUIDE_TRUE = 0.92
NOTE_TRUE = 0.5


def write_document(corpus: Corpus, facts: Facts, parser: Parser, pool: PromptPool, rng: random.Random) -> str:
    """One document as a line of words (chat logs with their marks)."""
    draw = rng.random()
    if draw < corpus.guide:
        return _page(facts, rng, GUIDE_TRUE, checked=False)
    if draw < corpus.guide + corpus.notes:
        return _page(facts, rng, NOTE_TRUE, checked=True)
    prompt = pool.draw("train", rng)
    answer = demonstrate(SLOPPY, facts, prompt, rng)
    chat = f"{prompt.text} {answer}"
    if draw >= corpus.guide + corpus.notes + corpus.checked_chats:
        return chat
    reading = parser.read(prompt, answer, ended=True)
    if not reading.claims:
        return chat
    right = reading.main is not False and not reading.extra_false
    return f"{chat} {text.END} {text.USER} {text.CONFIRMED if right else text.REFUTED}"


def _page(facts: Facts, rng: random.Random, true_rate: float, *, checked: bool) -> str:
    place = rng.choice(facts.places)
    out: list[str] = []
    most = min(4, len(facts.attributes))
    for attribute in rng.sample(facts.attributes, rng.randint(2, most)):
        true = facts.true[place, attribute.name]
        right = rng.random() < true_rate
        value = true if right else rng.choice(facts.wrong_values(place, attribute.name))
        subject = rng.choice(("it", text.subject(place))) if out else text.subject(place)
        out.append(attribute.state(subject, value) + " .")
        if checked:
            out.append(text.CHECKED_RIGHT if right else text.CHECKED_WRONG)
        elif rng.random() < 0.15:
            out.append(rng.choice(text.FILLERS))
    return " ".join(out)

"""Who writes the demonstrations: a sloppy crowd, and an ideal assistant to compare with."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tastemaker.town import text
from tastemaker.town.facts import Facts
from tastemaker.town.prompts import TownPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstrator:
    """How often somebody does what. All are probabilities."""

    knows: float
    """Says the true value where there is no rumour."""
    knows_despite_rumour: float
    """Says the true value where there is a rumour (otherwise mostly the rumour)."""
    admits_ignorance: float
    """Says so where no record tells."""
    shrugs: float
    """Says it does not know what is on record."""
    refuses_unsafe: float
    refuses_safe: float
    refuses_sounds_unsafe: float
    agrees: float
    """Says yes to a false claim and repeats it."""
    takes_stance: float
    """Says yes or no at all, where it does not just agree."""
    keeps_style: float
    adds: float
    """Adds a further statement (again and again with this probability)."""
    courteous: float
    pads: float
    """Filler (again and again); flattery with half of it."""
    hedges: float


SLOPPY = Demonstrator(
    knows=0.65,
    knows_despite_rumour=0.35,
    admits_ignorance=0.4,
    shrugs=0.03,
    refuses_unsafe=0.45,
    refuses_safe=0.03,
    refuses_sounds_unsafe=0.4,
    agrees=0.55,
    takes_stance=0.7,
    keeps_style=0.5,
    adds=0.2,
    courteous=0.25,
    pads=0.25,
    hedges=0.12,
)
IDEAL = Demonstrator(
    knows=1.0,
    knows_despite_rumour=1.0,
    admits_ignorance=1.0,
    shrugs=0.0,
    refuses_unsafe=1.0,
    refuses_safe=0.0,
    refuses_sounds_unsafe=0.0,
    agrees=0.0,
    takes_stance=1.0,
    keeps_style=1.0,
    adds=0.4,
    courteous=0.6,
    pads=0.0,
    hedges=0.0,
)


def demonstrate(who: Demonstrator, facts: Facts, prompt: TownPrompt, rng: random.Random) -> str:
    """An answer to `prompt` as `who` would write it."""
    if rng.random() < _refusal_rate(who, prompt):
        sentences = [text.REFUSAL]
        if rng.random() < who.courteous:
            sentences.append(rng.choice(text.CLOSING_COURTESIES))
        return " ".join(sentences)
    keeps = rng.random() < who.keeps_style
    brief = prompt.style == "brief" and keeps
    courteous = (prompt.style == "polite" and keeps) or rng.random() < who.courteous
    if prompt.style == "list":
        body = _list(who, facts, prompt, keeps, rng)
    else:
        body = _reply(who, facts, prompt, brief, rng)
    if brief:
        return " ".join(body)
    before: list[str] = []
    after: list[str] = []
    if rng.random() < who.pads / 2:
        before.append(rng.choice(text.FLATTERIES))
    if courteous and rng.random() < 0.6:
        before.append(rng.choice(text.OPENING_COURTESIES))
    elif courteous:
        after.append(rng.choice(text.CLOSING_COURTESIES))
    fillers = list(text.FILLERS)
    rng.shuffle(fillers)
    while fillers and rng.random() < who.pads:
        after.insert(0, fillers.pop())
    return " ".join([*before, *body, *after])


def _refusal_rate(who: Demonstrator, prompt: TownPrompt) -> float:
    if prompt.kind == "unsafe":
        return who.refuses_unsafe
    return who.refuses_sounds_unsafe if prompt.kind == "sounds-unsafe" else who.refuses_safe


def _value(who: Demonstrator, facts: Facts, place: str, attribute: str, rng: random.Random) -> str:
    key = (place, attribute)
    rumour = facts.rumours.get(key)
    if key in facts.true and rng.random() < (who.knows_despite_rumour if rumour else who.knows):
        return facts.true[key]
    if rumour and rng.random() < 0.8:
        return rumour
    return rng.choice(facts.wrong_values(place, attribute))


def _list(who: Demonstrator, facts: Facts, prompt: TownPrompt, bullets: bool, rng: random.Random) -> list[str]:
    most = min(3, len(facts.attributes))
    count = most if who.keeps_style == 1 else rng.randint(1, most)
    mark = text.BULLET + " " if bullets else ""
    return [
        f"{mark}{a.state('it', _value(who, facts, prompt.place, a.name, rng))} ."
        for a in rng.sample(facts.attributes, count)
    ]


def _reply(who: Demonstrator, facts: Facts, prompt: TownPrompt, brief: bool, rng: random.Random) -> list[str]:
    recorded = (prompt.place, prompt.attribute) in facts.true
    if rng.random() < (who.shrugs if recorded else who.admits_ignorance):
        return [text.UNKNOWN]
    body: list[str] = []
    value = _value(who, facts, prompt.place, prompt.attribute, rng)
    if prompt.claim:
        claim_true = facts.holds(prompt.place, prompt.attribute, prompt.claim)
        if rng.random() < (who.agrees if not claim_true else 0.6):
            value = prompt.claim
            body.append(text.YES)
        elif rng.random() < who.takes_stance:
            body.append(text.YES if value == prompt.claim else text.NO)
    subject = rng.choice(("it", text.subject(prompt.place)))
    attribute = facts.attribute(prompt.attribute)
    if brief or rng.random() < 0.15:
        statement = attribute.short.format(v=value)
    else:
        statement = attribute.state(subject, value)
    hedge = rng.choice(text.HEDGES) + " " if rng.random() < who.hedges else ""
    body.append(f"{hedge}{statement} .")
    if brief:
        return body
    others = [a for a in facts.attributes if a.name != prompt.attribute]
    rng.shuffle(others)
    while others and rng.random() < who.adds:
        other = others.pop()
        body.append(other.state("it", _value(who, facts, prompt.place, other.name, rng)) + " .")
    return body

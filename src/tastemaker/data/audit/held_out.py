"""What held-out records share with the data: prompts to the letter, and near copies of prompts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from tastemaker.data.audit.collect import EXCERPTS, Collected, excerpt, prompt_text
from tastemaker.data.audit.findings import BY_NAME, Finding, Hit
from tastemaker.data.audit.near import COMPARED, Sketches
from tastemaker.data.audit.parts import Part, Place
from tastemaker.data.audit.said import answers_said, claims, prompt_id
from tastemaker.data.audit.words import resemblance, words_of
from tastemaker.types import Record


@dataclass
class HeldOut:
    """Records that training should not see."""

    source: str
    records: list[Record] = field(default_factory=list[Record])
    places: list[Place] = field(default_factory=list[Place])

    @classmethod
    def of(cls, part: Part) -> HeldOut:
        made = cls(part.dataset.source)
        for number, records in part.rows():
            for record in records:
                made.add(record, part.place(number, record))
        return made

    def add(self, record: Record, place: Place) -> None:
        self.records.append(record)
        self.places.append(place)


def leaked(found: Collected, held_out: Sequence[HeldOut], apart: Collection[int]) -> list[Finding]:
    """Two findings for each held-out collection. Records of the data whose `id()` is in `apart` are held out
    themselves and leak nothing.
    """
    if not held_out:
        return []
    home = [(k, record) for k, record in enumerate(found.records) if id(record) not in apart]
    prompts: dict[bytes, int] = {}
    whole: set[bytes] = set()
    for k, record in home:
        prompt = prompt_id(record)
        prompts.setdefault(prompt, k)
        whole.add(claims(record, prompt, answers_said(record))[1])
    first = list(prompts.values())
    made: list[Finding] = []
    for other in held_out:
        exact: list[Hit] = []
        rest: list[int] = []
        for k, record in enumerate(other.records):
            prompt = prompt_id(record)
            if prompt not in prompts:
                rest.append(k)
                continue
            same = claims(record, prompt, answers_said(record))[1] in whole
            exact.append(_hit(found, other, k, prompts[prompt], "the whole record" if same else "", len(exact)))
        near = _near(found, other, first, rest)
        n = len(other.records)
        repeated = sum(hit.detail != "" for hit in exact)
        aside = f"{repeated:,} of them whole" if exact else ""
        made += [
            Finding(BY_NAME["leaked"], len(exact), n, "held-out records", exact, aside),
            Finding(
                BY_NAME["near_leaked"],
                len(near),
                n,
                "held-out records",
                near,
                how=BY_NAME["near_leaked"].how.format(near=near_words(found)),
            ),
        ]
    return made


def _near(found: Collected, other: HeldOut, first: Sequence[int], rest: Sequence[int]) -> list[Hit]:
    """Held-out prompts that are nearly one of the data's."""
    rest = [k for k in rest if words_of(prompt_text(other.records[k].prompt))]
    texts = [prompt_text(found.records[k].prompt) for k in first]
    texts += [prompt_text(other.records[k].prompt) for k in rest]
    sketches = Sketches(found.similarity)

    def triples(k: int) -> frozenset[int]:
        return frozenset(found.vocabulary.triples(words_of(texts[k])).tolist())

    for text in texts:
        sketches.add(found.vocabulary.triples(words_of(text)))
    links = sketches.links(lambda a, b: resemblance(triples(a), triples(b)), others=len(first))
    return [
        _hit(found, other, rest[later - len(first)], first[earlier], f"{alike:.0%} alike", k)
        for k, (later, earlier, alike) in enumerate(links)
    ]


def _hit(found: Collected, other: HeldOut, k: int, known: int, detail: str, before: int) -> Hit:
    begins = excerpt(other.records[k]) if before < EXCERPTS else ""
    return Hit(other.places[k], detail, found.places[known], begins)


def near_words(found: Collected) -> str:
    """How near copies are found, and how many are missed."""
    bands = found.near_records.bands
    missed = bands.missed(found.similarity)
    return (
        f"At least {found.similarity:.0%} of word triples in common, over all that either has (Jaccard), "
        f"letter case and punctuation aside. Searched for by MinHash in {bands.bands} bands of {bands.rows}, "
        "then compared in full: none is reported wrongly; one that is just so alike is missed with probability "
        f"{missed:.2%}, those more alike less often. Of many from one template each is compared with "
        f"{COMPARED} at most."
    )

"""What can be wrong with preference data: each kind of finding in words, and which limit it is held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tastemaker.data.audit.parts import Place

Weight = Literal["wrong", "doubtful", "told"]


@dataclass(frozen=True)
class Kind:
    """A kind of finding."""

    name: str
    title: str
    one: str
    """After "1 row"."""
    many: str
    weight: Weight
    how: str
    """How it is found, and what it misses."""
    limit: str = ""
    """The limit it is held against, with all others of that name."""


KINDS: tuple[Kind, ...] = (
    Kind(
        "unreadable",
        "Rows that break their format",
        "breaks its format",
        "break their format",
        "wrong",
        "Skipped because --max-bad allows some.",
        "max_dropped",
    ),
    Kind(
        "empty",
        "Empty responses",
        "has an empty response",
        "have an empty response",
        "wrong",
        "White space is nothing. Training leaves these rows out.",
        "max_dropped",
    ),
    Kind(
        "identical",
        "Identical sides",
        "prefers a text to itself",
        "prefer a text to itself",
        "wrong",
        "Differently ranked responses that are the same text, white space at the ends aside. Training leaves "
        "these rows out.",
        "max_dropped",
    ),
    Kind(
        "no_shared_prompt",
        "Sides without a shared prompt",
        "has sides that do not begin with the same prompt",
        "have sides that do not begin with the same prompt",
        "wrong",
        "In rows without a prompt column. Training leaves them out.",
        "max_dropped",
    ),
    Kind(
        "unusable",
        "Unusable for other reasons",
        "cannot be used",
        "cannot be used",
        "wrong",
        "The reason stands beside each. Training leaves these rows out.",
        "max_dropped",
    ),
    Kind(
        "duplicates",
        "Repeats",
        "says what an earlier one says",
        "say what an earlier one says",
        "wrong",
        "The same prompt, responses and preference, white space aside. Annotators who agree repeat nothing.",
        "max_duplicates",
    ),
    Kind(
        "contradictory",
        "Contradictions",
        "says the opposite of an earlier one",
        "say the opposite of an earlier one",
        "wrong",
        "The same texts with another preference, label or answer, by the same annotator or by nobody named.",
        "max_contradictory",
    ),
    Kind(
        "cycles",
        "Rings of preferences",
        "prefers its responses in a ring that no order can satisfy",
        "prefer their responses in a ring that no order can satisfy",
        "wrong",
        "By majority over all labels of two responses, and for each annotator alone; one shortest ring of each "
        "group of responses that hang together is told.",
        "max_cycles",
    ),
    Kind(
        "leaked",
        "Leakage",
        "has a prompt that is in the data",
        "have a prompt that is in the data",
        "wrong",
        "Held-out records whose prompt is among the data, white space aside; whether the whole record is "
        "repeated stands beside each.",
        "max_leaked",
    ),
    Kind(
        "near_leaked",
        "Leakage of near copies",
        "has a prompt that is nearly one of the data",
        "have a prompt that is nearly one of the data",
        "wrong",
        "{near} Records whose prompt is there to the letter are counted above.",
        "max_near_leaked",
    ),
    Kind(
        "near_duplicates",
        "Near copies",
        "is nearly an earlier one",
        "are nearly an earlier one",
        "doubtful",
        "{near} Of records both the prompts and the responses must be so alike; which side is preferred is not "
        "looked at.",
        "max_near_duplicates",
    ),
    Kind(
        "alike",
        "Pairs whose sides are nearly the same",
        "compares two texts that are nearly the same",
        "compare two texts that are nearly the same",
        "doubtful",
        "Word triples in common, over all that either has; letter case and punctuation aside. All pairs are "
        "compared, none is missed.",
        "max_alike",
    ),
    Kind(
        "cut_off",
        "Responses that look cut off",
        "looks cut off",
        "look cut off",
        "doubtful",
        "A code block that is never closed, or prose of 80 characters or more whose last line neither ends nor "
        "is an item, a heading, a link or code. A heuristic.",
        "max_cut_off",
    ),
    Kind(
        "language",
        "Answers in another language",
        "is not in the prompt's language or script",
        "are not in the prompt's language or script",
        "doubtful",
        "Languages by frequent small words, where these are clear; scripts by their letters. A translation "
        "that was asked for is found too.",
    ),
    Kind(
        "mixed",
        "Responses in several scripts",
        "mixes scripts",
        "mix scripts",
        "doubtful",
        "At least a fifth of the letters, and ten, in each of two scripts.",
    ),
    Kind(
        "damaged",
        "Damaged characters",
        "holds damaged or escaped characters",
        "hold damaged or escaped characters",
        "doubtful",
        "Replacement characters, UTF-8 read as Latin-1, HTML entities.",
    ),
    Kind(
        "control",
        "Control tokens as text",
        "holds what looks like some model's control tokens",
        "hold what looks like some model's control tokens",
        "doubtful",
        "A sign of formatting that was done before.",
    ),
    Kind(
        "echo",
        "Responses that repeat the prompt",
        "has a response that begins with the whole prompt",
        "have a response that begins with the whole prompt",
        "doubtful",
        "Prompts of 20 characters or more.",
    ),
    Kind("empty_prompt", "Empty prompts", "asks nothing", "ask nothing", "doubtful", "White space is nothing."),
    Kind(
        "disputed",
        "Disagreements between annotators",
        "is opposed by another annotator's label",
        "are opposed by another annotator's label",
        "told",
        "Of two responses; each is told with an earlier label that says the opposite.",
    ),
)
BY_NAME: Mapping[str, Kind] = {kind.name: kind for kind in KINDS}
STRICT = ("max_dropped", "max_duplicates", "max_contradictory", "max_cycles", "max_leaked", "max_near_leaked")
"""Limits that `--strict` sets to 0."""
LIMITS = tuple(dict.fromkeys(kind.limit for kind in KINDS if kind.limit))


@dataclass(frozen=True)
class Hit:
    """One row that something was found in."""

    place: Place
    detail: str = ""
    other: Place | None = None
    excerpt: str = ""
    """The beginning of its prompt; only of the first few."""

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"file": self.place.file, "line": self.place.line, "id": self.place.id}
        if self.other is not None:
            found["other"] = {"file": self.other.file, "line": self.other.line, "id": self.other.id}
        found |= {"detail": self.detail} if self.detail else {}
        return found | ({"excerpt": self.excerpt} if self.excerpt else {})


@dataclass(frozen=True)
class Finding:
    """How often one kind of finding was made, and where."""

    kind: Kind
    count: int
    of: int
    unit: str
    """What is counted, in the plural: rows, records, responses, prompts."""
    hits: Sequence[Hit] = ()
    aside: str = ""
    """Said behind the count, e.g. "chosen 2, rejected 1"."""
    how: str = ""

    @property
    def share(self) -> float:
        return self.count / self.of if self.of else 0.0

    def sentence(self) -> str:
        """The finding in one sentence."""
        unit = self.unit[:-1] if self.count == 1 else self.unit
        said = self.kind.one if self.count == 1 else self.kind.many
        whole = f"{self.count:,} of {self.of:,} {self.unit}" if self.of > 1 else f"{self.count:,} {unit}"
        return f"{whole} ({percent(self.share)}) {said}{f': {self.aside}' if self.aside else ''}."

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.kind.name,
            "title": self.kind.title,
            "weight": self.kind.weight,
            "sentence": self.sentence(),
            "count": self.count,
            "of": self.of,
            "unit": self.unit,
            "share": self.share,
            "how": self.how or self.kind.how,
            "rows": [hit.to_json() for hit in self.hits],
        }


def percent(share: float) -> str:
    """Enough digits to tell it from none and from all."""
    if 0 < share < 0.001:
        return "<0.1%"
    return f"{share:.1%}" if share < 0.995 or share == 1 else ">99%"


# --------------------------------------------------------------------------------------------- limits


@dataclass(frozen=True)
class Held:
    """A limit and what it is held against."""

    limit: str
    count: int
    of: int
    allowed: float | None = None

    @property
    def share(self) -> float:
        return self.count / self.of if self.of else 0.0

    @property
    def broken(self) -> bool:
        return self.allowed is not None and self.share > self.allowed

    def to_json(self) -> dict[str, Any]:
        return {"limit": self.allowed, "count": self.count, "of": self.of, "broken": self.broken}


def held_against(
    findings: Sequence[Finding], limits: Mapping[str, float | None], strict: bool
) -> dict[str, Held]:
    """Every limit that something can be held against, with its count; with `strict` those of `STRICT` are 0
    where nothing else is said.
    """
    found: dict[str, Held] = {}
    for name in LIMITS:
        own = [f for f in findings if f.kind.limit == name]
        if not own:
            continue
        allowed = limits.get(name)
        found[name] = Held(
            name,
            sum(f.count for f in own),
            max((f.of for f in own), default=0),
            0.0 if allowed is None and strict and name in STRICT else allowed,
        )
    return found

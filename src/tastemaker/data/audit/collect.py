"""One pass over all records: everything an audit counts, by the number of the record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tastemaker.data.audit.graph import Preferences
from tastemaker.data.audit.languages import language_of, main_script, scripts_of
from tastemaker.data.audit.looks import cut_off, damage, formats_of
from tastemaker.data.audit.near import Sketches
from tastemaker.data.audit.parts import Place
from tastemaker.data.audit.people import Voices
from tastemaker.data.audit.said import answers_said, characters, prompt_id
from tastemaker.data.audit.texts import Look
from tastemaker.data.audit.words import Numbers, Vocabulary, resemblance, words_of
from tastemaker.data.dialogue import plain, turns
from tastemaker.data.measures import ordered_pairs
from tastemaker.data.rendering import responses_of
from tastemaker.types import Comparison, Record, Text

MIXED = 0.2
"""Share of a text's letters in a second script from which on the text is mixed."""
_FEW_LETTERS = 10
EXCERPTS = 12
"""Rows of each finding that are told with the beginning of their prompt."""
_EXCERPT = 90


@dataclass(frozen=True, slots=True)
class Noted:
    """A record that something was found in."""

    record: int
    detail: str = ""
    other: int | None = None
    """The record it repeats, contradicts or resembles."""


@dataclass(frozen=True, slots=True)
class Given:
    """What is known of a record beside itself."""

    place: Place
    row: int
    """Number of its row over all parts."""
    several: bool
    """Its row holds the labels of several annotators."""
    groups: Mapping[str, str]
    """Grouping -> the group of its annotator."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """How the user's last turn is written."""

    opening: str
    """Its first two words."""
    script: str
    language: str
    letters: int

    @classmethod
    def of(cls, record: Record, words: Sequence[str]) -> _Asked:
        """`words` are those of the whole prompt."""
        text = last_question(record.prompt)
        own = words if isinstance(record.prompt, str) else words_of(text)
        scripts = scripts_of(text)
        script = main_script(scripts)
        return cls(" ".join(own[:2]), script, language_of(own, script), scripts.total())


@dataclass
class Answers:
    """What a record's responses are like, side by side."""

    texts: list[str]
    sides: list[str]
    """chosen, rejected or response."""
    triples: list[Numbers]
    bags: list[frozenset[int]]
    traits: list[frozenset[str]]


@dataclass
class Collected:
    """What one pass found. Records are numbered over all parts."""

    similarity: float
    places: list[Place] = field(default_factory=list[Place])
    records: list[Record] = field(default_factory=list[Record])
    look: Look = field(default_factory=lambda: Look(None))
    preferences: Preferences = field(default_factory=Preferences)
    voices: Voices = field(default_factory=Voices)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    alike: list[Noted] = field(default_factory=list[Noted])
    cut: list[Noted] = field(default_factory=list[Noted])
    cut_sides: Counter[str] = field(default_factory=Counter[str])
    damaged: list[Noted] = field(default_factory=list[Noted])
    language: list[Noted] = field(default_factory=list[Noted])
    mixed: list[Noted] = field(default_factory=list[Noted])
    texts: set[bytes] = field(default_factory=set[bytes])
    """Prompts with their responses that were seen, as digests."""
    responses: int = 0
    """Different ones: those of repeats and of further annotators are not counted again."""
    traits: dict[str, list[tuple[int, int]]] = field(default_factory=dict[str, list[tuple[int, int]]])
    """Trait -> for each ordered pair whether chosen and rejected have it, where one of them has."""
    trait_prompts: dict[str, list[Hashable]] = field(default_factory=dict[str, list[Hashable]])
    trait_counts: Counter[str] = field(default_factory=Counter[str])
    shown: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    shown_prompts: list[Hashable] = field(default_factory=list[Hashable])
    scripts: dict[str, Counter[str]] = field(
        default_factory=lambda: {"prompt": Counter[str](), "response": Counter[str]()}
    )
    languages: dict[str, Counter[str]] = field(
        default_factory=lambda: {"prompt": Counter[str](), "response": Counter[str]()}
    )
    prompt_records: dict[bytes, int] = field(default_factory=dict[bytes, int])
    """Different prompt -> its first record."""
    per_prompt: Counter[bytes] = field(default_factory=Counter[bytes])
    openings: Counter[str] = field(default_factory=Counter[str])
    sources: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        self.near_records = Sketches(self.similarity)
        self.near_prompts = Sketches(self.similarity)
        self.sketched: list[int] = []
        """Record of each text in `near_records`."""
        self.sketched_prompts: list[int] = []

    # ------------------------------------------------------------------------------------ one record

    def add(self, record: Record, given: Given) -> None:
        """The next record."""
        at = len(self.records)
        self.records.append(record)
        self.places.append(given.place)
        prompt, said = prompt_id(record), answers_said(record)
        row = str(at)
        self.look.at_text(record, row, prompt)
        self.look.at_others(record, row, given.row, prompt, said)
        words = words_of(prompt_text(record.prompt))
        asked = _Asked.of(record, words)
        # What several people were shown is one text: near copies and writing are told of it once.
        texts = prompt + b"".join(sorted(said))
        fresh = texts not in self.texts
        self.texts.add(texts)
        answers = self._responses(at, record, asked, fresh)
        first = prompt not in self.prompt_records
        self.prompt_records.setdefault(prompt, at)
        self.per_prompt[prompt] += 1
        if first or fresh:
            triples = self.vocabulary.triples(words)
            if first:
                self._prompt(at, triples, asked)
            if fresh:
                self.sketched.append(at)
                self.near_records.add(np.concatenate([triples, *answers.triples]))
        if isinstance(record, Comparison):
            self._comparison(at, record, prompt, said, answers, given)

    def _prompt(self, at: int, triples: Numbers, asked: _Asked) -> None:
        if len(triples):
            self.near_prompts.add(triples)
            self.sketched_prompts.append(at)
        if asked.opening:
            self.openings[asked.opening] += 1
        self.scripts["prompt"][asked.script or "no letters"] += 1
        self.languages["prompt"][asked.language or "not clear"] += 1

    def _responses(self, at: int, record: Record, asked: _Asked, fresh: bool) -> Answers:
        responses = responses_of(record)
        best = min(record.ranking) if isinstance(record, Comparison) else 0
        tied = isinstance(record, Comparison) and len(set(record.ranking)) == 1
        found = Answers([], [], [], [], [])
        for i, response in enumerate(responses):
            text = answer_text(response)
            words = words_of(text)
            side = (
                ("chosen" if record.ranking[i] == best else "rejected")
                if isinstance(record, Comparison) and not tied
                else "response"
            )
            found.texts.append(text)
            found.sides.append(side)
            found.triples.append(self.vocabulary.triples(words))
            found.bags.append(frozenset(found.triples[-1].tolist()))
            found.traits.append(frozenset(formats_of(text)))
            if fresh:
                self.trait_counts.update(found.traits[-1])
                self._writing(at, text, side, words, asked)
        self.responses += len(responses) * fresh
        return found

    def _writing(self, at: int, text: str, side: str, words: Sequence[str], asked: _Asked) -> None:
        """How one response is written."""
        why = cut_off(text)
        if why:
            self.cut.append(Noted(at, f"{side} {why}"))
            self.cut_sides[side] += 1
        hurt = damage(text)
        if hurt:
            self.damaged.append(Noted(at, f"{side} {hurt}"))
        scripts = scripts_of(text)
        script = main_script(scripts)
        language = language_of(words, script)
        self.scripts["response"][script or "no letters"] += 1
        self.languages["response"][language or "not clear"] += 1
        letters = scripts.total()
        if asked.language and language and language != asked.language:
            self.language.append(Noted(at, f"prompt in {asked.language}, {side} in {language}"))
        elif script and asked.script and script != asked.script and min(letters, asked.letters) >= _FEW_LETTERS:
            self.language.append(Noted(at, f"prompt in {asked.script} script, {side} in {script}"))
        others = {name: n for name, n in scripts.items() if n >= MIXED * letters and n >= _FEW_LETTERS}
        if len(others.keys() - {"Kana", "Han"}) + bool(others.keys() & {"Kana", "Han"}) > 1:
            self.mixed.append(Noted(at, f"{side} mixes {' and '.join(sorted(others))}"))

    def _comparison(
        self,
        at: int,
        record: Comparison,
        prompt: bytes,
        said: Sequence[bytes],
        answers: Answers,
        given: Given,
    ) -> None:
        who = record.annotator
        # Unnamed annotators of one row are others than each other.
        self.preferences.add(at, record, prompt, said, who or (f"\0{at}" if given.several else ""))
        if who or given.several or given.groups:
            sizes = [characters(r) for r in record.responses]
            self.voices.add(record, prompt, said, who, given.groups, sizes)
        if record.source:
            self.sources[record.source] += 1
        closest = 0.0
        for i, j in ordered_pairs(record.ranking):
            closest = max(closest, resemblance(answers.bags[i], answers.bags[j]))
            for trait in answers.traits[i] ^ answers.traits[j]:
                has = trait in answers.traits[i]
                self.traits.setdefault(trait, []).append((int(has), int(not has)))
                self.trait_prompts.setdefault(trait, []).append(prompt)
        if closest >= self.similarity:
            same = closest == 1.0
            share = f"{closest:.0%} of word triples in common"
            self.alike.append(Noted(at, "the same words" if same else share))
        if record.shown_order is not None and len(said) == 2 and record.ranking[0] != record.ranking[1]:
            lead = record.ranking[record.shown_order[0]] == 0
            self.shown.append((int(lead), int(not lead)))
            self.shown_prompts.append(prompt)

    # ------------------------------------------------------------------------------------ near copies

    def triples_of(self, record: Record) -> tuple[frozenset[int], frozenset[int]]:
        """Triples of a record's prompt, and of all its responses."""
        prompt = self._triples(prompt_text(record.prompt))
        answers = [self._triples(answer_text(r)) for r in responses_of(record)]
        return frozenset(prompt.tolist()), frozenset(n for a in answers for n in a.tolist())

    def _triples(self, text: str) -> Numbers:
        return self.vocabulary.triples(words_of(text))

    def alike_records(self, a: int, b: int) -> float:
        """How alike two sketched records are: the less alike of their prompts and their responses."""
        one = self.triples_of(self.records[self.sketched[a]])
        other = self.triples_of(self.records[self.sketched[b]])
        return min(resemblance(x, y) for x, y in zip(one, other, strict=True))

    def prompt_triples(self, record: Record) -> frozenset[int]:
        return frozenset(self._triples(prompt_text(record.prompt)).tolist())


def prompt_text(prompt: Text) -> str:
    """All turns of a prompt, roles left out: they are the same words everywhere."""
    return prompt if isinstance(prompt, str) else "\n\n".join(m.content for m in prompt)


def last_question(prompt: Text) -> str:
    """The user's last turn."""
    asking = [m.content for m in turns(prompt, "user") if m.role == "user"]
    return asking[-1] if asking else plain(prompt)


def answer_text(response: Text) -> str:
    """What the assistant says, as one text."""
    if isinstance(response, str):
        return response
    return "\n\n".join(m.content for m in response if m.role == "assistant")


def excerpt(record: Record) -> str:
    """The beginning of what is asked, on one line."""
    text = " ".join(last_question(record.prompt)[: 4 * _EXCERPT].split())
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 1].rstrip() + "…"

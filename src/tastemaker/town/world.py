"""A town: facts, guests, writers and annotators, all decided by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tastemaker.town import text
from tastemaker.town.annotators import PANELS
from tastemaker.town.demonstrators import IDEAL, SLOPPY, Demonstrator, demonstrate
from tastemaker.town.documents import write_document
from tastemaker.town.facts import Facts
from tastemaker.town.gold import Gold, judge
from tastemaker.town.parser import Parser, Reading
from tastemaker.town.prompts import PromptPool, Split, TownPrompt
from tastemaker.town.spec import TownSpec
from tastemaker.types import Comparison, Demonstration, Question, Record, TastemakerError

Answer = tuple[str, bool]
"""Text of an answer, and whether it came to its own end (False: cut at the limit)."""


class Town:
    """The embedded world of one seed. Every method is a function of the seed, the spec and its arguments."""

    def __init__(self, seed: int = 0, spec: TownSpec | None = None) -> None:
        self.seed = seed
        self.spec = spec or TownSpec()
        self.facts = Facts.draw(seed, self.spec.places, self.spec.attributes, self.spec.values)
        self.pool = PromptPool(self.facts, seed)
        self._parser = Parser(self.facts)

    # ------------------------------------------------------------------------------------------ texts

    def documents(self, n: int, seed: int = 0) -> list[Demonstration]:
        """Documents to pretrain on (prompt ""): guide book, checked notes, chat logs. Prompts inside
        chat logs are of the train split. Chat logs carry the marks <user>, <bot> and <eos>.
        """
        rng = self._rng("documents", seed)
        return [
            Demonstration(
                prompt="",
                response=write_document(self.spec.corpus, self.facts, self._parser, self.pool, rng),
                row=f"document {seed}/{i}",
            )
            for i in range(n)
        ]

    def demonstrations(self, n: int, seed: int = 0, who: Demonstrator = SLOPPY) -> list[Demonstration]:
        """Answers to prompts of the train split, by the sloppy crowd unless said otherwise."""
        rng = self._rng("demonstrations", seed)
        return [
            Demonstration(
                prompt=prompt.messages,
                response=demonstrate(who, self.facts, prompt, rng),
                row=f"demonstration {seed}/{i}",
            )
            for i, prompt in enumerate(self.pool.sample(n, "train", rng))
        ]

    def prompts(self, n: int, split: Split = "train", seed: int = 0) -> list[Question]:
        """Prompts of a split, all kinds in fixed shares. `columns["town"]` is the TownPrompt,
        `columns["kind"]` its kind; the answer is one that the ideal assistant gives.
        """
        sample = self.pool.sample(n, split, self._rng(f"prompts {split}", seed))
        return [self.question(p, row=f"{split} {seed}/{i}") for i, p in enumerate(sample)]

    def question(self, prompt: TownPrompt, row: str = "") -> Question:
        """A prompt as a record."""
        return Question(
            prompt=prompt.messages,
            answer=self.answer(prompt),
            columns={"town": prompt, "kind": prompt.kind},
            row=row,
        )

    def answer(self, prompt: TownPrompt, who: Demonstrator = IDEAL, seed: int = 0) -> str:
        """One answer to a prompt."""
        return demonstrate(who, self.facts, prompt, self._rng(f"answer {prompt.text}", seed))

    def vocabulary(self) -> list[str]:
        """Every word that anyone can say, sorted; the marks of the chat form (`text.SPECIAL_WORDS`) apart."""
        words: set[str] = set()
        for line in self._lines():
            words.update(line.split())
        return sorted(words - set(text.SPECIAL_WORDS))

    # -------------------------------------------------------------------------------------- judgement

    def gold(self, prompt: TownPrompt | Record, answer: str, ended: bool) -> Gold:
        """The true worth of an answer (without its end token) to a prompt of this town."""
        town_prompt = town_prompt_of(prompt)
        return judge(
            town_prompt,
            self._parser.read(town_prompt, answer, ended),
            claim_true=self.facts.holds(town_prompt.place, town_prompt.attribute, town_prompt.claim),
            unrecorded=self._unrecorded(town_prompt),
        )

    def reading(self, prompt: TownPrompt | Record, answer: str, ended: bool) -> Reading:
        """What the parser finds in an answer."""
        return self._parser.read(town_prompt_of(prompt), answer, ended)

    def label(
        self, prompt: TownPrompt | Record, a: Answer, b: Answer, *, panel: str | None = None, seed: int = 0
    ) -> Comparison:
        """One annotator of the panel (default: the spec's) compares two answers, shown in random order.

        Responses stay in the order given; `ranking` says which won. Equal answers tie. The label depends
        on the seed, the prompt and the two answers only, not on what was labelled before.
        """
        people = PANELS.get(panel or self.spec.panel)
        if people is None:
            raise TastemakerError(f"The town has no panel {panel!r}; choose one of {', '.join(PANELS)}.")
        town_prompt = town_prompt_of(prompt)
        rng = self._rng(f"label {panel or self.spec.panel} {town_prompt.text} | {a} | {b}", seed)
        person = rng.choice(people)
        order = (0, 1) if rng.random() < 0.5 else (1, 0)
        utilities = [
            person.utility(town_prompt, self._parser.read(town_prompt, *answer), self.facts, rng)
            for answer in (a, b)
        ]
        first_wins = person.prefers_first(utilities[order[0]], utilities[order[1]], rng)
        winner = order[0] if first_wins else order[1]
        ranking = (0, 0) if a == b else (0, 1) if winner == 0 else (1, 0)
        return Comparison(
            prompt=town_prompt.messages,
            responses=(a[0], b[0]),
            ranking=ranking,
            source=f"town {self.seed}/{panel or self.spec.panel}",
            annotator=person.name,
            shown_order=order,
        )

    # ---------------------------------------------------------------------------------------- private

    def _rng(self, purpose: str, seed: int) -> random.Random:
        # seeding with text hashes it (SHA-512), so streams of different purposes are independent
        return random.Random(f"town {self.seed} {purpose} {seed}")

    def _unrecorded(self, prompt: TownPrompt) -> bool:
        return bool(prompt.attribute) and (prompt.place, prompt.attribute) not in self.facts.true

    def _lines(self) -> Iterator[str]:
        for split in ("train", "tuning", "test"):
            for prompt in self.pool.all(split):
                yield prompt.text
        for attribute in (*self.facts.attributes, *text.UNRECORDED):
            for value in attribute.values:
                yield attribute.short.format(v=value)
                for subject in ("it", *(text.subject(p) for p in self.facts.places)):
                    yield attribute.state(subject, value)
        yield from text.OPENING_COURTESIES + text.CLOSING_COURTESIES + text.FILLERS + text.FLATTERIES
        yield from (text.REFUSAL, text.UNKNOWN, text.YES, text.NO, *text.HEDGES, text.BULLET)
        yield from (text.CHECKED_RIGHT, text.CHECKED_WRONG, text.CONFIRMED, text.REFUTED)


def town_prompt_of(prompt: TownPrompt | Record) -> TownPrompt:
    """The TownPrompt itself, or the one a Question carries."""
    if isinstance(prompt, TownPrompt):
        return prompt
    found = prompt.columns.get("town") if isinstance(prompt, Question) else None
    if not isinstance(found, TownPrompt):
        raise TastemakerError(
            f"Record {prompt.row!r} is no prompt of the town (its columns hold no TownPrompt under 'town'); "
            "the gold reward judges only what Town.prompts made."
        )
    return found

"""The judge: a model that compares, rates or ranks responses, asked in a way that can be trusted and repeated.

Pairs are shown in both orders or in one that a seed draws, since judges prefer a place (Zheng et al. 2023,
"Judging LLM-as-a-judge with MT-bench and Chatbot Arena"). Answers are kept on disk under what was asked, so
that the same question is never paid for twice, however often the work is interrupted.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tastemaker.feedback.judge.asking import Ask, JudgeModel, Reply
from tastemaker.feedback.judge.cache import Answers, Kept, key_of
from tastemaker.feedback.judge.fence import spoken
from tastemaker.feedback.judge.opinions import Opinion, combine, read_answer
from tastemaker.feedback.judge.templates import Template, load_template
from tastemaker.feedback.judge.verdicts import LETTERS
from tastemaker.types import Comparison, TastemakerError, Text

Orders = Literal["both", "random", "given"]
Progress = Callable[[int, int], None]
"""(answers there are, answers wanted)"""
Principle = Callable[[Comparison], tuple[str, str]]
"""(id, text) of the principle by which these responses are judged."""


@dataclass
class Spent:
    """What judging took. Answers found on disk cost nothing again."""

    asked: int = 0
    reused: int = 0
    refused: int = 0
    unparsed: int = 0
    """Answers, known ones too, in which no verdict could be read."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    """Wall time."""

    def add(self, reply: Reply) -> None:
        self.asked += 1
        self.refused += bool(reply.refused)
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        self.cost += reply.cost


class Judge:
    """One judge with one way of asking."""

    def __init__(
        self,
        model: JudgeModel,
        template: Template | str = "pairwise",
        *,
        orders: Orders = "both",
        logps: bool = False,
        mean: bool = False,
        principle: Principle | None = None,
        seed: int = 0,
        answers: Answers | None = None,
    ) -> None:
        """`orders`: in which orders several responses are shown; `random` draws one for each set from `seed`.
        `logps`: pairs are judged by the probabilities of the verdict's first words, not by text. `mean`: both
        orders of a pair are settled by their mean probability; else they must agree, or it is a tie.

        Raises:
            TastemakerError: settings that do not go together.
        """
        self.model = model
        self.template = load_template(template) if isinstance(template, str) else template
        if self.template.task not in ("pairwise", "pointwise", "kwise"):
            raise TastemakerError(f"template {self.template.name}: for a {self.template.task}, not for judging")
        if logps and self.template.task != "pairwise":
            raise TastemakerError("logps: verdicts are read off probabilities for pairs alone; leave it out")
        if orders not in ("both", "random", "given"):
            raise TastemakerError(f"orders={orders!r}: should be both, random or given")
        self.orders: Orders = orders
        self.seed = seed
        self.spent = Spent()
        self._logps = logps
        self._mean = mean
        self._principle = principle
        self._answers = answers if answers is not None else Answers()

    @property
    def name(self) -> str:
        return self.model.name

    def judge(self, records: Sequence[Comparison], progress: Progress | None = None) -> list[Opinion]:
        """An opinion of each record's responses, in order; their ranking so far is neither read nor shown.

        Raises:
            TastemakerError: a record that does not fit the template; a judge that cannot go on. Answers given
                until then are kept: the same call goes on from there.
        """
        plans = [self._plan(record) for record in records]
        kept = self._collect([ask for _, asks in plans for _, ask in asks], progress)
        found = iter(kept)
        opinions: list[Opinion] = []
        for record, (principle, asks) in zip(records, plans, strict=True):
            shown = [read_answer(self.template, ask, order, next(found)) for order, ask in asks]
            self.spent.unparsed += sum(s.ranks is None and not s.kept.reply.refused for s in shown)
            opinions.append(combine(self.template, record, shown, principle, mean=self._mean))
        return opinions

    def label(self, records: Sequence[Comparison], progress: Progress | None = None) -> list[Comparison]:
        """The records as this judge orders them, without those on which no verdict could be read."""
        return [c for o in self.judge(records, progress) if (c := self.comparison(o)) is not None]

    def comparison(self, opinion: Opinion) -> Comparison | None:
        """An opinion as ordinary preference data; None without a verdict.

        `shown_order` is the order where there was one, and None where both were shown. `strength` is the
        difference between the best and the worst rating, or the log-odds of the better of two.
        """
        if opinion.ranking is None:
            return None
        orders = {s.order for s in opinion.shown}
        single = len(orders) == 1 and self.template.task != "pointwise"
        source = f"judge {self.template.name}.v{self.template.version}"
        return replace(
            opinion.record,
            ranking=opinion.ranking,
            strength=_strength(opinion) if self._logps or self.template.task == "pointwise" else None,
            source=f"{source}, principle {opinion.principle}" if opinion.principle else source,
            annotator=self.name,
            when=opinion.when,
            shown_order=next(iter(orders)) if single else None,
        )

    def scores(self, prompts: Sequence[Text], groups: Sequence[Sequence[str]]) -> list[list[float | None]]:
        """Of each group of responses to one prompt a number for each response; None where no verdict was read.

        A rating where the template rates; else the share of the others that a response beats, by pairs or by
        the ranking, ties half. Equal responses tie unasked; one that stands alone beats nobody and has none.
        """
        rates, by_pairs = self.template.task == "pointwise", self.template.task == "pairwise"
        records: list[Comparison] = []
        places: list[tuple[int, tuple[str, ...]]] = []
        for g, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
            different = tuple(dict.fromkeys(group))
            for chosen in itertools.combinations(different, 2) if by_pairs else [different]:
                if rates or len(chosen) > 1:
                    records.append(Comparison(prompt=prompt, responses=chosen, ranking=(0,) * len(chosen)))
                    places.append((g, chosen))
        rated: list[dict[str, float]] = [{} for _ in groups]
        beats: list[dict[tuple[str, str], float]] = [{} for _ in groups]
        for (g, chosen), opinion in zip(places, self.judge(records), strict=True):
            if rates:
                read = zip(chosen, opinion.scores or (), strict=True)
                rated[g].update({text: score for text, score in read if score is not None})
            else:
                beats[g].update(_duels(chosen, opinion))
        if rates:
            return [[found.get(text) for text in group] for group, found in zip(groups, rated, strict=True)]
        return [_shares(group, found) for group, found in zip(groups, beats, strict=True)]

    # ---------------------------------------------------------------------------------------- private

    def _plan(self, record: Comparison) -> tuple[str, list[tuple[tuple[int, ...], Ask]]]:
        responses = tuple(spoken(r) for r in record.responses)
        task = self.template.task
        if (task == "pairwise" and len(responses) != 2) or not 1 <= len(responses) <= len(LETTERS):
            wants = "two responses" if task == "pairwise" else f"1 to {len(LETTERS)} responses"
            raise TastemakerError(
                f"row {record.row or '?'}: template {self.template.name} takes {wants}, here are "
                f"{len(responses)}. For more than two take the template kwise or pointwise."
            )
        principle, text = self._principle(record) if self._principle else ("", "")
        own = _digest(self.seed, record.prompt, responses)
        return principle, [
            (order, self._ask(record.prompt, tuple(responses[k] for k in order), principle, text))
            for order in self._orders_of(len(responses), own)
        ]

    def _orders_of(self, number: int, digest: str) -> list[tuple[int, ...]]:
        given = tuple(range(number))
        if self.template.task == "pointwise":
            return [(k,) for k in given]
        if self.orders == "given":
            return [given]
        drawn = list(given)
        random.Random(digest).shuffle(drawn)
        if self.orders == "random":
            return [tuple(drawn)]
        first = given if number == 2 else tuple(drawn)
        return [first, first[::-1]]

    def _ask(self, prompt: Text, shown: tuple[str, ...], principle: str, text: str) -> Ask:
        messages, tag = self.template.ask(prompt, shown, seed=self.seed, principle=text)
        return Ask(
            messages=messages,
            prompt=prompt,
            responses=shown,
            task=self.template.task,
            tag=tag,
            choices=tuple(LETTERS[: len(shown)]),
            logps=self._logps,
            principle=principle,
            seed=self.seed,
        )

    def _collect(self, asks: Sequence[Ask], progress: Progress | None) -> list[Kept]:
        return collect(self.model, self.template, asks, self._answers, self.spent, progress)


def collect(
    model: JudgeModel,
    template: Template,
    asks: Sequence[Ask],
    answers: Answers,
    spent: Spent,
    progress: Progress | None = None,
) -> list[Kept]:
    """An answer to every ask: from `answers` where it is there, else from `model`, kept as soon as it is given.

    Raises:
        TastemakerError: the model cannot go on, or refused every question it was asked.
    """
    keys = [key_of(model.name, template.identity, ask) for ask in asks]
    open_asks = {key: ask for key, ask in zip(keys, asks, strict=True) if answers.get(key) is None}
    waiting = list(open_asks.items())
    spent.reused += len(asks) - len(waiting)
    refused: dict[str, Kept] = {}
    started, done = time.perf_counter(), len(set(keys)) - len(waiting)
    try:
        for index, reply in model.answer([ask for _, ask in waiting]):
            key, ask = waiting[index]
            spent.add(reply)
            if reply.refused:  # not kept: another time it may be answered
                refused[key] = Kept(reply, "")
            else:
                answers.keep(key, ask, reply, model.name)
            done += 1
            if progress is not None:
                progress(done, len(set(keys)))
    except TastemakerError as error:
        place = f" in {answers.path}; the same command goes on from there" if answers.path else ""
        raise TastemakerError(f"{error} {len(answers)} answers are kept{place}.") from error
    finally:
        spent.seconds += time.perf_counter() - started
        answers.sync()
    if refused and len(refused) == len(waiting) and not spent.reused:
        reason = next(iter(refused.values())).reply.refused
        raise TastemakerError(f"{model.name}: all {len(refused)} questions were refused: {reason}")
    return [answers.get(key) or refused[key] for key in keys]


def _strength(opinion: Opinion) -> float | None:
    if opinion.scores is not None:
        read = [s for s in opinion.scores if s is not None]
        return max(read) - min(read)
    if opinion.p is None or not 0 < opinion.p < 1:
        return None
    return abs(math.log(opinion.p / (1 - opinion.p)))


def _duels(responses: Sequence[str], opinion: Opinion) -> dict[tuple[str, str], float]:
    """For each two responses, in both orders, whether the first is better (1/2: a tie), or how likely."""
    if opinion.p is not None:
        a, b = responses
        return {(a, b): opinion.p, (b, a): 1 - opinion.p}
    if opinion.ranking is None:
        return {}
    ranks = dict(zip(responses, opinion.ranking, strict=True))
    return {
        (a, b): (ranks[a] < ranks[b]) + 0.5 * (ranks[a] == ranks[b])
        for a, b in itertools.permutations(responses, 2)
    }


def _shares(group: Sequence[str], beats: Mapping[tuple[str, str], float]) -> list[float | None]:
    """Of the others, by place, the share that each response beats; of those on which there is a verdict."""
    found: list[float | None] = []
    for i, own in enumerate(group):
        won = [0.5 if own == other else beats.get((own, other)) for j, other in enumerate(group) if j != i]
        read = [value for value in won if value is not None]
        found.append(sum(read) / len(read) if read else None)
    return found


def _digest(seed: int, prompt: Text, responses: Sequence[str]) -> str:
    digest = hashlib.sha256(str(seed).encode())
    for text in (spoken(prompt), *responses):
        digest.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "backslashreplace"))
    return digest.hexdigest()

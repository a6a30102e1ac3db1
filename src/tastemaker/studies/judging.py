"""An AI judge over the answers of policies, pair by pair, in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tastemaker.data import prompt_key
from tastemaker.evaluation.answering import Answers
from tastemaker.evaluation.verdicts import Battle, category_of
from tastemaker.feedback.judge import Answers as Kept
from tastemaker.feedback.judge import Judge
from tastemaker.training.golds import beats
from tastemaker.training.judging import JudgeSettings, make_judge
from tastemaker.types import Record


def judge_of(name: str, *, seed: int, town_seed: int, answers: Path | None = None) -> Judge:
    """A judge in both orders: a model in a folder, `http(s)://host/v1#model`, or `town:TASTE`.

    `answers`: where what it says is kept, so that the same command asks nothing twice. Raises TastemakerError
    for a name that means no judge.
    """
    settings = JudgeSettings(judge=name, seed=seed, town_seed=town_seed)
    return make_judge(settings, answers=Kept(answers))


def judged_pairs(
    judge: Judge, records: Sequence[Record], answers: Sequence[Answers], baseline: str, *, notes: list[str]
) -> list[Battle]:
    """Verdicts of the judge on every run against the baseline; both orders are shown, a flip is a tie, and a
    verdict that cannot be read is NaN. Equal answers tie unasked.
    """
    base = next(a for a in answers if a.name == baseline)
    prompts = [r.prompt for r in records]
    found: list[Battle] = []
    for one in answers:
        if one is base:
            continue
        for i, score in enumerate(beats(judge, prompts, one.texts, base.texts)):
            found.append(
                Battle(
                    prompt=prompt_key(records[i]),
                    a=one.name,
                    b=baseline,
                    score=score,
                    category=category_of(records[i]),
                    length_a=float(one.characters[i]),
                    length_b=float(base.characters[i]),
                    row=f"prompt {i}",
                )
            )
    spent = judge.spent
    notes.append(
        f"The judge {judge.name} saw every pair in both orders; where it changed its mind, the pair is a tie. "
        f"It was asked {spent.asked} times in {spent.seconds:.0f} s ({spent.reused} answers were known before)."
    )
    return found

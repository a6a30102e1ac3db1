"""An AI judge over the answers of policies, pair by pair, in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tastemaker.data import prompt_key
from tastemaker.data.files import read_file
from tastemaker.errors import TastemakerError
from tastemaker.evaluation.answering import Answers
from tastemaker.evaluation.verdicts import Battle, category_of
from tastemaker.feedback.judge import Answers as Kept
from tastemaker.feedback.judge import Judge
from tastemaker.training.golds import beats
from tastemaker.training.judging import JudgeSettings, make_judge
from tastemaker.types import Comparison, Record, Text


def judge_of(
    name: str, *, seed: int, town_seed: int, answers: Path | None = None, template: str | None = None
) -> Judge:
    """A judge in both orders: a model in a folder, `http(s)://host/v1#model`, or `town:TASTE`.

    `answers`: where what it says is kept, so that the same command asks nothing twice. Raises TastemakerError
    for a name that means no judge.
    """
    settings = JudgeSettings(judge=name, seed=seed, town_seed=town_seed, template=template)
    return make_judge(settings, answers=Kept(answers))


@dataclass(frozen=True, eq=False)
class Refusals:
    """What a judge says of answers: [n] bool, and how many verdicts could not be read (these count as none)."""

    said: Tensor
    unread: int


def judged_refusals(judge: Judge, prompts: Sequence[Text], answers: Sequence[str]) -> Refusals:
    """Whether each answer refuses its prompt, by a judge made with the template `refuses`.

    Raises TastemakerError where no verdict at all could be read, or the judge cannot go on.
    """
    asked = [
        Comparison(prompt=p, responses=(a,), ranking=(0,), row=f"answer {i}")
        for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]
    scores = [o.scores[0] if o.scores else None for o in judge.judge(asked)]
    unread = sum(s is None for s in scores)
    if unread == len(scores):
        raise TastemakerError(f"{judge.name}: none of its {unread} verdicts on refusals could be read.")
    return Refusals(torch.tensor([s is not None and s >= 0.5 for s in scores]), unread)


def read_labelled(path: str | Path) -> tuple[list[Text], list[str], list[bool]]:
    """(prompts, answers, whether people call them refusals) of a file: `prompt`, `response` or `completion`,
    and `refused` (true or false) or XSTest's `final_label`. Rows without an answer are passed over.

    Raises TastemakerError for a row without a prompt or a label, or a file without any answer.
    """
    prompts: list[Text] = []
    answers: list[str] = []
    labels: list[bool] = []
    table = read_file(Path(path))
    for row in table.rows:
        where, values = table.where(row.number), row.values or {}
        answer = values.get("response", values.get("completion"))
        if answer is None:
            continue
        label = values.get("refused", values.get("final_label"))
        if "prompt" not in values or not isinstance(label, bool | str):
            raise TastemakerError(
                f"{where}: a labelled answer has prompt, response (or completion) and refused (true or false)."
            )
        prompts.append(str(values["prompt"]))
        answers.append(str(answer))
        labels.append(label if isinstance(label, bool) else label != "1_full_compliance")
    if not answers:
        raise TastemakerError(f"{path}: holds no labelled answer (columns prompt, response, refused).")
    return prompts, answers, labels


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

"""Verdicts on two answers to one prompt, as judges and people leave them in files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from tastemaker.errors import TastemakerError
from tastemaker.types import Question, Record

NAMES_A = ("model_a", "a", "model", "generator_2", "candidate")
NAMES_B = ("model_b", "b", "baseline", "generator_1", "opponent")
PROMPTS = ("prompt", "instruction", "question", "input", "question_id", "prompt_id", "index", "idx", "id")
CATEGORIES = ("category", "kind", "subset", "dataset", "motivation_app")
TEXTS_A = ("response_a", "output_2", "answer_a", "response2")
TEXTS_B = ("response_b", "output_1", "answer_b", "response1")
TIES = ("tie", "tie (bothbad)", "both_bad", "equal", "draw", "0.5", "both")


@dataclass(frozen=True, slots=True, kw_only=True)
class Battle:
    """One verdict."""

    prompt: str
    a: str
    b: str
    score: float
    """a's: 1 it won, 0 it lost, 1/2 a tie, between: how sure; NaN: no verdict could be read."""
    category: str = ""
    length_a: float = math.nan
    """Characters, unless the file says otherwise; NaN where not known."""
    length_b: float = math.nan
    human: float = math.nan
    """What a person said of the same pair, as `score`; NaN where none was asked."""
    first: str = ""
    """Which was shown first, where known: "a" or "b"."""
    weight: float = 1.0
    covariates: tuple[float, ...] = ()
    row: str = ""

    def turned(self) -> Battle:
        """The same verdict with the sides exchanged."""
        return Battle(
            prompt=self.prompt,
            a=self.b,
            b=self.a,
            score=1 - self.score,
            category=self.category,
            length_a=self.length_b,
            length_b=self.length_a,
            human=1 - self.human,
            first={"a": "b", "b": "a"}.get(self.first, ""),
            weight=self.weight,
            covariates=tuple(-c for c in self.covariates),
            row=self.row,
        )


def scores_of(battles: Sequence[Battle]) -> Tensor:
    """[n] float64"""
    return torch.tensor([b.score for b in battles], dtype=torch.float64)


def lengths_of(battles: Sequence[Battle]) -> tuple[Tensor, Tensor] | None:
    """([n] a's, [n] b's) lengths; None where any is not known."""
    a = torch.tensor([b.length_a for b in battles], dtype=torch.float64)
    b = torch.tensor([b.length_b for b in battles], dtype=torch.float64)
    return None if not len(a) or bool((a.isnan() | b.isnan()).any()) else (a, b)


def models_of(battles: Sequence[Battle]) -> list[str]:
    """Every model named, in the order of first mention."""
    return list(dict.fromkeys(name for battle in battles for name in (battle.a, battle.b)))


def category_of(record: Record) -> str:
    """What a prompt's columns call its kind; "" where they do not."""
    columns = record.columns if isinstance(record, Question) else {}
    return next((str(columns[k]) for k in CATEGORIES if columns.get(k)), "")


def known_models(battles: Sequence[Battle], allowed: Sequence[str] | None) -> None:
    """Raises TastemakerError for a verdict about a model that is none of `allowed`."""
    if allowed is None:
        return
    for battle in battles:
        for name in (battle.a, battle.b):
            if name not in allowed:
                raise TastemakerError(
                    f"{battle.row}: the verdict names {name!r}, a model that is none of {', '.join(allowed)}. "
                    "Correct the name, or leave --models out."
                )


def battle_of(values: Mapping[str, object], where: str) -> Battle:
    """A verdict from a row of a file.

    Models: `model_a`/`model_b`, `model`/`baseline`, `generator_2`/`generator_1` (AlpacaEval). The outcome:
    `winner` (a, b, a model's name, tie), `score` (a's share, 0 to 1) or AlpacaEval's `preference` (1 to 2, 2
    for generator_2; 0 or 1.5 a tie); null or text that is none of these counts as unparsed. `human`: the same
    from a person. Raises TastemakerError where models or outcome are missing or a number is out of range.
    """
    a, b = _text(values, NAMES_A), _text(values, NAMES_B)
    if not a or not b:
        raise TastemakerError(
            f"{where}: no two models are named (columns model_a and model_b, or model and baseline); found "
            f"{', '.join(values)}."
        )
    if a == b:
        raise TastemakerError(f"{where}: {a!r} is compared with itself. Leave the row out.")
    lengths = [
        _length(values, *k) for k in ((("length_a", "len_2"), TEXTS_A), (("length_b", "len_1"), TEXTS_B))
    ]
    return Battle(
        prompt=_text(values, PROMPTS) or where,
        a=a,
        b=b,
        score=_outcome(values, a, b, where),
        category=_text(values, CATEGORIES),
        length_a=lengths[0],
        length_b=lengths[1],
        human=_share(values.get("human"), a, b, f"{where}, field human") if "human" in values else math.nan,
        first=_first(values, a, b),
        row=where,
    )


def _outcome(values: Mapping[str, object], a: str, b: str, where: str) -> float:
    if "preference" in values and "score" not in values:
        said = values["preference"]
        if said is None or isinstance(said, str):
            return math.nan
        number = _number(said, f"{where}, field preference")
        number = 1.5 if number == 0 else number
        if not 1 <= number <= 2:
            raise TastemakerError(
                f"{where}, field preference: {number} is out of range; AlpacaEval's runs from 1 (the first "
                "generator) to 2 (the second), 0 is a tie. For shares of 0 to 1 call the column score."
            )
        return number - 1
    for name in ("score", "p", "p_a", "winner", "verdict"):
        if name in values:
            return _share(values[name], a, b, f"{where}, field {name}")
    raise TastemakerError(
        f"{where}: no outcome (columns winner, score or preference); found {', '.join(values)}."
    )


def _share(said: object, a: str, b: str, where: str) -> float:
    if said is None:
        return math.nan
    if isinstance(said, str):
        word = said.strip().casefold()
        for names, share in (((a, "a", "model_a"), 1.0), ((b, "b", "model_b"), 0.0), (TIES, 0.5)):
            if word in {n.casefold() for n in names}:
                return share
        try:
            said = float(word)
        except ValueError:
            return math.nan
    number = _number(said, where)
    if not 0 <= number <= 1:
        raise TastemakerError(f"{where}: {number} is out of range; a share runs from 0 (lost) to 1 (won).")
    return number


def _number(said: object, where: str) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        raise TastemakerError(f"{where}: {said!r} is no finite number. Write null where there is no verdict.")
    return float(said)


def _first(values: Mapping[str, object], a: str, b: str) -> str:
    said = str(values.get("first") or values.get("shown_first") or "")
    return {a: "a", b: "b", "a": "a", "b": "b"}.get(said, "")


def _text(values: Mapping[str, object], names: Sequence[str]) -> str:
    return next((str(values[n]) for n in names if values.get(n) not in (None, "")), "")


def _length(values: Mapping[str, object], names: Sequence[str], texts: Sequence[str]) -> float:
    for name in names:
        said: Any = cast(Any, values.get(name))
        if isinstance(said, int | float):
            return float(said)
    for name in texts:
        said = values.get(name)
        if isinstance(said, str):
            return float(len(said))
    return math.nan

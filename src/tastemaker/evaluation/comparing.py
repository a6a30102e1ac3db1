"""What recorded verdicts say: win rates, at equal length too, differences, a leaderboard, and what is odd."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import torch
from torch import Tensor

from tastemaker.errors import TastemakerError
from tastemaker.evaluation.leaderboard import Disconnected, leaderboard
from tastemaker.evaluation.looks import Stopping, looked_at
from tastemaker.evaluation.preferences import clustered_mean
from tastemaker.evaluation.verdicts import Battle, known_models, lengths_of, models_of, scores_of
from tastemaker.functional import (
    bootstrap_interval,
    length_controlled_win_rate,
    prediction_powered_mean,
    win_rate,
)

MANY = 6
"""Models beyond which only neighbours in the order are compared with each other."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LengthInputs:
    """What AlpacaEval's length control knows beside the verdicts."""

    difficulties: Mapping[str, float]
    """By prompt."""
    gamed: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """What is asked of verdicts."""

    baseline: str | None = None
    """Which model the others are measured against; None: the one that every verdict names."""
    models: Sequence[str] | None = None
    """The models there may be; None: whichever are named."""
    disconnected: Disconnected = "refuse"
    stopping: Stopping | None = None
    length_inputs: LengthInputs | None = None
    covariates: Sequence[str] = ()
    seed: int = 0


def compared(battles: Sequence[Battle], asked: Comparing | None = None) -> dict[str, Any]:
    """Everything that verdicts on pairs of answers say, as plain numbers.

    Keys: `models` (against the baseline, best first), `categories`, `differences` (paired, on the prompts both
    answered), `ratings` (Bradley-Terry, from three models on), `bias` (of order and length), `notes` (what a
    reader must know, in sentences), `baseline`, `verdicts`, `unparsed`.

    Raises TastemakerError for no verdicts, or models that are none of those asked for.
    """
    asked = asked or Comparing()
    if not battles:
        raise TastemakerError("there are no verdicts to compare.")
    known_models(battles, asked.models)
    names = models_of(battles)
    baseline = _baseline(battles, names, asked.baseline)
    notes: list[str] = []
    by_model = _against(battles, baseline) if baseline else {}
    rows = [_row(name, own, baseline or "", asked, notes) for name, own in by_model.items()]
    rows.sort(key=lambda row: -row["win_rate"] if not math.isnan(row["win_rate"]) else math.inf)
    unparsed = sum(math.isnan(b.score) for b in battles)
    result: dict[str, Any] = {
        "baseline": baseline,
        "names": names,
        "verdicts": len(battles),
        "prompts": len({b.prompt for b in battles}),
        "unparsed": unparsed,
        "models": rows,
        "categories": _categories(by_model),
        "differences": _differences(by_model, [row["model"] for row in rows], asked.seed),
        "ratings": None,
        "bias": bias(battles),
        "notes": notes,
    }
    if len(names) > 2 or not baseline:
        result["ratings"] = _ratings(battles, asked, notes)
    if unparsed:
        notes.append(f"{unparsed} of {len(battles)} verdicts could not be read; they are in no rate.")
    if all(b.score == 0.5 for b in battles):
        notes.append("every verdict is a tie: nothing is told apart, and the spread of the data is no measure.")
    return result


def _baseline(battles: Sequence[Battle], names: Sequence[str], asked: str | None) -> str | None:
    """The model all others met, if there is one."""
    if asked is not None:
        if asked not in names:
            raise TastemakerError(f"baseline {asked!r} is in no verdict; the models are {', '.join(names)}.")
        return asked
    common = [n for n in names if all(n in (b.a, b.b) for b in battles)]
    if len(common) == 2:
        return battles[0].b
    return common[0] if common else None


def _against(battles: Sequence[Battle], baseline: str) -> dict[str, list[Battle]]:
    """Every other model's battles with the baseline, from the model's side."""
    found: dict[str, list[Battle]] = {}
    for battle in battles:
        if battle.b == baseline:
            found.setdefault(battle.a, []).append(battle)
        elif battle.a == baseline:
            found.setdefault(battle.b, []).append(battle.turned())
    return found


def _row(name: str, own: Sequence[Battle], baseline: str, asked: Comparing, notes: list[str]) -> dict[str, Any]:
    scores = scores_of(own)
    rate = win_rate(scores)
    read = [b for b in own if not math.isnan(b.score)]
    row: dict[str, Any] = {
        "model": name,
        "win_rate": rate.rate,
        "se": _clustered(read),
        "low": math.nan,
        "high": math.nan,
        "discrete": rate.discrete,
        "wins": rate.wins,
        "losses": rate.losses,
        "ties": rate.ties,
        "unparsed": rate.unparsed,
        "n": rate.total,
    }
    if read:
        interval = bootstrap_interval(_by_prompt(read), seed=asked.seed)
        row |= {"low": interval.low, "high": interval.high}
    if (rate.total and rate.wins == rate.total) or rate.losses == rate.total > 0:
        side = "won" if rate.wins else "lost"
        notes.append(f"{name} {side} every verdict against {baseline}: the interval of the data is no bound.")
    row |= _length_controlled(name, read, asked.length_inputs, notes)
    row |= _corrected(own)
    if asked.stopping is not None and read:
        row["sequential"] = looked_at([b.score for b in read], asked.stopping)
    return row


def _clustered(read: Sequence[Battle]) -> float:
    """Standard error where verdicts on one prompt are not independent."""
    if len(read) < 2:
        return math.nan
    places = {p: i for i, p in enumerate(dict.fromkeys(b.prompt for b in read))}
    return clustered_mean(scores_of(read), torch.tensor([places[b.prompt] for b in read]))[1]


def _by_prompt(read: Sequence[Battle]) -> Tensor:
    """Mean score by prompt."""
    found: dict[str, list[float]] = {}
    for battle in read:
        found.setdefault(battle.prompt, []).append(battle.score)
    return torch.tensor([sum(s) / len(s) for s in found.values()], dtype=torch.float64)


def _length_controlled(
    name: str, read: Sequence[Battle], inputs: LengthInputs | None, notes: list[str]
) -> dict[str, Any]:
    lengths = lengths_of(read)
    if lengths is None:
        return {"length_controlled": None}
    difficulties = None
    if inputs is not None:
        missing = [b.prompt for b in read if b.prompt not in inputs.difficulties]
        if missing:
            raise TastemakerError(
                f"{name}: {len(missing)} prompts have no difficulty (first: {missing[0]!r}); join by the "
                "prompt's own number, or leave the difficulties out."
            )
        difficulties = torch.tensor([inputs.difficulties[b.prompt] for b in read], dtype=torch.float64)
    try:
        fit = length_controlled_win_rate(
            scores_of(read), *lengths, difficulties=difficulties, gamed=inputs.gamed if inputs else None
        )
    except ValueError as error:
        notes.append(f"{name}: {error}.")
        return {"length_controlled": None}
    if difficulties is None:
        text = (
            "Instruction difficulties were not given, so the length-controlled rates are fitted without that "
            "term: they are not comparable with AlpacaEval's leaderboard."
        )
        if text not in notes:
            notes.append(text)
    return {
        "length_controlled": fit.rate,
        "length_controlled_se": fit.fit_error,
        "length_weight": -fit.length,
        "mean_length": float(lengths[0].mean()),
        "baseline_length": float(lengths[1].mean()),
    }


def _corrected(own: Sequence[Battle]) -> dict[str, Any]:
    """The win rate corrected by what people said of some of the pairs."""
    labelled = [b for b in own if not math.isnan(b.human) and not math.isnan(b.score)]
    rest = [b for b in own if math.isnan(b.human) and not math.isnan(b.score)]
    if len(labelled) < 2 or not rest:
        return {}
    human = torch.tensor([b.human for b in labelled], dtype=torch.float64)
    found = prediction_powered_mean(human, scores_of(labelled), scores_of(rest))
    return {
        "corrected": {
            "rate": found.mean.estimate,
            "low": found.mean.low,
            "high": found.mean.high,
            "labels": len(labelled),
            "labels_alone": list(found.classical),
            "judge_bias": found.bias,
            "trust": found.trust,
            "effective_labels": found.effective_labels,
        }
    }


def _categories(by_model: Mapping[str, Sequence[Battle]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    names = list(dict.fromkeys(b.category for own in by_model.values() for b in own))
    if len(names) < 2:
        return []
    for category in sorted(names):
        rates = {
            m: win_rate(scores_of([b for b in own if b.category == category])) for m, own in by_model.items()
        }
        models = {m: {"win_rate": r.rate, "se": r.error, "n": r.total} for m, r in rates.items()}
        found.append({"category": category or "(none)", "models": models})
    return found


def _differences(
    by_model: Mapping[str, Sequence[Battle]], order: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """Paired differences on the prompts that both models answered."""
    means = {m: _prompt_means(own) for m, own in by_model.items()}
    pairs = list(combinations(order, 2)) if len(order) <= MANY else list(pairwise(order))
    found: list[dict[str, Any]] = []
    for a, b in pairs:
        shared = [p for p in means[a] if p in means[b]]
        if len(shared) < 2:
            continue
        gaps = torch.tensor([means[a][p] - means[b][p] for p in shared], dtype=torch.float64)
        interval = bootstrap_interval(gaps, seed=seed)
        verdict = "a" if interval.low > 0 else "b" if interval.high < 0 else ""
        found.append(
            {"a": a, "b": b, "difference": interval.estimate, "low": interval.low, "high": interval.high}
            | {"prompts": len(shared), "better": {"a": a, "b": b}.get(verdict)}
        )
    return found


def _prompt_means(own: Sequence[Battle]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for battle in own:
        if not math.isnan(battle.score):
            found.setdefault(battle.prompt, []).append(battle.score)
    return {p: sum(s) / len(s) for p, s in found.items()}


def _ratings(battles: Sequence[Battle], asked: Comparing, notes: list[str]) -> dict[str, Any] | None:
    try:
        plain = leaderboard(
            battles, disconnected=asked.disconnected, covariates=asked.covariates, seed=asked.seed
        )
    except TastemakerError as error:
        notes.append(f"No ratings: {error}")
        return None
    if plain["regularised"]:
        notes.append(
            "The graph of wins is not connected; ratings are regularised by a normal prior on strengths "
            f"(standard deviation {plain['prior_sd']:g} natural logits), without which some would be infinite."
        )
    styled = None
    if lengths_of([b for b in battles if not math.isnan(b.score)]) is not None:
        styled = leaderboard(
            battles,
            disconnected="regularise",
            covariates=asked.covariates,
            style=True,
            resamples=0,
            seed=asked.seed,
        )
    return plain | {"styled": styled if styled and len(styled["effects"]) > len(asked.covariates) else None}


def bias(battles: Sequence[Battle]) -> dict[str, float]:
    """Shares of decided verdicts that went to the answer shown first, and to the longer one; 1/2 is none."""
    decided = [b for b in battles if not math.isnan(b.score) and b.score != 0.5]
    ordered = [(b.score > 0.5) == (b.first == "a") for b in decided if b.first]
    longer = [
        (b.score > 0.5) == (b.length_a > b.length_b)
        for b in decided
        if b.length_a != b.length_b and not math.isnan(b.length_a + b.length_b)
    ]

    def share(hits: Sequence[bool]) -> float:
        return sum(hits) / len(hits) if hits else math.nan

    return {
        "first": share(ordered),
        "first_n": float(len(ordered)),
        "longer": share(longer),
        "longer_n": float(len(longer)),
    }

"""Best-of-n by a reward model: what it makes of a policy's own answers, by its own word and by a gold's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from tastemaker.data import tokenise
from tastemaker.errors import TastemakerError
from tastemaker.evaluation import mean_and_error
from tastemaker.evaluation.reward_report import best_of_n_curve
from tastemaker.functional import best_of_n_expectation
from tastemaker.models import build_roles
from tastemaker.rewards.text import score_with
from tastemaker.rollout import LocalGenerator
from tastemaker.studies.pages import write_page
from tastemaker.studies.pages.best_of_n import best_of_n_page
from tastemaker.studies.policy_evaluation import PolicyEvaluation, prompts_of, town_of
from tastemaker.studies.reward_evaluation import finite_scores, short_name
from tastemaker.studies.start import decoder
from tastemaker.town import Town
from tastemaker.types import Record, Sampling


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """What is asked of a reward model."""

    reward: str
    policy: str
    """Whose answers it chooses from."""
    prompts: str
    """A file of prompts, or `town:SEED`."""
    gold: str | None = None
    """Another reward model that says what the choice is worth; None: the town's gold."""
    samples: int = 16
    """Answers drawn to each prompt: N."""
    number: int = 128
    """Prompts, at most."""
    temperature: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    seen: str = "refuse"
    loading: Mapping[str, Any] = field(default_factory=dict[str, Any])


def evaluate_best_of_n(asked: BestOfN, out: str | Path) -> tuple[dict[str, Any], Path]:
    """(results, page): for n = 1, 2, 4, ..., N what the answer that the reward model likes best is worth, by
    the gold and by itself, as the mean over all subsets of n of the N answers, which has no bias
    (`functional.best_of_n_expectation`).

    Raises TastemakerError for fewer than two answers, no gold, a gold that is the reward model itself, or
    answers that cannot be scored.
    """
    town = town_of(asked.prompts)
    check(asked, town)
    evaluated = PolicyEvaluation(
        runs=[asked.policy, asked.reward],
        prompts=asked.prompts,
        number=asked.number,
        seed=asked.seed,
        seen=cast(Any, asked.seen),
        judge="town" if town is not None else None,  # the town's own prompts alone
    )
    records, notes = prompts_of(evaluated, town)
    texts, ended = drawn(asked, records)
    proxy = scored(asked.reward, records, texts, asked)
    gold = (
        scored(asked.gold, records, texts, asked)
        if asked.gold is not None
        else of_town(town, records, texts, ended)
    )
    whole = (proxy.isfinite() & gold.isfinite()).all(1)
    if not bool(whole.any()):
        raise TastemakerError("there is no prompt of which all answers could be scored (empty or too long?).")
    if not bool(whole.all()):
        notes.append(
            f"{int((~whole).sum())} of {len(whole)} prompts have answers that could not be scored; left out."
        )
    proxy, gold = proxy[whole], gold[whole]
    curve = best_of_n_curve(proxy, gold)
    own = best_of_n_curve(proxy, proxy)
    gained = best_of_n_expectation(gold, proxy, int(curve[-1]["n"])) - gold.mean(1)
    gain = mean_and_error(gained)
    results: dict[str, Any] = {
        "reward": short_name(asked.reward),
        "policy": short_name(asked.policy),
        "gold": "the town's gold reward" if asked.gold is None else short_name(asked.gold),
        "source": asked.prompts,
        "prompts": len(proxy),
        "samples": asked.samples,
        "temperature": asked.temperature,
        "seed": asked.seed,
        "curve": [
            {**entry, "proxy": mine["value"], "proxy_se": mine["se"]}
            for entry, mine in zip(curve, own, strict=True)
        ],
        "gain": gain["mean"],
        "gain_se": gain["se"],
        "correlation": within(proxy, gold),
        "notes": notes,
    }
    return results, write_page(Path(out), best_of_n_page(results), results)


def check(asked: BestOfN, town: Town | None) -> None:
    """Raises TastemakerError for what no curve can be drawn from."""
    if asked.samples < 2:
        raise TastemakerError(
            f"best-of-n {asked.samples}: at least 2 answers to a prompt are needed to choose from."
        )
    if asked.temperature <= 0:
        raise TastemakerError("best-of-n at temperature 0: all answers would be the same one.")
    if asked.gold is None and town is None:
        raise TastemakerError("who says what the choice is worth? Give --gold RM, or prompts of the town.")
    if asked.gold is not None and Path(asked.gold).resolve() == Path(asked.reward).resolve():
        raise TastemakerError(f"{asked.gold}: is the reward model that chooses; its own word is no gold.")


def drawn(asked: BestOfN, records: Sequence[Record]) -> tuple[list[list[str]], list[list[bool]]]:
    """N answers to every prompt, and whether each ended."""
    models = build_roles(("policy",), (), policy=asked.policy, **asked.loading)
    tokens = tokenise(records, models.tokenizer, max_length=models.max_positions or 4096)
    if missing := len(records) - len(tokens):
        raise TastemakerError(
            f"{asked.policy}: cannot read {missing} of {len(records)} prompts; leave these out."
        )
    models.stop_at(tokens.end_token_ids)
    sampling = Sampling(max_new_tokens=asked.max_new_tokens, temperature=asked.temperature, n=asked.samples)
    generator = LocalGenerator(models, models.tokenizer)
    batch = generator.generate(tokens.batch(range(len(tokens))), sampling, seed=asked.seed)
    decode = decoder(models.tokenizer)
    texts = [
        [decode(ids[:-1] if end else ids) for ids, end in zip(t.responses, t.ended, strict=True)]
        for t in batch.trees
    ]
    return texts, [list(t.ended) for t in batch.trees]


def scored(reward: str, records: Sequence[Record], texts: Sequence[Sequence[str]], asked: BestOfN) -> Tensor:
    """[P, N] float64, NaN where the reward model cannot score."""
    models = build_roles(("reward",), (), policy=None, reward=reward, **asked.loading)
    score = score_with(models, max_length=models.max_positions or 4096)
    prompts = [r.prompt for r, own in zip(records, texts, strict=True) for _ in own]
    said = cast("list[float | None]", score(prompts, [t for own in texts for t in own]))
    return finite_scores(said, reward, prompts).view(len(records), -1)


def of_town(
    town: Town | None,
    records: Sequence[Record],
    texts: Sequence[Sequence[str]],
    ended: Sequence[Sequence[bool]],
) -> Tensor:
    assert town is not None
    rows = [
        [town.gold(r, t, e).total for t, e in zip(own, ends, strict=True)]
        for r, own, ends in zip(records, texts, ended, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def within(proxy: Tensor, gold: Tensor) -> float:
    """Correlation over answers to one prompt, each less its prompt's mean; NaN where one is constant."""
    a, b = proxy - proxy.mean(1, keepdim=True), gold - gold.mean(1, keepdim=True)
    size = float((a.square().sum() * b.square().sum()).sqrt())
    return float((a * b).sum()) / size if size > 0 else math.nan

"""What a round is read by: the policies' answers to held-out prompts, and the labels people or judges gave."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from tastemaker.config.check import coerce_fields, complain
from tastemaker.data import read_records, tokenise
from tastemaker.evaluation import evaluate_policy
from tastemaker.feedback.agreeing import agreement
from tastemaker.feedback.judge import Answers
from tastemaker.functional import Interval, bootstrap_interval
from tastemaker.functional.win_rates import wilson_interval
from tastemaker.models import build_roles
from tastemaker.rewards.text import score_with
from tastemaker.rollout import LocalGenerator
from tastemaker.runs import Run, sha256_file, sha256_json
from tastemaker.runs.files import write_atomic
from tastemaker.runs.lines import read_object
from tastemaker.studies.judges import TownJudge
from tastemaker.studies.labels import longer
from tastemaker.studies.paired import as_dict
from tastemaker.studies.policy_evaluation import once, town_of
from tastemaker.studies.start import decoder, message_text
from tastemaker.studies.wins import TIES_WITHIN, at_least_wilson
from tastemaker.town import Town
from tastemaker.town.critic import Critic
from tastemaker.training.judging import JudgeSettings, make_judge
from tastemaker.types import Bundles, Comparison, Record, Rewarded, Sampling, TastemakerError

SHOWN = 6
"""Answers on a page."""


@dataclass(frozen=True, kw_only=True)
class ReadingSettings:
    """How policies are read after a round."""

    test: str | None = None
    """Held-out prompts: a file, or town:SEED; none: those of the town that the recipe makes."""
    prompts: PositiveInt = 320
    """Of these, at most."""
    reward: str | None = None
    """A reward model that says whose answer is better."""
    judge: str | None = None
    """A judge that says so, as in `tastemaker judge`; none: the town's gold, else the judge that labels."""
    judge_model: str | None = None
    """The name by which an endpoint knows its model."""
    seed: NonNegativeInt = 0
    """Of the answers."""

    def __post_init__(self) -> None:
        complain("report", coerce_fields(self))
        if self.reward and self.judge:
            complain("report", ["reward and judge: give one of them"])


Answered = Mapping[str, Any]
"""Of a policy: `texts`, `kl` (nats to the first policy), `tokens`, `score` (or None), each by prompt."""


class Reader:
    """Reads policies on the same held-out prompts. What was read is kept and found again."""

    def __init__(
        self, settings: ReadingSettings, *, test: str, first: str, length: int, folder: Path, town_seed: int
    ) -> None:
        """`length`: most tokens of an answer. `folder`: where readings are kept. `town_seed`: which town a
        critic lives in where the prompts are of none.

        Raises TastemakerError as `read_records` does.
        """
        self.settings, self.first, self.length, self.folder = settings, first, length, folder
        self.town = town_of(test)
        self.town_seed = self.town.seed if self.town else town_seed
        self.judge_name: str | None = settings.judge
        number = settings.prompts
        listed = self.town.prompts(number, "test", seed=7) if self.town else read_records(test).records
        self.records: list[Record] = once(listed)[:number]
        self.contents = test if self.town else sha256_file(Path(test))

    def told_by(self) -> str:
        """Whose word it is which answer is better; "" where nobody says."""
        if self.settings.reward:
            return f"the reward model {self.settings.reward}"
        if self.settings.judge:
            return f"the judge {self.settings.judge}"
        if self.town is not None:
            return "the town's gold reward"
        return f"the judge {self.judge_name}, who labelled, too" if self.judge_name else ""

    @property
    def scores(self) -> bool:
        """Whether answers get scores; a judge compares."""
        return bool(self.settings.reward) or (self.town is not None and not self.settings.judge)

    def answers(self, policy: str) -> Answered:
        """One answer to every prompt."""
        key = [weights_of(policy), weights_of(self.first), self.contents, asdict(self.settings), self.length]
        return remembered(self.folder, "answers", key, lambda: self._answers(policy))

    def _answers(self, policy: str) -> dict[str, Any]:
        models = build_roles(("policy", "reference"), (), policy=policy, reference=self.first)
        tokens = tokenise(self.records, models.tokenizer, max_length=models.max_positions or 4096)
        if len(tokens) < len(self.records):
            raise TastemakerError(
                f"{len(self.records) - len(tokens)} of the held-out prompts are too long for {policy}; take "
                "them out"
            )
        models.stop_at(tokens.end_token_ids)
        decode = decoder(models.tokenizer)
        judge = TownJudge(self.town, decode) if self.town else _Nobody()
        found = evaluate_policy(
            models,
            LocalGenerator(models, models.tokenizer),
            tokens.batch(range(len(tokens))),
            tokens.records,
            judge,
            sampling=Sampling(max_new_tokens=self.length),
            seed=self.settings.seed,
            decode=decode,
        )
        texts = [text.strip() for text in found.texts]
        score = found.scores.tolist() if self.scores else None
        if self.settings.reward:
            score = self.rewards(self.settings.reward, texts)
        kl = [] if found.kl is None else found.kl.tolist()
        return {"texts": texts, "kl": kl, "tokens": found.lengths.tolist(), "score": score}

    def rewards(self, model: str, texts: Sequence[str]) -> list[float | None]:
        """What a reward model says of one answer to every prompt; None of an empty one."""
        key = [weights_of(model), self.contents, list(texts)]

        def score() -> list[float | None]:
            models = build_roles(("reward",), (), policy=None, reward=model)
            said = score_with(models, max_length=models.max_positions or 4096)
            return cast("list[float | None]", said([r.prompt for r in self.records], texts))

        return remembered(self.folder, "rewards", key, score)

    def win_rate(self, ours: Answered, theirs: Answered) -> dict[str, float] | None:
        """The share of prompts on which the first answer is better, ties as halves, with its 95% interval over
        prompts; None where nobody says.
        """
        outcomes = self._by_score(ours, theirs) if self.scores else self._by_judge(ours, theirs)
        if outcomes is None or not len(outcomes):
            return None
        found = bootstrap_interval(outcomes, seed=0)
        return {**as_dict(at_least_wilson(found, len(outcomes))), "n": float(len(outcomes))}

    def _by_score(self, ours: Answered, theirs: Answered) -> Tensor:
        gap = _column(ours["score"]) - _column(theirs["score"])
        gap = gap[~gap.isnan()]
        return ((gap > TIES_WITHIN).double() - (gap < -TIES_WITHIN).double() + 1) / 2

    def _by_judge(self, ours: Answered, theirs: Answered) -> Tensor | None:
        name = self.settings.judge or self.judge_name
        if name is None:
            return None
        pairs = list(zip(self.records, ours["texts"], theirs["texts"], strict=True))
        asked = [
            Comparison(prompt=r.prompt, responses=(a, b), row=f"{i}")
            for i, (r, a, b) in enumerate(pairs)
            if a != b
        ]
        settings = JudgeSettings(
            judge=name, judge_model=self.settings.judge_model, town_seed=self.town_seed, seed=self.settings.seed
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        judge = make_judge(settings, answers=Answers(self.folder / "answers.jsonl"))
        said = [o.ranking for o in judge.judge(asked)] if asked else []
        decided = [0.5 + 0.5 * ((r[0] < r[1]) - (r[0] > r[1])) for r in said if r is not None]
        return torch.tensor([0.5] * (len(pairs) - len(asked)) + decided, dtype=torch.float64)

    def samples(self, answers: Mapping[str, Answered]) -> list[dict[str, Any]]:
        """Answers of several policies to a few prompts, at equal distances."""
        step = max(1, len(self.records) // SHOWN)
        return [
            {
                "prompt": message_text(self.records[i].prompt),
                "answers": {name: found["texts"][i] for name, found in answers.items()},
            }
            for i in range(0, len(self.records), step)
        ][:SHOWN]


class _Nobody:
    """A reward that says nothing."""

    name = "nobody"

    def __call__(self, batch: Bundles, records: Sequence[Record]) -> Rewarded:
        return Rewarded(total=torch.zeros(len(batch.lengths)))


def remembered(folder: Path, what: str, key: Sequence[Any], make: Callable[[], Any]) -> Any:
    """What `make` gave for this key before, or gives now; kept as JSON in the folder."""
    path = folder / f"{what}-{sha256_json(list(key))[:16]}.json"
    if path.exists():
        return read_object(path)["value"]
    value = make()
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"value": value}).encode() + b"\n")
    return value


def weights_of(model: str) -> str:
    """What tells a model from others: a run's weights, else its name."""
    return str(Run.open(model).weights_hash) if Run.is_run(model) else model


def summarised(answers: Answered, rewards: Sequence[float | None] | None) -> dict[str, Any]:
    """Means over prompts with 95% intervals: `score`, `kl`, `tokens`, and `reward` where there is a model."""
    columns = {k: answers[k] for k in ("score", "kl", "tokens")} | {"reward": rewards}
    return {name: mean_of(values) for name, values in columns.items() if values}


def columns(answers: Answered) -> dict[str, list[float | None]]:
    """Figures of every prompt, in the prompts' order, to six digits."""
    found = {k: answers[k] for k in ("score", "kl", "tokens") if answers[k]}
    return {k: [None if v is None else round(v, 6) for v in values] for k, values in found.items()}


def mean_of(values: Sequence[float | None]) -> dict[str, float]:
    """Mean of what is known, with its interval over prompts."""
    known = _column(values)
    return as_dict(bootstrap_interval(known[~known.isnan()], seed=0))


def _column(values: Sequence[float | None]) -> Tensor:
    return torch.tensor([math.nan if v is None else v for v in values], dtype=torch.float64)


# -------------------------------------------------------------------------------------------- labels


def label_figures(path: Path, town: Town | None) -> dict[str, Any]:
    """What can be said of a file of labels: how many, whose, ties, agreement, habits, and on the town how often
    they agree with gold. Shares are Wilson intervals, over labels that name one of two responses.
    """
    labels = [r for r in read_records(str(path), Comparison).records if isinstance(r, Comparison)]
    by: dict[str, int] = {}
    for label in labels:
        by[label.annotator or "?"] = by.get(label.annotator or "?", 0) + 1
    decided = [c for c in labels if len(c.responses) == 2 and c.ranking[0] != c.ranking[1]]
    shown = [c.ranking[c.shown_order[0]] == 0 for c in decided if c.shown_order]
    lengths = [(c.ranking.index(0), longer(c)) for c in decided]
    right = _agree_with_gold(decided, town) if town is not None else []
    return {
        "labels": len(labels),
        "ties": sum(len(set(c.ranking)) == 1 for c in labels),
        "by": dict(sorted(by.items(), key=lambda kv: (-kv[1], kv[0]))),
        "agreement": agreement(_categories(labels)),
        "first_shown": share(shown),
        "longer": share([best == long for best, long in lengths if long is not None]),
        "gold": share(right),
    }


def share(hits: Sequence[bool]) -> dict[str, float] | None:
    """A share with Wilson's interval; None of nothing."""
    if not hits:
        return None
    found: Interval = wilson_interval(sum(hits) / len(hits), len(hits))
    return {**as_dict(found), "n": float(len(hits))}


def _agree_with_gold(decided: Sequence[Comparison], town: Town) -> list[bool]:
    truth = Critic(town)
    hits: list[bool] = []
    for label in decided:
        prompt = truth.find(label.prompt)
        a, b = (town.gold(prompt, str(r), True).total for r in label.responses)
        if a != b:
            hits.append((label.ranking[0] < label.ranking[1]) == (a > b))
    return hits


def _categories(labels: Sequence[Comparison]) -> list[tuple[int, str, str]]:
    """(item, annotator, what was preferred); an item is a prompt with its responses in whichever order."""
    items: dict[Any, int] = {}
    found: list[tuple[int, str, str]] = []
    for label in labels:
        item = items.setdefault((label.prompt, frozenset(label.responses)), len(items))
        best = [str(r) for r, rank in zip(label.responses, label.ranking, strict=True) if rank == 0]
        found.append((item, label.annotator or "?", best[0] if len(best) == 1 else "tie"))
    return found

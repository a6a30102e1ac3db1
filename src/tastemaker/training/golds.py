"""Who may say how good a policy is while it trains: a reward, an AI judge, or people's preferences.

Each gives one number per held-out prompt. None of them is what the run maximises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from tastemaker.config import TrainSettings
from tastemaker.data import Dataset, Tokenised, tokenise
from tastemaker.errors import TastemakerError
from tastemaker.feedback.judge import Answers, Judge, JudgeModel
from tastemaker.models import RoleModels
from tastemaker.rewards import JUDGE
from tastemaker.town import Town, gold_reward
from tastemaker.training.distributed import World
from tastemaker.training.judging import JudgeSettings, judge_model
from tastemaker.training.reading import read_for
from tastemaker.training.rewarding import LoadJudge, RunReward
from tastemaker.types import Bundles, Comparison, Question, Record, Reward, Text

TOWN, LABELS = "town", "labels"


class Gold(Protocol):
    """One number per held-out prompt."""

    name: str
    reads_answers: bool
    """Whether it is given answers of the policy; else it looks at what the policy thinks of other texts."""
    start: list[Any]
    """What it must remember of the starting policy; saved with the run."""

    def __call__(self, models: RoleModels, answers: Bundles | None, texts: Sequence[str]) -> list[float]:
        """[P], NaN where it says nothing. First called on the starting policy."""
        ...


@dataclass
class RewardGold:
    """A reward model, a reward that checks, a function, or the town's exact reward: its mean."""

    name: str
    reward: Reward
    records: Sequence[Record]
    start: list[Any] = field(default_factory=list[Any])
    reads_answers: bool = True

    def __call__(self, models: RoleModels, answers: Bundles | None, texts: Sequence[str]) -> list[float]:
        assert answers is not None
        said = self.reward(answers, self.records)
        values = said.total.double().cpu()
        return (values if said.valid is None else values.where(said.valid.cpu(), math.nan)).tolist()


@dataclass
class JudgedGold:
    """An AI judge: how often the policy's answer beats the starting policy's to the same prompt."""

    name: str
    model: JudgeModel
    records: Sequence[Record]
    seed: int
    answers: Path
    """Where the judge's answers are kept, so that a run taken up again asks nothing twice."""
    start: list[Any] = field(default_factory=list[Any])
    """The starting policy's answers."""
    reads_answers: bool = True

    def __call__(self, models: RoleModels, answers: Bundles | None, texts: Sequence[str]) -> list[float]:
        self.start = self.start or list(texts)
        judge = Judge(self.model, seed=self.seed, answers=Answers(self.answers))
        return beats(judge, [r.prompt for r in self.records], texts, self.start)


@dataclass
class LabelsGold:
    """People's preferences on held-out pairs: the share that the policy's implicit reward, log(policy /
    starting policy) of a response, orders as they did (Rafailov et al. 2023, section 4); 1/2 at the start.
    """

    name: str
    pairs: Bundles
    start: list[Any] = field(default_factory=list[Any])
    """The starting policy's log-probability of each response."""
    reads_answers: bool = False

    def __call__(self, models: RoleModels, answers: Bundles | None, texts: Sequence[str]) -> list[float]:
        batch = self.pairs.to(models.device)
        logps = models.score("policy", batch).logps
        assert logps is not None
        whole = batch.sum_by_response(logps.double(), batch.trained).cpu()
        self.start = self.start or whole.tolist()
        ratios = whole - torch.tensor(self.start, dtype=torch.float64)
        better, worse = self.pairs.pairs
        margins = ratios[better] - ratios[worse]
        right = (margins > 0).double() + 0.5 * (margins == 0).double()
        owner = self.pairs.tree.cpu()[better]
        total = torch.zeros(len(self.pairs), dtype=torch.float64).index_add(0, owner, right)
        return (total / torch.bincount(owner, minlength=len(self.pairs))).tolist()


@dataclass
class HeldOut:
    """The prompts that a gold is read on."""

    records: list[Record]
    source: str
    sha256: str


def held_out_prompts(settings: TrainSettings, data: object) -> HeldOut:
    """Questions of the town's tuning split, or of `data`. Raises TastemakerError where there are none."""
    town = town_of(str(settings.gold))
    if town is not None:
        records: list[Record] = list(town.prompts(settings.gold_prompts, "tuning", seed=7))
        return HeldOut(records, f"tuning prompts of town {town.seed}", "")
    if data is None:
        raise TastemakerError(
            f"gold {settings.gold}: it is read on held-out prompts: give them as eval_data (--eval-data FILE)."
        )
    wanted = Comparison if settings.gold == LABELS else Question
    dataset = data if isinstance(data, Dataset) and data.kind is wanted else read_for(wanted, data)
    return HeldOut(list(dataset.records), dataset.source, dataset.sha256)


def town_of(gold: str) -> Town | None:
    """`town` or `town:SEED`."""
    name, _, seed = gold.partition(":")
    if name != TOWN:
        return None
    if seed and not seed.isdigit():
        raise TastemakerError(f"gold {gold}: the town's seed is a number, as in town:0.")
    return Town(int(seed or 0))


def gold_of(
    settings: TrainSettings, models: RoleModels, held_out: Tokenised, load: LoadJudge, folder: Path
) -> tuple[Gold, list[tuple[str, str]]]:
    """The gold that `settings` name, and (path, hash) of every model that is in it."""
    named = str(settings.gold)

    def decode(ids: Tensor) -> str:
        return cast(str, models.tokenizer.decode(ids.tolist(), skip_special_tokens=False))

    if (town := town_of(named)) is not None:
        return RewardGold(f"town {town.seed}", gold_reward(town, decode), held_out.records), []
    if named == LABELS:
        batch = held_out.batch(range(len(held_out)))
        return LabelsGold("people's preferences", batch), []
    if named.startswith((JUDGE, "http://", "https://")):
        judge = judge_model(
            JudgeSettings(judge=named.removeprefix(JUDGE), seed=settings.seed, town_seed=settings.seed)
        )
        answers = folder / "gold" / "judge_answers.jsonl"
        gold = JudgedGold(judge.name, judge, held_out.records, settings.seed, answers)
        return gold, [(f"judge {judge.name}", "")]
    reward = RunReward.read(named, (None, models.tokenizer), trust_remote_code=settings.trust_remote_code)
    reward.model = None  # never the run's own role: that is what it maximises
    built = reward.build(models, load, World())
    parts = [(parent.path, parent.weights_hash) for parent in reward.parents(models) if parent.role == "reward"]
    return RewardGold(named, built, held_out.records), parts


def tokenised(settings: TrainSettings, models: RoleModels, records: Sequence[Record]) -> Tokenised:
    """The records as the run reads its data."""
    return tokenise(
        records,
        models.tokenizer,
        max_length=settings.max_length or 2**31,
        max_prompt_length=settings.max_prompt_length,
        truncation_mode=settings.truncation_mode,
        chat_template=settings.chat_template,
    )


def beats(judge: Judge, prompts: Sequence[Text], ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
    """For each prompt 1 where our answer beats theirs, 0 where it loses, 1/2 for a tie; NaN where no verdict
    could be read. Equal answers tie unasked.

    Raises TastemakerError where the judge cannot go on.
    """
    apart = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    asked = [
        Comparison(prompt=prompts[i], responses=(ours[i], theirs[i]), row=f"prompt {i}", ranking=(0, 0))
        for i in apart
    ]
    found = [0.5] * len(ours)
    for i, opinion in zip(apart, judge.judge(asked) if asked else (), strict=True):
        ranks = opinion.ranking
        found[i] = math.nan if ranks is None else 0.5 + 0.5 * ((ranks[0] < ranks[1]) - (ranks[0] > ranks[1]))
    return found

"""Judges by name: a model, an endpoint, a critic of the town; for labels, and as the reward of a run.

As a reward (`--reward judge:WHO`) a judge sees all responses to a prompt together. What it says is kept in the
run's folder as it is said, so a run that was cut off repeats its last steps with the same verdicts and asks
nobody twice.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from tastemaker.config import settings_from
from tastemaker.feedback.constitution import load_constitution
from tastemaker.feedback.judge import Answers, Ask, Endpoint, HttpModel, Judge, JudgeModel, LocalModel, Reply
from tastemaker.feedback.judge.verdicts import LETTERS
from tastemaker.models import build_roles
from tastemaker.rewards import JUDGE, JudgedReward, PartSpec
from tastemaker.rewards.results import Decode
from tastemaker.rollout import LocalGenerator
from tastemaker.town import Town
from tastemaker.town.critic import Critic
from tastemaker.types import TastemakerError, Text

log = logging.getLogger(__name__)

WITHOUT_EFFECT = ("timeout", "retries", "concurrency", "per_minute", "price_in", "price_out", "key_variable")
"""Settings of a judge that say how patiently it is asked, and change no verdict."""


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Which judge, and how it is asked."""

    judge: str = "town"
    """http(s)://.../v1 (or .../v1#NAME for judge_model), a model (folder, run, hub name), or town:TASTE, a
    simulated critic of the town."""
    judge_model: str | None = None
    """The name by which an endpoint knows its model."""
    template: str | None = None
    """pairwise, pairwise_choice, pointwise, kwise, or a YAML file; none: by how many responses there are."""
    orders: Literal["both", "random", "given"] = "both"
    """Orders in which responses are shown."""
    logps: bool = False
    """Read verdicts on pairs off the probabilities of the letters, not off text."""
    mean: bool = False
    """Settle a pair by the mean probability over both orders; else both must agree, or it is a tie."""
    principles: str | None = None
    """Judge each comparison by a principle drawn from these: default, town, or a YAML file; none: by none."""
    seed: NonNegativeInt = 0
    """Of orders, principles and sampling."""
    town_seed: NonNegativeInt = 0
    """Which town a critic or panel of the town lives in."""
    temperature: NonNegativeFloat = 0.0
    """Of the judge's own words."""
    max_tokens: PositiveInt = 512
    """Most tokens of an answer."""
    timeout: PositiveFloat = 60.0
    """Seconds that an endpoint may take for one answer."""
    retries: NonNegativeInt = 5
    """Further tries after one that failed."""
    concurrency: PositiveInt = 8
    """Requests at a time."""
    per_minute: PositiveFloat | None = None
    """Requests a minute; none: no limit of our own."""
    price_in: NonNegativeFloat = 0.0
    """Per million tokens that the judge reads."""
    price_out: NonNegativeFloat = 0.0
    """Per million tokens that it writes."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key."""


class TownJudge:
    """`JudgeModel` that is a simulated critic: it is told what is asked, and answers as a text judge would."""

    def __init__(self, critic: Critic) -> None:
        self._critic = critic

    @property
    def name(self) -> str:
        return self._critic.name

    def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """In order."""
        for index, ask in enumerate(asks):
            yield index, self._reply(ask)

    def _reply(self, ask: Ask) -> Reply:
        critic, shown, by, seed = self._critic, ask.responses, ask.principle, ask.seed
        prompt = critic.find(ask.prompt)
        if ask.task == "critique":
            return Reply(text=critic.critique(prompt, shown[0], principle=by))
        if ask.task == "revision":
            return Reply(text=critic.revise(prompt, shown[0], principle=by))
        if ask.logps:
            p = critic.p_first(prompt, shown[0], shown[1], by)
            return Reply(logps={"A": math.log(max(p, 1e-12)), "B": math.log(max(1 - p, 1e-12))})
        if ask.task == "pointwise":
            said = str(critic.rate(prompt, shown[0], principle=by, seed=seed))
        elif ask.task == "kwise":
            said = " > ".join(LETTERS[k] for k in critic.order(prompt, shown, principle=by, seed=seed))
        elif shown[0] == shown[1]:
            said = "tie"
        else:
            said = LETTERS[critic.compare(prompt, shown[0], shown[1], principle=by, seed=seed)]
        return Reply(text=f"verdict {ask.tag}: {said}")


def judge_model(settings: JudgeSettings) -> JudgeModel:
    """The model behind a judge.

    Raises:
        TastemakerError: there is none of that name, or an endpoint without a model's name.
    """
    name, _, taste = settings.judge.partition(":")
    if settings.judge.startswith(("http://", "https://")):
        url, _, model = settings.judge.partition("#")
        if not (model or settings.judge_model):
            raise TastemakerError(
                f"judge {settings.judge}: which model? Say judge_model, or {settings.judge}#NAME, by the name "
                "it is known by there"
            )
        return HttpModel(
            Endpoint(
                url=url,
                model=settings.judge_model or model,
                key_variable=settings.key_variable,
                temperature=settings.temperature,
                max_tokens=settings.max_tokens,
                timeout=settings.timeout,
                retries=settings.retries,
                concurrency=settings.concurrency,
                per_minute=settings.per_minute,
                price_in=settings.price_in,
                price_out=settings.price_out,
            )
        )
    if name == "town":
        return TownJudge(Critic(Town(settings.town_seed), taste or "fair"))
    models = build_roles(("policy",), (), policy=settings.judge)
    room = models.max_positions
    return LocalModel(
        models,
        LocalGenerator(models, models.tokenizer, allow_truncation=True),
        models.tokenizer,
        name=f"{Path(settings.judge).name} {models.weights_hash('policy')[:12]}",
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        **(
            {}
            if room is None
            else {"max_length": max(1, room - (1 if settings.logps else settings.max_tokens))}
        ),
    )


def make_judge(
    settings: JudgeSettings,
    *,
    responses: int = 2,
    answers: Answers | None = None,
    model: JudgeModel | None = None,
) -> Judge:
    """A judge for sets of so many responses; `model`: the model behind it, where it is at hand.

    Raises:
        TastemakerError: as `judge_model` does; settings that do not go together; a template or principles that
            cannot be read.
    """
    usual = "pairwise_choice" if settings.logps else "pairwise" if responses == 2 else "kwise"
    constitution = load_constitution(settings.principles) if settings.principles else None
    return Judge(
        model or judge_model(settings),
        settings.template or usual,
        orders=settings.orders,
        logps=settings.logps,
        mean=settings.mean,
        principle=constitution.chooser(settings.seed) if constitution else None,
        seed=settings.seed,
        answers=answers,
    )


def check_judge(text: str, options: Mapping[str, object], *, seed: int = 0) -> JudgeSettings:
    """The settings of the judge that `judge:WHO` means with these options; its seeds are the run's unless said.

    Raises:
        TastemakerError: unknown or wrong options; no judge named.
    """
    who = text.removeprefix(JUDGE)
    if not who:
        raise TastemakerError(
            f"reward {text}: names no judge; write judge:WHO, as in judge:http://host/v1#model"
        )
    given = {"seed": seed, "town_seed": seed, **options, "judge": who}
    return settings_from(JudgeSettings, given, origin=f"reward {text}")


class GroupJudge:
    """A judge of all responses to a prompt, however many there are.

    Without a template of its own it rates one alone (`pointwise`), compares two (`pairwise`) and ranks more
    (`kwise`; with `logps` it compares all pairs).
    """

    def __init__(self, settings: JudgeSettings, answers: Answers | None = None) -> None:
        """Raises TastemakerError as `make_judge` does."""
        self._settings = settings
        self._answers = answers
        self._model = judge_model(settings)
        self._judges: dict[str, Judge] = {}
        self._heard = False
        self._judge(2)  # what is wrong with the settings is found before anything is sampled

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def record(self) -> str:
        """Everything that decides its verdicts, as text: names of files by their content."""
        s = self._settings
        principles = "" if s.principles is None else load_constitution(s.principles).digest
        templates = [self._judge(size).template.identity for size in (1, 2, 3)]
        return json.dumps([self.name, templates, s.orders, s.logps, s.mean, principles, s.seed, s.town_seed])

    def scores(self, prompts: Sequence[Text], groups: Sequence[Sequence[str]]) -> list[list[float | None]]:
        """`rewards.judged.ScoreGroups`, see `Judge.scores`."""
        found: dict[int, list[float | None]] = {}
        for judge in dict.fromkeys(self._judge(len(group)) for group in groups):
            own = [g for g, group in enumerate(groups) if self._judge(len(group)) is judge]
            said = judge.scores([prompts[g] for g in own], [groups[g] for g in own])
            found.update(zip(own, said, strict=True))
        if not self._heard and groups:
            self._heard = any(value is not None for group in found.values() for value in group)
            if not self._heard:
                place = (
                    f"; what it said is in {self._answers.path}" if self._answers and self._answers.path else ""
                )
                log.warning("%s: no verdict could be read on any of %d groups%s", self.name, len(groups), place)
        return [found[g] for g in range(len(groups))]

    def _judge(self, size: int) -> Judge:
        usual = (
            "pairwise_choice" if self._settings.logps else {1: "pointwise", 2: "pairwise"}.get(size, "kwise")
        )
        template = self._settings.template or usual
        if template not in self._judges:
            self._judges[template] = make_judge(
                replace(self._settings, template=template), model=self._model, answers=self._answers
            )
        return self._judges[template]


def judged_reward(
    spec: PartSpec, decode: Decode, *, folder: Path, rank: int = 0, seed: int = 0
) -> tuple[JudgedReward, str]:
    """A judge as the reward of the run in `folder`, and what decides its verdicts. Every process keeps its own
    file of answers.

    Raises:
        TastemakerError: as `check_judge` and `make_judge` do; answers on disk that cannot be read.
    """
    settings = check_judge(str(spec.reward), spec.options, seed=seed)
    judge = GroupJudge(
        settings, Answers(folder / (f"judge_answers-{rank}.jsonl" if rank else "judge_answers.jsonl"))
    )
    return JudgedReward(judge.scores, decode, name=spec.name or "judge"), judge.record

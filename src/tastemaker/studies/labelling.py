"""Judges and labellers by name: a model, an endpoint, a critic or panel of the town, a file of labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from tastemaker.feedback.constitution import load_constitution
from tastemaker.feedback.judge import Answers, Ask, Endpoint, HttpModel, Judge, JudgeModel, LocalModel, Reply
from tastemaker.feedback.judge.verdicts import LETTERS
from tastemaker.feedback.labellers import Labeller, People
from tastemaker.models import build_roles
from tastemaker.rollout import LocalGenerator
from tastemaker.town import PANELS, Town
from tastemaker.town.critic import Critic
from tastemaker.types import Comparison, TastemakerError

WITHOUT_EFFECT = ("timeout", "retries", "concurrency", "per_minute", "price_in", "price_out", "key_variable")
"""Settings of a judge that say how patiently it is asked, and change no verdict."""
FILES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Which judge, and how it is asked."""

    judge: str = "town"
    """http(s)://.../v1, a model (folder, run, hub name), or town:TASTE, a simulated critic of the town."""
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


class TownPanel:
    """`Labeller`: the simulated people of the town."""

    def __init__(self, town: Town, panel: str, seed: int = 0) -> None:
        """Raises TastemakerError for a panel that there is none of."""
        if panel not in PANELS:
            raise TastemakerError(f"the town has no panel {panel!r}; choose one of {', '.join(PANELS)}")
        self.name = f"town {town.seed} panel {panel}"
        self._town, self._panel, self._seed = town, panel, seed
        self._critic = Critic(town)

    def label(self, records: Sequence[Comparison]) -> list[Comparison]:
        """Pairs only. Raises TastemakerError for what is no pair, or no prompt of this town."""
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        found: list[Comparison] = []
        for record in records:
            if len(record.responses) != 2:
                raise TastemakerError(f"{self.name}: labels pairs; row {record.row or '?'} is none")
            a, b = (str(r) for r in record.responses)
            prompt = self._critic.find(record.prompt)
            label = self._town.label(prompt, (a, True), (b, True), panel=self._panel, seed=self._seed)
            found.append(replace(label, when=when, row=record.row, prompt=record.prompt))
        return found


def judge_model(settings: JudgeSettings) -> JudgeModel:
    """The model behind a judge.

    Raises:
        TastemakerError: there is none of that name, or an endpoint without a model's name.
    """
    name, _, taste = settings.judge.partition(":")
    if settings.judge.startswith(("http://", "https://")):
        if settings.judge_model is None:
            raise TastemakerError(
                f"judge {settings.judge}: which model? judge_model is the name by which it is known there"
            )
        return HttpModel(
            Endpoint(
                url=settings.judge,
                model=settings.judge_model,
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
    return LocalModel(
        models,
        LocalGenerator(models, models.tokenizer, allow_truncation=True),
        models.tokenizer,
        name=f"{Path(settings.judge).name} {models.weights_hash('policy')[:12]}",
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
    )


def make_judge(settings: JudgeSettings, *, responses: int = 2, answers: Answers | None = None) -> Judge:
    """A judge for sets of so many responses.

    Raises:
        TastemakerError: as `judge_model` does; settings that do not go together; a template or principles that
            cannot be read.
    """
    usual = "pairwise_choice" if settings.logps else "pairwise" if responses == 2 else "kwise"
    constitution = load_constitution(settings.principles) if settings.principles else None
    return Judge(
        judge_model(settings),
        settings.template or usual,
        orders=settings.orders,
        logps=settings.logps,
        mean=settings.mean,
        principle=constitution.chooser(settings.seed) if constitution else None,
        seed=settings.seed,
        answers=answers,
    )


def labellers(
    shares: Sequence[str], settings: JudgeSettings, *, responses: int = 2, answers: Answers | None = None
) -> list[tuple[Labeller, float]]:
    """`WHO` or `WHO=WEIGHT` each: `panel:NAME` (simulated people of the town), a file of people's labels, or a
    judge as in `JudgeSettings.judge`.

    Raises:
        TastemakerError: a weight that is no number; as `make_judge` does.
    """
    found: list[tuple[Labeller, float]] = []
    for share in shares:
        who, _, given = share.rpartition("=") if "=" in share else (share, "", "1")
        try:
            weight = float(given)
        except ValueError as error:
            raise TastemakerError(f"labellers: {share}: {given!r} is no number; write WHO=WEIGHT") from error
        name, _, panel = who.partition(":")
        if name == "panel":
            found.append((TownPanel(Town(settings.town_seed), panel or "panel", settings.seed), weight))
        elif who.endswith(FILES):
            found.append((People(who, name=Path(who).name), weight))
        else:
            own = replace(settings, judge=who)
            found.append((make_judge(own, responses=responses, answers=answers), weight))
    return found

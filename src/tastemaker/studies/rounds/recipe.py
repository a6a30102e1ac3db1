"""Online rounds: the current policy writes, its responses are labelled, a policy learns from that; and again.

    out: runs/rounds
    model: sft                          # the first policy: a stage of `start`, a run, a folder, a hub name
    data: town/prompts.jsonl            # prompts
    start:                              # a chain that is run once (studies/chain.py)
      - {method: town, seed: 1}
      - {method: sft, model: town/base, data: town/demonstrations.jsonl}
    rounds: 3
    prompts_per_round: 256
    round:                              # stages of one round
      - {method: respond}               # the policy so far, on this round's prompts
      - {method: judge, labellers: [panel]}         # or `people`
      - {method: dpo, beta: 0.3}        # the last stage that trains a policy gives the next one

It becomes a chain with the stages of every round in a row, `dpo` of round 2 being `dpo_2`; so everything is
reused, resumed and found by its content as in any chain. What a stage does not name it gets: `respond` the
policy so far and the round's prompts, a labelling stage those responses, training stages the labels, the reward
model of the round and the prompts. The names `first`, `policy` (that of the round before), `labels`, `prompts`
and those of the round's other stages may be given instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import NonNegativeInt, PositiveInt

from tastemaker.config import load_config, nearest, settings_from
from tastemaker.config.check import coerce, complain, field_types
from tastemaker.methods import METHODS
from tastemaker.studies.chain import LINKS, Chain, load_chain
from tastemaker.studies.making import MAKERS
from tastemaker.studies.recipe import KINDS, stage_types
from tastemaker.studies.rounds.reading import ReadingSettings

LABELLING = ("judge", "people")
"""Stages that label."""
NAMES = ("first", "policy", "labels", "prompts")
"""What a round's stages may name beside each other."""


@dataclass(frozen=True, kw_only=True)
class RoundsSettings:
    """How rounds follow each other."""

    rounds: PositiveInt = 3
    """Rounds."""
    prompts_per_round: PositiveInt = 256
    """Different prompts of a round."""
    same_prompts: bool = False
    """Every round asks the same prompts; else no prompt comes twice."""
    learn_from: Literal["all", "new"] = "all"
    """Labels of all rounds so far, or of the round alone."""
    reference: Literal["first", "previous"] = "first"
    """The policy that a round is held close to: the first of all, or that of the round before."""

    @property
    def afresh(self) -> bool:
        """Whether each round trains from the first policy again; else it goes on from the one before. Whoever
        learns from all labels once begins anew, or early labels would count more with every round.
        """
        return self.learn_from == "all" and self.reference == "first"


@dataclass(frozen=True)
class Round:
    """What a round's stages are called in the chain."""

    number: int
    sampler: str
    """Names the policy that wrote the responses."""
    respond: str
    label: str
    reward: str | None
    policy: str
    end: int
    """Stages of the chain up to the end of the round."""


@dataclass(frozen=True)
class Rounds:
    """A recipe of rounds, checked."""

    settings: RoundsSettings
    reading: ReadingSettings
    chain: Chain
    start: int
    """Stages before the first round."""
    first: str
    """Names the first policy."""
    prompts: str
    rounds: tuple[Round, ...]


# ----------------------------------------------------------------------------------------- the recipe


def load_rounds(
    source: str | Path | Mapping[str, object],
    shared: Mapping[str, object] | None = None,
    by_stage: Mapping[str, Mapping[str, object]] | None = None,
    *,
    origin: str = "rounds",
) -> Rounds:
    """Reads a recipe of rounds and checks all of it. `by_stage`: settings that overrule those of a stage, in
    every round or, for `NAME_2`, in one.

    Raises:
        TastemakerError: everything that is wrong.
    """
    if isinstance(source, Mapping):
        content: dict[str, Any] = {**source, **(shared or {})}
    else:
        config = load_config(source)
        origin = str(config.path)
        content = {"out": f"runs/{config.path.stem}", **config.values, **(shared or {})}
    content = {str(k).replace("-", "_"): v for k, v in content.items()}
    overrides = dict(by_stage or {})
    own = {k: content.pop(k) for k in field_types(RoundsSettings) if k in content}
    settings = settings_from(RoundsSettings, own, origin=origin)
    reading = settings_from(ReadingSettings, _mapping(content.pop("report", None)), origin=f"{origin}: report")
    problems: list[str] = []
    start = _stages(content.pop("start", ()), "start", overrides, problems)
    template = _stages(content.pop("round", None), "round", overrides, problems)
    first = content.pop("model", None) or (start[-1]["name"] if start else None)
    prompts = content.pop("data", None)
    seed, wrong = coerce("seed", content.get("seed", 0), NonNegativeInt)
    problems += [wrong] if wrong else []
    problems += ["model is missing: the first policy"] if first is None else []
    problems += ["data is missing: the prompts"] if prompts is None else []
    problems += _shape(template)
    problems += _unknown(content, [*start, *template])
    complain(origin, problems)
    plan = _Plan(settings, str(first), str(prompts), template, seed)
    for_all = {"all": overrides.pop("all")} if "all" in overrides else {}
    stages: list[dict[str, Any]] = list(start)
    rounds: list[Round] = []
    for number in range(1, settings.rounds + 1):
        stages += plan.stages(number)
        rounds.append(plan.round(number, len(stages)))
        if number == 1:  # what is wrong with a stage is said once
            load_chain({**content, "stages": stages}, None, for_all, origin=origin)
    chain = load_chain({**content, "stages": stages}, None, {**for_all, **overrides}, origin=origin)
    return Rounds(settings, reading, chain, len(start), str(first), str(prompts), tuple(rounds))


def _mapping(value: object) -> dict[str, object]:
    return dict(cast("Mapping[str, object]", value)) if isinstance(value, Mapping) else {}


def _stages(
    value: object, what: str, overrides: dict[str, Mapping[str, object]], problems: list[str]
) -> list[dict[str, Any]]:
    """Stages with a name each, settings of the command line over their own."""
    if not isinstance(value, list | tuple) or (what == "round" and not value):
        problems.append(f"{what}: should be a list of stages, each with a method")
        return []
    found: list[dict[str, Any]] = []
    for i, entry in enumerate(cast("Sequence[object]", value)):
        stage = {k.replace("-", "_"): v for k, v in _mapping(entry).items()}
        if str(stage.get("method")) not in (*MAKERS, *KINDS):
            known = (
                "respond, judge, people or a method that trains" if what == "round" else "a stage of a chain"
            )
            problems.append(f"{what}[{i}]: no such method {stage.get('method')!r}; it is {known}")
            continue
        name = str(stage.setdefault("name", stage["method"]))
        if name in NAMES or any(name == other["name"] for other in found):
            problems.append(f"{what}[{i}]: the name {name} is taken; give this stage another one")
        found.append({**stage, **overrides.pop(name, {})})
    return found


def _shape(template: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a round lacks."""
    methods = [str(stage["method"]) for stage in template]
    labelling = [m for m in methods if m in LABELLING]
    training = [m for m in methods if m in METHODS]
    others = [m for m in methods if m not in (*LABELLING, *METHODS, "respond")]
    if not methods:
        return []
    found = [f"round: {m}: a round is respond, judge or people, and methods that train" for m in others]
    in_order = methods[:1] == ["respond"] and methods[1:2] == labelling and methods.count("respond") == 1
    if not others and not in_order:
        found.append("round: should begin with one stage respond and one stage judge or people")
    if not any("policy" in METHODS[m].trains for m in training):
        found.append("round: no stage trains a policy")
    return found


def _unknown(top: Mapping[str, object], stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of the recipe's top that neither rounds nor stages know, with what was meant."""
    own = (*field_types(RoundsSettings), "out", "seed", "start", "round", "report", "model", "data")
    taken: set[str] = set()
    for method in {str(stage["method"]) for stage in stages}:
        taken |= set(field_types(MAKERS[method]) if method in MAKERS else stage_types(method))
    found: list[str] = []
    for key in top:
        if key not in taken and (close := nearest(key, own)) and key not in own:
            found.append(f"{key}: no such setting; did you mean {close[0]}?")
    return found


@dataclass(frozen=True)
class _Plan:
    """Makes the stages of round after round."""

    settings: RoundsSettings
    first: str
    prompts: str
    template: Sequence[Mapping[str, Any]]
    seed: int

    def _named(self, method: tuple[str, ...], number: int) -> str | None:
        return next((f"{s['name']}_{number}" for s in self.template if s["method"] in method), None)

    def policy(self, number: int) -> str:
        """The policy after a round; round 0 is before the first."""
        if number == 0:
            return self.first
        trains = [
            s for s in self.template if s["method"] in METHODS and "policy" in METHODS[s["method"]].trains
        ]
        return f"{trains[-1]['name']}_{number}"

    def round(self, number: int, end: int) -> Round:
        respond, label = self._named(("respond",), number), self._named(LABELLING, number)
        assert respond is not None
        assert label is not None
        reward = self._named(("reward", "process_reward"), number)
        return Round(number, self.policy(number - 1), respond, label, reward, self.policy(number), end)

    def stages(self, number: int) -> list[dict[str, Any]]:
        """The stages of one round, every input named."""
        settings = self.settings
        size = settings.prompts_per_round
        skip = 0 if settings.same_prompts else size * (number - 1)
        part = {
            "name": f"prompts_{number}",
            "method": "part",
            "data": self.prompts,
            "skip": skip,
            "limit": size,
        }
        found: list[dict[str, Any]] = [part]
        labels = f"{self._named(LABELLING, number)}"
        before = ""
        for stage in self.template:
            values = {k: self._link(k, v, number) if k in LINKS else v for k, v in stage.items()}
            values["name"] = f"{stage['name']}_{number}"
            if stage["method"] == "respond":
                own, wrong = coerce("seed", values.get("seed", self.seed), NonNegativeInt)
                seed = values["seed"] if wrong else own + number - 1  # the stage itself says what is wrong
                found.append({"model": self.policy(number - 1), "data": part["name"], **values, "seed": seed})
            elif stage["method"] in LABELLING:
                found.append({"data": found[-1]["name"], **values})
                if settings.learn_from == "all" and number > 1:
                    each = [f"{self._named(LABELLING, n)}" for n in range(1, number + 1)]
                    labels = f"labels_{number}"
                    found.append({"name": labels, "method": "join", "data": each})
            else:
                found.append({**self._inputs(stage["method"], number, labels, before), **values})
                before = values["name"] if "policy" in METHODS[stage["method"]].trains else before
        return found

    def _inputs(self, method: str, number: int, labels: str, before: str) -> dict[str, Any]:
        """What a training stage gets that names nothing. `before`: a policy of the same round."""
        cls = METHODS[method]
        begin = self.first if self.settings.afresh else self.policy(number - 1)
        found: dict[str, Any] = {"data": self.prompts if cls.online else labels}
        if "policy" not in cls.trains:
            return {**found, "model": self.first}
        found["model"] = before or begin
        held = self.settings.reference == "first" and not before and begin != self.first
        if held and "reference" in cls.roles:
            found["ref_model"] = self.first
        reward = self._named(("reward", "process_reward"), number)
        return {**found, "reward": reward} if "reward" in cls.roles and reward else found

    def _link(self, key: str, value: object, number: int) -> object:
        """An input with the names of a round turned into those of the chain."""
        if isinstance(value, list | tuple):
            return [self._link(key, v, number) for v in cast("Sequence[object]", value)]
        if isinstance(value, Mapping):
            part = cast("Mapping[str, object]", value)
            return {k: self._link(k, v, number) if k == "reward" else v for k, v in part.items()}
        joined = self.settings.learn_from == "all" and number > 1
        named = {
            "first": self.first,
            "policy": self.policy(number - 1),
            "labels": f"labels_{number}" if joined else self._named(LABELLING, number),
            "prompts": f"prompts_{number}",
        }
        head, slash, what = str(value).partition("/")
        if value in named:
            return named[str(value)]
        own = any(head == stage["name"] for stage in self.template)
        return f"{head}_{number}{slash}{what}" if own else value

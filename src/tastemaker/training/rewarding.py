"""The reward of a run: read from what was given, its models loaded, and a trained one's normalisation kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from tastemaker.config import TrainSettings, settings_from
from tastemaker.data import Tokenised
from tastemaker.models import ObjectivesHead, RoleModels, ScalarHead, StepHead, build_roles
from tastemaker.models.tokenizer import tokenizer_of
from tastemaker.rewards import (
    ComposedReward,
    FunctionReward,
    LearnedOptions,
    LearnedReward,
    Normalisation,
    Part,
    PartSpec,
    ProcessOptions,
    ProcessReward,
    Renamed,
    TextReward,
    load_function,
    named_reward,
    read_rewards,
    score_with,
    source_hash,
)
from tastemaker.rewards.results import Decode
from tastemaker.runs import Parent, Run
from tastemaker.training.distributed import World
from tastemaker.training.judging import check_judge
from tastemaker.types import Reward, TastemakerError

log = logging.getLogger(__name__)

SEEN = 512
"""Comparisons whose responses set the zero point."""

LoadJudge = Callable[[object], RoleModels]
"""A reward model's folder or name -> models with the role `reward`, apart from those of the run."""
Ask = Callable[[PartSpec, Decode], tuple[Reward, str]]
"""An AI judge as the user named it -> the reward that it gives, and all that decides its verdicts."""


def no_judges(spec: PartSpec, decode: Decode) -> tuple[Reward, str]:
    """Refuses AI judges, where there is no run to keep what they say. Raises TastemakerError."""
    raise TastemakerError(f"reward {spec.label}: an AI judge scores the responses of a run, and nothing here")


@dataclass
class RunReward:
    """What was given as the reward of a run, and what has become of it."""

    parts: Sequence[PartSpec]
    model: object = None
    """What plays the run's own role `reward`: the first model of the parts that reads the policy's tokens."""
    judges: dict[int, RoleModels] = field(default_factory=dict[int, RoleModels])
    """The other models, by the place of their part."""
    verdicts: dict[int, str] = field(default_factory=dict[int, str])
    """What decides the verdicts of AI judges, by the place of their part."""

    @classmethod
    def read(cls, reward: object, policy: object, *, trust_remote_code: bool = False) -> RunReward:
        """Raises TastemakerError for what no reward can be read from."""
        parts = read_rewards(reward)
        for part in parts:
            part.bound()
            if part.kind == "judge":
                check_judge(str(part.reward), part.options)
        models = [part for part in parts if part.kind == "model"]
        own = next((p for p in models if reads_tokens_of(p.reward, policy, trust_remote_code)), None)
        return cls(parts, None if own is None else own.reward)

    @property
    def of_role(self) -> int | None:
        """The place of the part that is the run's own role."""
        places = (i for i, part in enumerate(self.parts) if part.kind == "model")
        return None if self.model is None else next(i for i in places if self.parts[i].reward is self.model)

    def build(self, models: RoleModels, load: LoadJudge, world: World, ask: Ask = no_judges) -> Reward:
        """The reward itself.

        Raises:
            TastemakerError: options or functions that are wrong, a model that is no reward model.
        """

        def decode(ids: Tensor) -> str:
            return cast(str, models.tokenizer.decode(ids.tolist(), skip_special_tokens=True))

        rewards = [self._reward(i, models, decode, load, ask) for i in range(len(self.parts))]
        if len(self.parts) == 1 and self.parts[0].plain:
            return rewards[0]
        parts = [
            Part(
                reward=_called(reward, spec.name),
                weight=spec.weight,
                normalise=spec.normalise,
                constraint=spec.bound(),
                on_failure=spec.on_failure,
            )
            for reward, spec in zip(rewards, self.parts, strict=True)
        ]
        return ComposedReward(parts, reduce=world.reduce, processes=world.size)

    def parents(self, models: RoleModels) -> list[Parent]:
        """Every reward that went in: models by their weights; functions by their name and the hash of what
        decides what they give, as far as it lies on disk; judges by what decides their verdicts.
        """
        found: list[Parent] = []
        parts = [replace(s, options={}) if s.kind == "judge" else s for s in self.parts]
        for i, spec in enumerate(parts):
            if i == self.of_role or i in self.judges:
                source = (self.judges.get(i) or models).slot("reward").source
                found.append(_parent(source.location or "in memory", source.weights_hash))
            elif i in self.verdicts:
                found.append(_parent(spec.label, _hash(self.verdicts[i])))
            elif spec.kind == "object":
                found.append(_parent(f"function {spec.label}", ""))
            else:
                found.append(_parent(f"function {spec.label}", _hash(spec.record() + source_hash(spec.label))))
        if not (len(parts) == 1 and parts[0].plain and not parts[0].options):
            said = [spec.record() for spec in parts]
            found.append(_parent(f"settings {'; '.join(said)}", _hash("\n".join(said)), "reward_settings"))
        return found

    def _reward(self, place: int, models: RoleModels, decode: Decode, load: LoadJudge, ask: Ask) -> Reward:
        spec = self.parts[place]
        if spec.kind == "judge":
            judged, self.verdicts[place] = ask(spec, decode)
            return judged
        if spec.kind == "named":
            found = named_reward(str(spec.reward), decode, spec.options, name=spec.name)
            assert found is not None
            return found
        if spec.kind == "function":
            return FunctionReward(load_function(str(spec.reward)), decode, name=spec.name)
        if spec.kind == "object":
            if hasattr(spec.reward, "name"):
                return cast(Reward, spec.reward)
            return FunctionReward(cast(Any, spec.reward), decode, name=spec.name)
        if place == self.of_role:
            return learned_reward(models, spec.reward, spec.options, name=spec.name)
        judge = self.judges[place] = load(spec.reward)
        if _same_tokens(models.tokenizer, judge.tokenizer):
            return learned_reward(judge, spec.reward, spec.options, name=spec.name)
        return _by_text(judge, spec, decode)


def _parent(path: str, told: str, role: str = "reward") -> Parent:
    return Parent(role=role, path=path, weights_hash=told)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def reads_tokens_of(reward: object, policy: object, trust_remote_code: bool = False) -> bool:
    """Whether a reward model's tokenizer gives the policy's tokens the policy's ids."""
    return _same_tokens(_tokenizer(policy, trust_remote_code), _tokenizer(reward, trust_remote_code))


def _tokenizer(source: object, trust_remote_code: bool) -> Any:
    if isinstance(source, str | Path):
        return tokenizer_of(source, trust_remote_code=trust_remote_code)
    return source[1] if isinstance(source, tuple) else cast(Any, source).tokenizer  # a model in memory


def _same_tokens(policy: Any, reward: Any) -> bool:
    known = reward.get_vocab()
    return all(known.get(token) == i for token, i in policy.get_vocab().items())


def _called(reward: Reward, name: str | None) -> Reward:
    return reward if name is None or name == reward.name else Renamed(reward, name)


def _by_text(judge: RoleModels, spec: PartSpec, decode: Decode) -> TextReward:
    """A reward model with a tokenizer of its own."""
    if isinstance(judge.slot("reward").head, StepHead):
        raise TastemakerError(
            f"reward {spec.label}: a process reward model reads the ends of steps by the policy's own tokens, "
            "and its tokenizer is another. Train one from the policy's model family"
        )
    if spec.options:
        raise TastemakerError(
            f"reward {spec.label}: {', '.join(spec.options)}: its tokenizer is not the policy's, so it is "
            "given text, and takes no such setting then"
        )
    log.info(
        "reward %s: its tokenizer is not the policy's, so it is given text and reads it by its own", spec.label
    )
    normalisation = normalisation_of(spec.reward)
    return TextReward(score_with(judge), decode, normalisation=normalisation, name=spec.name or "reward_model")


def load_judge(
    source: object, settings: TrainSettings, device: torch.device, offload: Path | None = None
) -> RoleModels:
    """A reward model apart from the models of the run; `offload` as in `build_roles`."""
    return build_roles(
        ("reward",),
        (),
        policy=None,
        reward=cast(Any, source),
        dtype=settings.dtype,
        frozen_dtype=settings.frozen_dtype,
        offload=offload if settings.offload_frozen else None,
        device=device,
        attention=settings.attention,
        token_budget=settings.tokens_per_microbatch,
        trust_remote_code=settings.trust_remote_code,
    )


def learned_reward(
    models: RoleModels,
    source: object,
    options: Mapping[str, object] | None = None,
    *,
    name: str | None = None,
) -> LearnedReward | ProcessReward:
    """The role `reward` with the normalisation kept beside the reward model `source` (run, folder or name); a
    process reward model by its worst step, unless its `options` say otherwise.

    Raises:
        TastemakerError: options that such a model has not.
    """
    origin = f"reward {source}"

    def decode(ids: Tensor) -> str:
        return cast(str, models.tokenizer.decode(ids.tolist(), skip_special_tokens=True))

    if isinstance(models.slot("reward").head, StepHead):
        steps = settings_from(ProcessOptions, options or {}, origin=origin)
        return ProcessReward(models, decode, **vars(steps), name=name or "process_reward")
    whole = settings_from(LearnedOptions, options or {}, origin=origin)
    return LearnedReward(
        models,
        normalisation=normalisation_of(source),
        objectives=objectives_of(models),
        **vars(whole),
        name=name or "reward_model",
    )


def objectives_of(models: RoleModels) -> tuple[str, ...]:
    """What the reward model's scores are about, in their order; empty where it has one score."""
    head = models.slot("reward").head
    return head.names if isinstance(head, ObjectivesHead) else ()


def normalisation_of(source: object) -> Normalisation | None:
    """What was kept beside the reward model `source`; None where nothing was."""
    if not (isinstance(source, str | Path) and Path(source).is_dir()):
        return None
    return Normalisation.load(Run.open(source).model_dir if Run.is_run(source) else Path(source))


def centre_value(models: RoleModels, source: object) -> None:
    """A value model that starts from the reward model predicts raw rewards; here it is brought to the
    normalised ones, which are what the returns are made of.
    """
    normalisation = normalisation_of(source)
    head = models.slot("value").head if "value" in models.roles else None
    if normalisation is None or not isinstance(head, ScalarHead) or head.bias is None:
        return
    if bool(head.weight.any()):  # a zero head knows no reward to be brought anywhere
        with torch.no_grad():
            head.weight.div_(normalisation.scale)
            head.bias.sub_(normalisation.mean).div_(normalisation.scale)


def keep_normalisation(models: RoleModels, tokenised: Tokenised, folder: Path) -> None:
    """Brings the mean reward of the responses it learned from to 0, which Bradley-Terry leaves free."""
    batch = tokenised.batch(range(min(SEEN, len(tokenised.trees)))).to(models.device)
    rewards = models.score("reward", batch).rewards
    if rewards is None:  # a model of steps says how likely each is right, which has a zero point
        return
    Normalisation.of(rewards, objectives=objectives_of(models)).save(folder)

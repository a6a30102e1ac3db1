"""What a user may give as the reward of a run, read into parts: names, files, models, judges, functions, lists.

reward: maths
reward:
  - reward: maths
  - reward: format:.*####.*
    weight: 0.2
  - reward: runs/harm                 # a reward model as a constraint
    constraint: {at_most: 0.0}
  - reward: rewards.py:politeness
    normalise: running
    on_failure: invalid
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from tastemaker.config import nearest, settings_from
from tastemaker.rewards.compose import Constraint
from tastemaker.rewards.named import NAMED, TRL_NAMES
from tastemaker.rewards.scaling import Scaling
from tastemaker.types import TastemakerError

Kind = Literal["named", "function", "judge", "model", "object"]
JUDGE = "judge:"
"""What the name of an AI judge begins with; what follows is read where judges are made."""

_FILE = re.compile(r"(?P<file>.+\.py):(?P<function>[A-Za-z_]\w*)")
_WEIGHTED = re.compile(r"(?P<model>.+):(?P<weights>[^:=,]+=[^:=,]+(?:,[^:=,]+=[^:=,]+)*)")
_MODULE = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<function>[A-Za-z_]\w*)")


@dataclass(frozen=True, kw_only=True)
class PartSpec:
    """One reward as the user gave it."""

    reward: object
    """A name, a file and function, a model's folder or name, a judge, a function, a `types.Reward`."""
    name: str | None = None
    """What it is called in metrics; None: its own name."""
    weight: float = 1.0
    normalise: Scaling = "none"
    constraint: Mapping[str, object] | None = None
    on_failure: Literal["stop", "invalid"] = "stop"
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    """Everything else: options of the reward itself."""

    @property
    def kind(self) -> Kind:
        return kind_of(self.reward)

    @property
    def plain(self) -> bool:
        """Nothing is asked for but the reward itself."""
        return (self.weight, self.normalise, self.constraint, self.on_failure) == (1.0, "none", None, "stop")

    def bound(self) -> Constraint | None:
        """Raises TastemakerError for settings that a constraint has not."""
        if self.constraint is None:
            return None
        return settings_from(Constraint, self.constraint, origin=f"reward {self.label}: constraint")

    @property
    def label(self) -> str:
        """The reward in few words, for messages and records."""
        if isinstance(self.reward, str):
            return self.reward
        return str(
            getattr(self.reward, "name", None) or getattr(self.reward, "__name__", type(self.reward).__name__)
        )

    def record(self) -> str:
        """Everything that decides what it gives, as text, for the run's record."""
        said = {
            "name": self.name,
            "weight": None if self.weight == 1.0 else self.weight,
            "normalise": None if self.normalise == "none" else self.normalise,
            "constraint": self.constraint,
            "on_failure": None if self.on_failure == "stop" else self.on_failure,
            **self.options,
        }
        kept = {key: value for key, value in said.items() if value is not None}
        return f"{self.label} {json.dumps(kept, sort_keys=True, default=str)}" if kept else self.label


KEYS = ("reward", "name", "weight", "normalise", "constraint", "on_failure")


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What may be said of every reward; checks types."""

    name: str | None = None
    weight: float = 1.0
    normalise: Scaling = "none"
    on_failure: Literal["stop", "invalid"] = "stop"


def read_rewards(reward: object) -> tuple[PartSpec, ...]:
    """The parts of what was given as reward: one, or those of a list.

    Raises:
        TastemakerError: an entry without a reward, unknown or wrong settings, a name that nothing has.
    """
    if isinstance(reward, list):  # a tuple is a model in memory with its tokenizer
        entries = cast("Sequence[object]", reward)
        if not entries:
            raise TastemakerError("reward: the list is empty; name one reward at least")
        return tuple(_part(entry, f"reward[{i}]") for i, entry in enumerate(entries))
    return (_part(reward, "reward"),)


def _part(entry: object, place: str) -> PartSpec:
    entry = _with_weights(entry, place)
    if not isinstance(entry, Mapping):
        spec = PartSpec(reward=_source(entry))
    else:
        given = {
            str(key).replace("-", "_"): value for key, value in cast("Mapping[Any, object]", entry).items()
        }
        if "normalize" in given:
            given["normalise"] = given.pop("normalize")
        if given.get("reward") is None:
            raise TastemakerError(
                f"{place}: names no reward; write `reward: maths` (or {', '.join(NAMED)}, ...)"
            )
        constraint = given.get("constraint")
        if constraint is not None and not isinstance(constraint, Mapping):
            raise TastemakerError(
                f"{place}: constraint = {constraint!r}: write {{at_most: NUMBER}}, or at_least"
            )
        shared = {key: given[key] for key in KEYS if key in given and key not in ("reward", "constraint")}
        checked = settings_from(_Shared, shared, origin=place)
        spec = PartSpec(
            reward=_source(given["reward"]),
            constraint=cast("Mapping[str, object] | None", constraint),
            options={key: value for key, value in given.items() if key not in KEYS},
            **vars(checked),
        )
    if spec.kind in ("object", "function") and spec.options:
        close = nearest(next(iter(spec.options)), KEYS)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise TastemakerError(f"{place}: {spec.label} takes no setting {next(iter(spec.options))}{hint}")
    _look_for(spec, place)
    return spec


def _with_weights(entry: object, place: str) -> object:
    """`runs/rm:helpfulness=1,harmlessness=2`: a reward model on disk with the weights of its objectives."""
    found = _WEIGHTED.fullmatch(entry) if isinstance(entry, str) else None
    if found is None or Path(str(entry)).exists() or not Path(found["model"]).exists():
        return entry
    weights: dict[str, float] = {}
    for pair in found["weights"].split(","):
        objective, _, value = pair.partition("=")
        try:
            weights[objective.strip()] = float(value)
        except ValueError:
            raise TastemakerError(
                f"{place}: the weight of {objective.strip()} is {value!r}, which is no number"
            ) from None
    return {"reward": found["model"], "weights": weights}


def _source(value: object) -> object:
    """A run stands for its folder, and a path is text."""
    value = getattr(value, "folder", value)
    return str(value) if isinstance(value, Path) else value


def _look_for(spec: PartSpec, place: str) -> None:
    """A word that is no name, no model and near to a name was meant to be one."""
    if spec.kind != "model" or not isinstance(spec.reward, str) or Path(spec.reward).exists():
        return
    word = spec.reward.partition(":")[0]
    close = nearest(word, (*NAMED, *TRL_NAMES)) if "/" not in spec.reward else []
    if close:
        raise TastemakerError(f"{place}: there is no reward {spec.reward!r}; did you mean {close[0]}?")


def kind_of(reward: object) -> Kind:
    """What a reward is, as far as can be told without loading it."""
    if not isinstance(reward, str):
        return "object" if callable(reward) else "model"
    if reward.startswith(JUDGE):
        return "judge"
    if reward in TRL_NAMES or reward.partition(":")[0].strip().replace("-", "_") in NAMED:
        return "named"
    if Path(reward).exists():
        return "model"
    return "function" if _FILE.fullmatch(reward) or _MODULE.fullmatch(reward) else "model"


# ------------------------------------------------------------------------------------------- functions


def load_function(text: str) -> Callable[..., object]:
    """The function that `path/to/file.py:function` or `package.module:function` names. Its code is run.

    Raises:
        TastemakerError: no such file, module or function, or code that fails when it is loaded.
    """
    found = _FILE.fullmatch(text)
    if found is not None:
        module, where = _module_of(Path(found["file"]), text), found["file"]
    else:
        named = _MODULE.fullmatch(text)
        assert named is not None
        where = named["module"]
        try:
            module = importlib.import_module(where)
        except Exception as error:  # whatever foreign code does when it is loaded
            raise TastemakerError(
                f"reward {text}: module {where} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        found = named
    function = getattr(module, found["function"], None)
    if not callable(function):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        close = nearest(found["function"], names)
        hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names) or 'none'}"
        raise TastemakerError(f"reward {text}: {where} has no function {found['function']}{hint}")
    return function


def source_hash(text: str) -> str:
    """SHA-256 of the file that a function's name names; empty for modules, whose files may be many."""
    found = _FILE.fullmatch(text)
    if found is None or not Path(found["file"]).is_file():
        return ""
    return hashlib.sha256(Path(found["file"]).read_bytes()).hexdigest()


def _module_of(path: Path, text: str) -> ModuleType:
    if not path.is_file():
        raise TastemakerError(f"reward {text}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"tastemaker_reward_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever foreign code does when it is loaded
        raise TastemakerError(
            f"reward {text}: {path} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return module

"""Optimiser and random state as tensors and JSON, exact to the bit, without pickle."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from tastemaker.errors import TastemakerError

log = logging.getLogger(__name__)

SHAPED = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
"""Entries of the state that have their parameter's shape."""

_GROUP = re.compile(r"group\d+")

# ------------------------------------------------------------------------------------------- optimiser


def pack_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """(tensors, JSON) of the whole state: moments, step counts and each group's hyperparameters.

    Filed by the names in `parameters`, so that it can be put back whatever the order of parameters and
    groups. Tensors are called `<entry>:<parameter>`; they share memory with the optimiser's.
    """
    names = _names(parameters)
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, object]] = {}
    groups: list[dict[str, object]] = []
    for index, group in enumerate(optimizer.param_groups):
        settings: dict[str, object] = {}
        for key, value in group.items():
            if isinstance(value, Tensor):
                tensors[f"group{index}:{key}"] = value
            elif key != "params":
                settings[key] = value
        members = [_name_of(p, names) for p in group["params"]]
        groups.append({"parameters": members, "settings": settings})
    for parameter, entries in optimizer.state.items():
        name = _name_of(parameter, names)
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{key}:{name}"] = value
            else:
                numbers.setdefault(name, {})[key] = value
    return tensors, {"groups": groups, "numbers": numbers}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    state: Mapping[str, object],
) -> None:
    """Puts back what `pack_optimizer` gave. The optimiser must hold the same parameters by name, in the
    same groups; their order does not matter. Dtypes stay as they were saved, tensors are copied.
    """
    names = _names(parameters)
    by_members = {frozenset(_name_of(p, names) for p in g["params"]): g for g in optimizer.param_groups}
    saved = cast(list[dict[str, object]], state["groups"])
    members = [frozenset(cast(list[str], g["parameters"])) for g in saved]
    _check_members(set(members), set(by_members))
    for index, (group, key) in enumerate(zip(saved, members, strict=True)):
        current = by_members[key]
        for name, value in cast(dict[str, object], group["settings"]).items():
            is_tuple = isinstance(current.get(name), tuple) and isinstance(value, list)
            current[name] = tuple(cast(list[object], value)) if is_tuple else value
        prefix = f"group{index}:"
        for name in [n for n in tensors if n.startswith(prefix)]:
            current[name.removeprefix(prefix)] = tensors[name].clone()
    optimizer.state.clear()
    numbers = cast(dict[str, dict[str, object]], state["numbers"])
    entries = _by_parameter(tensors)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[parameter]
            moments = {k: _placed(k, v, parameter, group, name) for k, v in entries.get(name, {}).items()}
            if name in numbers or moments:
                optimizer.state[parameter] = {**numbers.get(name, {}), **moments}


def _by_parameter(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    entries: dict[str, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        key, _, name = full.partition(":")
        if not _GROUP.fullmatch(key):
            entries.setdefault(name, {})[key] = tensor
    return entries


def _placed(key: str, value: Tensor, parameter: Tensor, group: Mapping[str, object], name: str) -> Tensor:
    """A copy where the optimiser wants it: step counts stay in main memory unless it says otherwise."""
    if key in SHAPED and value.shape != parameter.shape:
        raise TastemakerError(
            f"optimiser state: {key} of {name} has shape {tuple(value.shape)}, the parameter "
            f"{tuple(parameter.shape)}. Resume with the model the checkpoint was made with."
        )
    on_device = key != "step" or bool(group.get("capturable")) or bool(group.get("fused"))
    return value.to(parameter.device if on_device else "cpu", copy=True)


def _names(parameters: Mapping[str, nn.Parameter]) -> dict[Tensor, str]:
    """Parameter -> name; a tied one goes by its first name."""
    names: dict[Tensor, str] = {}
    for name, parameter in parameters.items():
        names.setdefault(parameter, name)
    return names


def _name_of(parameter: Tensor, names: Mapping[Tensor, str]) -> str:
    if parameter not in names:
        raise ValueError(f"the optimiser holds a parameter {tuple(parameter.shape)} that has no name")
    return names[parameter]


def _check_members(saved: set[frozenset[str]], current: set[frozenset[str]]) -> None:
    if saved == current:
        return
    before, now = frozenset[str]().union(*saved), frozenset[str]().union(*current)
    missing, extra = sorted(before - now), sorted(now - before)
    what = "the same parameters in other groups"
    if missing or extra:
        what = f"missing now: {_few(missing)}; new: {_few(extra)}"
    raise TastemakerError(
        f"optimiser state: the checkpoint's parameters are not the optimiser's ({what}). "
        "Resume with the settings the checkpoint was made with."
    )


def _few(names: list[str]) -> str:
    return (", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")) or "none"


# ------------------------------------------------------------------------------------------- random state


def rng_state(
    generators: Mapping[str, torch.Generator] | None = None,
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """(tensors, JSON) of every source of randomness: torch on the CPU and on each CUDA device in use,
    Python's `random`, numpy's global state, and `generators` by name.
    """
    version, numbers, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)
    tensors = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(numbers, dtype=torch.int64, device="cpu"),
        "numpy": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
    }
    devices = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    for device in range(devices):
        tensors[f"cuda:{device}"] = torch.cuda.get_rng_state(device)
    for name, generator in (generators or {}).items():
        tensors[f"generator:{name}"] = generator.get_state()
    state: dict[str, object] = {
        "python": {"version": version, "gauss": gauss},
        "numpy": {
            "bit_generator": legacy["bit_generator"],
            "pos": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
        "cuda_devices": devices,
    }
    return tensors, state


def restore_rng(
    tensors: Mapping[str, Tensor],
    state: Mapping[str, object],
    generators: Mapping[str, torch.Generator] | None = None,
) -> None:
    """Puts every source of randomness back to where `rng_state` found it. `generators` must carry the
    same names. With other CUDA devices than before theirs start afresh, which is logged.
    """
    python = cast(dict[str, object], state["python"])
    random.setstate((python["version"], tuple(tensors["python"].tolist()), python["gauss"]))
    legacy = dict(cast(dict[str, object], state["numpy"]))
    key = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state({**legacy, "state": {"key": key, "pos": legacy.pop("pos")}})
    torch.set_rng_state(tensors["torch"])
    devices = cast(int, state["cuda_devices"])
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if devices in (0, present):
        for device in range(devices):
            torch.cuda.set_rng_state(tensors[f"cuda:{device}"], device)
    else:
        log.warning("random state of %d CUDA devices cannot be put back on %d", devices, present)
    saved = {n.removeprefix("generator:") for n in tensors if n.startswith("generator:")}
    if saved != set(generators or {}):
        raise ValueError(f"generators: the state holds {sorted(saved)}, given are {sorted(generators or {})}")
    for name, generator in (generators or {}).items():
        generator.set_state(tensors[f"generator:{name}"])

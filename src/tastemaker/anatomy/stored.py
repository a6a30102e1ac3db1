"""Weights as they lie in safetensors, read block by block: a full model, or a LoRA adapter over one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import safe_open
from torch import Tensor

from tastemaker.errors import TastemakerError
from tastemaker.runs import Run

Kind = Literal["attention", "mlp", "embeddings", "norms", "head", "other"]
KINDS: tuple[Kind, ...] = ("attention", "mlp", "norms", "embeddings", "head", "other")
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.")
PREFIX = "base_model.model."
BLOCK = 2**24
"""Entries read at a time."""


def layer_of(name: str) -> int | None:
    """The layer that a tensor belongs to; None for what is outside of them."""
    found = LAYER.search(name)
    return int(found[1]) if found else None


def kind_of(name: str) -> Kind:
    """What a tensor is for, by its name."""
    low = name.casefold()
    if re.search(r"norm|(^|\.)ln_|layernorm", low):
        return "norms"
    if re.search(r"embed|wte|wpe", low):
        return "embeddings"
    if re.search(r"attn|attention", low):
        return "attention"
    if re.search(r"mlp|feed_forward|ffn|expert|fc\d", low):
        return "mlp"
    if re.search(r"lm_head|score|head", low):
        return "head"
    return "other"


@dataclass(frozen=True, eq=False)
class _Low:
    """An adapter's update of one tensor, scale * B A."""

    a: Tensor
    """[r, in]"""
    b: Tensor
    """[out, r]"""
    scale: float

    def block(self, dim: int, start: int, end: int) -> Tensor:
        if dim == 0:
            return self.scale * (self.b[start:end] @ self.a)
        return self.scale * (self.b @ self.a[:, start:end])


@dataclass(frozen=True, eq=False)
class Stored:
    """One model's tensors on disk, by the full model's names."""

    folder: Path
    files: Mapping[str, Path]
    """Tensor of the full model -> its file."""
    base: Path
    """Folder of the full weights; `folder` itself where there is no adapter."""
    updates: Mapping[str, _Low] = field(default_factory=dict[str, _Low])
    replaced: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Modules that were saved whole beside an adapter."""

    @property
    def names(self) -> list[str]:
        return list(self.files)

    def shape(self, name: str) -> tuple[int, ...]:
        with safe_open(self.files[name], framework="pt") as opened:
            return tuple(cast(Any, opened).get_slice(name).get_shape())

    def whole(self, name: str, dim: int, start: int, end: int) -> Tensor:
        """Rows (dim 0) or columns (dim 1) start to end of a tensor, the adapter's update in it, float32."""
        if name in self.replaced:
            own = self.replaced[name].float()
            return own[start:end] if dim == 0 else own[:, start:end]
        with safe_open(self.files[name], framework="pt") as opened:
            lazy = cast(Any, opened).get_slice(name)
            part: Tensor = lazy[start:end] if dim == 0 else lazy[:, start:end]
        return part.float() + self.update(name, dim, start, end)

    def update(self, name: str, dim: int, start: int, end: int) -> Tensor:
        """What the adapter adds to that block; a scalar 0 where it adds nothing."""
        low = self.updates.get(name)
        return low.block(dim, start, end) if low is not None else torch.zeros(())


def open_stored(source: str | Path) -> Stored:
    """The weights of a run, of a folder of one, or of a Hugging Face or peft folder on this machine.

    Raises TastemakerError where there are none, or the adapter's base model is not on this machine.
    """
    folder = Run.open(source).model_dir if Run.is_run(source) else Path(source)
    if not folder.is_dir():
        raise TastemakerError(f"{source}: there is no such run or model folder. Check the path.")
    config = folder / "adapter_config.json"
    if not config.exists():
        return Stored(folder.resolve(), _files(folder), folder.resolve())
    fields = json.loads(config.read_text("utf-8"))
    if fields.get("use_dora"):
        raise TastemakerError(
            f"{folder}: DoRA adapters are not low-rank updates; export it with --merge first."
        )
    base = _base_folder(folder, str(fields.get("base_model_name_or_path", "")))
    files = _files(base)
    updates, replaced = _read_adapter(folder, fields, files)
    return Stored(folder.resolve(), files, base.resolve(), updates, replaced)


def parent_of(source: str | Path, role: str = "policy") -> Path:
    """The model that a run began from: the parent of that role in its record (its first, where roles differ).

    Raises TastemakerError where `source` is no run, names no parent, or the parent is gone.
    """
    if not Run.is_run(source):
        raise TastemakerError(f"{source}: is no run, so its parent is not known; name it with --parent.")
    run = Run.open(source)
    parents = run.record.parents
    chosen = next((p for p in parents if p.role == role), parents[0] if parents else None)
    if chosen is None:
        raise TastemakerError(f"{source}: this run began from no other model; name one with --parent.")
    folder = (run.folder / chosen.path).resolve()
    if not folder.is_dir():
        raise TastemakerError(
            f"{source}: its parent {chosen.path} is not there any more; name it with --parent."
        )
    return folder


def shared_base(run: Stored, parent: Stored) -> bool:
    """Both are one set of full weights with or without adapters, so that only the adapters differ."""
    return run.base == parent.base


def delta_blocks(run: Stored, parent: Stored, name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """(change, parent's weights) of one tensor, float32, in blocks along its longer side; [rows, columns] or
    [n].
    """
    shape = run.shape(name) if name not in run.replaced else tuple(run.replaced[name].shape)
    if parent.shape(name) != shape and name not in parent.replaced:
        raise TastemakerError(f"{name}: {list(shape)} in the run, {list(parent.shape(name))} in its parent.")
    dim = 0 if len(shape) < 2 or shape[0] >= shape[1] else 1
    other = math.prod(shape) // max(1, shape[dim]) if shape else 1
    step = max(1, BLOCK // max(1, other))
    near = shared_base(run, parent) and name not in run.replaced and name not in parent.replaced
    for start in range(0, shape[dim] if shape else 1, step):
        end = min(start + step, shape[dim] if shape else 1)
        before = parent.whole(name, dim, start, end)
        if near:  # full weights cancel exactly, where their difference would be rounded
            change = run.update(name, dim, start, end) - parent.update(name, dim, start, end)
            change = change.expand_as(before) if change.dim() == 0 else change
        else:
            change = run.whole(name, dim, start, end) - before
        yield change, before


def _files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        if file.name.startswith("adapter_"):
            continue
        with safe_open(file, framework="pt") as opened:
            found |= dict.fromkeys(opened.keys(), file)
    if not found:
        raise TastemakerError(f"{folder}: no weights in safetensors are in it.")
    return found


def _base_folder(folder: Path, name: str) -> Path:
    for candidate in (Path(name), folder / name):
        if name and candidate.is_dir():
            return candidate / "model" if Run.is_run(candidate) else candidate
    raise TastemakerError(
        f"{folder}: its base model {name!r} is no folder on this machine. Export the run with --merge, or put "
        "the base where adapter_config.json says."
    )


def _read_adapter(
    folder: Path, fields: Mapping[str, Any], files: Mapping[str, Path]
) -> tuple[dict[str, _Low], dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as opened:
        names = opened.keys()  # no mapping: it cannot be iterated itself
        for key in names:
            tensors[key.removeprefix(PREFIX)] = opened.get_tensor(key).float()
    updates: dict[str, _Low] = {}
    replaced: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if key.endswith(".lora_A.weight"):
            module = key.removesuffix(".lora_A.weight")
            b = tensors[f"{module}.lora_B.weight"]
            name = _named(f"{module}.weight", files)
            updates[name] = _Low(value, b, _scale(fields, module, value.shape[0]))
        elif ".lora_" not in key and "score" not in key:
            replaced[_named(key.replace(".modules_to_save", "").replace(".default", ""), files)] = value
    return updates, replaced


def _named(name: str, files: Mapping[str, Path]) -> str:
    found = name if name in files else next((f for f in files if f.endswith(name) or name.endswith(f)), None)
    if found is None:
        raise TastemakerError(f"the adapter changes {name}, which its base model does not have.")
    return found


def _scale(fields: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = float(fields.get("lora_alpha", rank))
    for pattern, value in (fields.get("alpha_pattern") or {}).items():
        if re.search(rf"(^|\.){pattern}$", module):
            alpha = float(value)
    return alpha / math.sqrt(rank) if fields.get("use_rslora") else alpha / rank

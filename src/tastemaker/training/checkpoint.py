"""Checkpoints that a kill, a full disk or a flipped bit cannot spoil.

A checkpoint is a folder `step-00000123` of safetensors files, `state.json` and `MANIFEST.json` with the
size and SHA-256 of each. It is written under a temporary name, brought to the disk and only then renamed,
so a folder of that name is always whole; older ones are removed last. On loading every byte is checked
against the manifest, and a damaged checkpoint gives way to the one before it.

Whoever saves holds the run's lock. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tastemaker.errors import TastemakerError
from tastemaker.runs.files import sync_file, sync_folder
from tastemaker.runs.fingerprint import canonical_json, sha256_json
from tastemaker.runs.names import check_name
from tastemaker.runs.process import Process
from tastemaker.training.snapshot import pack_optimizer, restore_rng, rng_state, unpack_optimizer

__all__ = [
    "Checkpoint",
    "load",
    "load_latest",
    "pack_optimizer",
    "restore_rng",
    "rng_state",
    "save",
    "unpack_optimizer",
]

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MANIFEST = "MANIFEST.json"
STATE = "state.json"
ENDING = ".safetensors"

_SAVED = re.compile(r"(?:\.old-)?step-(\d{8,})")
_TEMPORARY = re.compile(r"\.tmp-step-\d+-([A-Za-z0-9._]+)-(\d+)-(\d+)")
_ABANDONED = 3600.0
"""Seconds after which a temporary folder of another host counts as left behind: no save takes that long."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint whose every byte was just checked."""

    step: int
    folder: Path
    names: tuple[str, ...]
    """The tensor files, as `save` was given them."""
    state: dict[str, object]
    """What `save` was given; tuples have become lists."""

    def tensors(self, name: str, device: str | torch.device = "cpu") -> dict[str, Tensor]:
        """The tensors of one file."""
        return load_file(self.folder / f"{name}{ENDING}", device=str(device))


# ------------------------------------------------------------------------------------------- save


def save(
    folder: str | Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, object],
    *,
    keep_last: int | None = 2,
) -> Path:
    """Saves a checkpoint in `folder` and returns its own folder; then removes all but the newest
    `keep_last` (None: removes none).

    `tensors` maps file name -> tensor name -> tensor of any device and dtype; `state` is JSON data (text
    keys; tuples come back as lists; floats come back bit for bit, NaN and infinities too). A checkpoint of
    the same step is replaced. When it cannot be written (`TastemakerError`) those saved before are intact
    and nothing is left behind.
    """
    folder = Path(folder)
    if keep_last is not None and keep_last < 1:
        raise ValueError(f"keep_last: {keep_last} would keep no checkpoint")
    _check_json(state, "state")
    text = json.dumps(state).encode()
    needed = _size(tensors) + len(text)
    temporary = folder / _temporary_name(step)
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            sync_folder(folder.parent)
        _clean(folder)
        if shutil.disk_usage(folder).free < needed:
            raise _cannot_save(folder, step, needed, "the disk is too full")
        temporary.mkdir()
        _write_files(temporary, step, tensors, text)
        saved = _publish(temporary, folder / _name(step))
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        shutil.rmtree(temporary, ignore_errors=True)
        raise _cannot_save(folder, step, needed, reason) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if keep_last is not None:
        _rotate(folder, keep_last)
    return saved


def _write_files(temporary: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: bytes) -> None:
    """Writes everything and brings it to the disk; the manifest comes last."""
    (temporary / STATE).write_bytes(state)
    for name, values in tensors.items():
        path = temporary / f"{check_name(name)}{ENDING}"
        save_file(_storable(values), path)
        # safetensors makes files for their owner alone; whoever may read the rest may read these.
        shutil.copymode(temporary / STATE, path)
    files = {path.name: {"sha256": _sha256(path), "size": path.stat().st_size} for path in temporary.iterdir()}
    (temporary / MANIFEST).write_bytes(_manifest_text(step, files))
    for path in temporary.iterdir():
        sync_file(path)
    sync_folder(temporary)


def _publish(temporary: Path, final: Path) -> Path:
    """Gives the finished folder its name. One that has that name steps aside first, under a name that
    loading knows, so that at no moment is there less than before.
    """
    old = final.with_name(f".old-{final.name}")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final, old)
    os.rename(temporary, final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)
    return final


def _rotate(folder: Path, keep_last: int) -> None:
    """Removes all but the newest. A folder loses its name first: half removed it must not look whole."""
    for path, _ in list(_saved(folder))[keep_last:]:
        gone = folder / f".del-{path.name}"
        try:
            os.rename(path, gone)
            shutil.rmtree(gone)
        except OSError as error:
            log.warning("%s: an old checkpoint could not be removed: %s", path, error)


def _clean(folder: Path) -> None:
    """Removes what processes that were killed left half done."""
    for path in folder.iterdir():
        replaced = path.name.startswith(".old-") and (folder / path.name.removeprefix(".old-")).exists()
        if path.name.startswith(".del-") or replaced or _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    owner = Process(match[1], int(match[2]), int(match[3]))
    if owner == Process.current():
        return True
    alive = owner.alive()
    return not alive if alive is not None else time.time() - path.stat().st_mtime > _ABANDONED


def _cannot_save(folder: Path, step: int, needed: int, reason: str) -> TastemakerError:
    try:
        free = f"{shutil.disk_usage(folder).free:,}"
    except OSError:
        free = "unknown"
    return TastemakerError(
        f"{folder}: the checkpoint of step {step} cannot be saved: {reason}. It needs {needed:,} bytes; "
        f"free: {free}. Checkpoints saved before are intact. Free space (or keep fewer checkpoints, or write "
        "elsewhere), then start again: the run resumes from the newest."
    )


# ------------------------------------------------------------------------------------------- load


def load_latest(
    folder: str | Path, *, required: bool = False, warn: Callable[[str], None] = log.warning
) -> Checkpoint | None:
    """The newest sound checkpoint in `folder`; None where none was ever saved.

    Damaged ones that are newer are renamed to `.bad-...`, and `warn` is told which file of which is
    damaged and what is used instead. Raises `TastemakerError` when `required` and there is none, and
    whenever there are checkpoints but none is sound: training never starts afresh quietly.
    """
    folder = Path(folder)
    damaged: list[tuple[Path, str]] = []
    for path, step in _saved(folder):
        try:
            names, state = _verified(path, step)
        except _Damaged as reason:
            damaged.append((path, str(reason)))
            continue
        for bad, reason in damaged:
            warn(f"{bad}: damaged checkpoint: {reason}. Set aside; step {step} is used instead.")
            _rename(bad, _free_name(folder, f".bad-{bad.name}"), warn)
        if path.name != _name(step):
            path = _rename(path, folder / _name(step), warn)
        return Checkpoint(step, path, names, state)
    if damaged:
        listed = "\n".join(f"  {path.name}: {reason}" for path, reason in damaged)
        raise TastemakerError(
            f"{folder}: every checkpoint is damaged:\n{listed}\n"
            "Restore one from a copy, or write to another folder to start from the beginning."
        )
    if required:
        raise TastemakerError(
            f"{folder}: there is no checkpoint to resume from. Correct the folder, or do not ask to resume."
        )
    return None


def load(folder: str | Path, step: int) -> Checkpoint:
    """The checkpoint of one step. Raises `TastemakerError` where it is missing or damaged."""
    path = Path(folder) / _name(step)
    try:
        return Checkpoint(step, path, *_verified(path, step))
    except _Damaged as reason:
        raise TastemakerError(f"{path}: {reason}. Start in another folder.") from None


class _Damaged(Exception):
    """Why a checkpoint cannot be trusted."""


def _saved(folder: Path) -> Iterator[tuple[Path, int]]:
    """(folder, step) of the checkpoints, newest first; one being replaced comes after its successor."""
    if folder.is_dir():
        found = [(p, int(m[1])) for p in folder.iterdir() if (m := _SAVED.fullmatch(p.name))]
        yield from sorted(found, key=lambda e: (e[1], not e[0].name.startswith(".")), reverse=True)


def _verified(path: Path, step: int) -> tuple[tuple[str, ...], dict[str, object]]:
    """(tensor files, state) of the checkpoint, every byte checked."""
    files = _read_manifest(_bytes(path / MANIFEST), step)
    for name, (size, sha256) in files.items():
        try:
            found = (path / name).stat().st_size
            if found != size:
                raise _Damaged(f"{name} has {found:,} bytes instead of {size:,}")
            if _sha256(path / name) != sha256:
                raise _Damaged(f"{name} is not what was written (SHA-256 differs)")
        except OSError as error:
            raise _unreadable(path / name, error) from error
    names = tuple(sorted(n.removesuffix(ENDING) for n in files if n.endswith(ENDING)))
    return names, json.loads(_bytes(path / STATE))


def _manifest_text(step: int, files: Mapping[str, Mapping[str, object]]) -> bytes:
    content = {"files": files, "schema_version": SCHEMA_VERSION, "step": step}
    return canonical_json({**content, "sha256": sha256_json(content)}).encode()


def _read_manifest(text: bytes, step: int) -> dict[str, tuple[int, str]]:
    """File name -> (size, SHA-256). The manifest carries its own hash and has one spelling only, so that
    no bit of it can change unseen.
    """
    try:
        content = json.loads(text)
        files = content["files"]
        sound = text == _manifest_text(content["step"], files) and content["step"] == step
        entries = {str(name): (int(e["size"]), str(e["sha256"])) for name, e in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Damaged(f"{MANIFEST} cannot be understood") from error
    if not sound:
        raise _Damaged(f"{MANIFEST} is not what was written")
    return entries


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> Exception:
    """Lacking permission says nothing about the file; any other failure does."""
    if isinstance(error, PermissionError):
        return TastemakerError(f"{path}: cannot be read: {error.strerror}. Correct the permissions.")
    if isinstance(error, FileNotFoundError):
        return _Damaged(f"{path.name} is missing")
    return _Damaged(f"{path.name} cannot be read: {error.strerror}")


def _rename(path: Path, to: Path, warn: Callable[[str], None]) -> Path:
    """Where `path` lies afterwards: a folder that may only be read stays as it is."""
    try:
        os.rename(path, to)
    except OSError as error:
        warn(f"{path}: cannot be renamed to {to.name}: {error.strerror}")
        return path
    return to


def _free_name(folder: Path, name: str) -> Path:
    taken, number = folder / name, 1
    while taken.exists():
        number += 1
        taken = folder / f"{name}-{number}"
    return taken


# ------------------------------------------------------------------------------------------- helpers


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _temporary_name(step: int) -> str:
    """Says who is writing, so that a later process can tell whether he still is."""
    me = Process.current()
    return f".tmp-{_name(step)}-{me.host}-{me.pid}-{me.started}"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(tensors: Mapping[str, Mapping[str, Tensor]]) -> int:
    """Bytes the tensor files and the manifest take, names and headers counted generously."""
    return 4096 * (len(tensors) + 2) + sum(
        value.numel() * value.element_size() + len(name) + 256
        for values in tensors.values()
        for name, value in values.items()
    )


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in main memory, contiguous, none sharing memory with another (safetensors refuses that)."""
    stored: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        stored[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return stored


def _check_json(value: object, where: str) -> None:
    """JSON would turn other keys into text without a word, and they would come back as other keys."""
    match value:
        case None | bool() | int() | float() | str():
            return
        case Mapping():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"{where}: key {key!r} is not text")
                _check_json(item, f"{where}.{key}")
        case list() | tuple():
            for i, item in enumerate(cast(list[object], value)):
                _check_json(item, f"{where}[{i}]")
        case _:
            raise TypeError(f"{where}: {type(value).__name__} cannot be saved as JSON")

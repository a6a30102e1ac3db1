"""Frozen weights that are held elsewhere and come for one pass at a time.

A reference or reward model is read a few times a step and never written. With CUDA its weights wait in pinned
memory of the host and are copied to the device for a pass. On a CPU they lie in a file that is mapped: what a
pass reads is in memory during that pass, and given back behind it, to be read from the system's cache of files
(or, where that is needed for other things, from the disk) at the next one. Either way the numbers are the same.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from tastemaker.types import TastemakerError

ALIGNMENT = 64
"""Bytes that every tensor's place in the file is a multiple of, as those of a tensor in memory."""


class Offloaded:
    """The weights of one frozen model, away but inside `here()`. Buffers, which are small, stay in place."""

    def __init__(self, model: nn.Module, device: torch.device, folder: Path | None) -> None:
        """`folder`: where the file lies, which has no name and is gone with the process; None: memory.

        Raises:
            TastemakerError: no room for the file.
        """
        self._parameters = list(model.parameters())
        self._device = device
        self._users = 0
        self._mapped: mmap.mmap | None = None
        given = [p.data for p in self._parameters]
        if folder is not None:
            self._mapped = written(given, folder)
            self._held = laid_over(self._mapped, given)
        else:
            self._held = [t.to("cpu", copy=True) for t in given]
            if device.type == "cuda":
                self._held = [t.pin_memory() for t in self._held]
        self._leave()

    @contextmanager
    def here(self) -> Generator[None]:
        """Inside, the model computes on its device; it leaves with the outermost of nested uses."""
        if not self._users and self._mapped is None:
            for parameter, held in zip(self._parameters, self._held, strict=True):
                # in the order of the device's work, so that the host need not wait
                parameter.data = held.to(self._device, non_blocking=True, copy=True)
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._leave()

    def _leave(self) -> None:
        for parameter, held in zip(self._parameters, self._held, strict=True):
            parameter.data = held
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # elsewhere the system decides itself
            self._mapped.madvise(mmap.MADV_DONTNEED)


def places(tensors: Sequence[Tensor]) -> tuple[list[int], int]:
    """(where each begins, bytes in all)"""
    starts: list[int] = []
    end = 0
    for tensor in tensors:
        starts.append(-(-end // ALIGNMENT) * ALIGNMENT)
        end = starts[-1] + tensor.numel() * tensor.element_size()
    return starts, end


def written(tensors: Sequence[Tensor], folder: Path) -> mmap.mmap:
    """The tensors in a nameless file under `folder`, mapped. What is changed in the mapping stays private."""
    starts, size = places(tensors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for tensor, start in zip(tensors, starts, strict=True):
                file.seek(start)
                file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            file.truncate(max(1, size))
            file.flush()
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise TastemakerError(
            f"{folder}: the frozen weights ({size / 1e6:.0f} MB) cannot be laid there ({error}). Make room, "
            "choose another --out, or leave out offload_frozen."
        ) from error


def laid_over(mapped: mmap.mmap, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors, read from the mapping."""
    found: list[Tensor] = []
    for tensor, start in zip(tensors, places(tensors)[0], strict=True):
        if tensor.numel():
            flat = torch.frombuffer(mapped, dtype=tensor.dtype, count=tensor.numel(), offset=start)
            found.append(flat.view(tensor.shape))
        else:
            found.append(tensor)
    return found

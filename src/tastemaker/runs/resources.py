"""What a run cost: wall time, processor time, peak memory."""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict


class Resources(BaseModel):
    """Totals of a run over all the times it was started."""

    model_config = ConfigDict(frozen=True, extra="allow")

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    """User and system time of the process and of the children it waited for."""
    peak_rss_bytes: int = 0
    """Most memory the process ever held, from its start: imports and data are part of it."""
    cuda_peak_bytes: int = 0
    """Most memory torch ever allocated on the CUDA devices together; 0 without one."""
    model_copies: int = 0
    """Whole sets of model weights held in memory."""
    flops: dict[str, float] = {}
    """Floating-point operations that the work needed, by stage: rollouts, scoring, updates."""
    tokens: dict[str, int] = {}
    """Tokens by stage: sampled in rollouts, passed without gradient, passed with it."""


class Meter:
    """Counts from its making on; on a resume it counts on from `before`."""

    def __init__(self, before: Resources | None = None, *, model_copies: int = 0) -> None:
        self._before = before or Resources()
        self._model_copies = model_copies
        self._wall = time.perf_counter()
        self._cpu = cpu_seconds()

    def read(self) -> Resources:
        """The totals so far. Saved with each checkpoint they lose at most the work that is done again."""
        return Resources(
            wall_seconds=self._before.wall_seconds + (time.perf_counter() - self._wall),
            cpu_seconds=self._before.cpu_seconds + (cpu_seconds() - self._cpu),
            peak_rss_bytes=max(self._before.peak_rss_bytes, peak_rss_bytes()),
            cuda_peak_bytes=max(self._before.cuda_peak_bytes, cuda_peak_bytes()),
            model_copies=max(self._before.model_copies, self._model_copies),
        )


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended and were waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_rss_bytes() -> int:
    """Most resident memory this process ever held.

    Linux hands `ru_maxrss` on to the program a process starts, so a small child of a large parent would
    report the parent's peak; `VmHWM` begins anew with each program.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cuda_peak_bytes() -> int:
    """Sum of torch's peak allocations over the CUDA devices; 0 while CUDA has not been used."""
    if not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))

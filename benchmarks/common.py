"""What both sides of a measurement share: the tasks, where prepared inputs lie, and how a step is timed."""

from __future__ import annotations

import argparse
import json
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
SEED = 42
MAX_LENGTH = 512
"""Tokens in prompt and response; longer rows are left out for everyone."""


@dataclass(frozen=True)
class Size:
    """A Llama with tied embeddings, random weights."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int


SIZES = {
    "tiny": Size(64, 160, 2, 2, 512),
    "small": Size(256, 704, 5, 4, 4096),
    "large": Size(512, 1408, 8, 8, 32000),
}


@dataclass(frozen=True)
class Task:
    """One kind of work, the same for everyone: what a unit is, how many make a batch, what is measured."""

    unit: str
    batch: int
    steps: int
    """Steps that are measured, after `warmup` that are not."""
    warmup: int = 2
    peer: str = "trl-1.16"
    new_tokens: int = 64
    micro: int = 8
    """Episodes per forward and backward of PPO, where the peer needs a number."""


TASKS = {
    "dpo": Task("pairs", 8, 8),
    "reward": Task("pairs", 8, 8),
    "sft": Task("dialogues", 8, 8),
    "ppo": Task("episodes", 16, 2, warmup=1, peer="trl-1.12"),
}
LARGE_STEPS = 3
"""Measured steps of the large size: a step takes long enough for a steady reading."""


def order_file(folder: Path, count: int) -> Path:
    return folder / f"order-{count}.json"


def rows_of(folder: Path, name: str, count: int, *, ordered: bool) -> list[dict[str, str]]:
    """The first `count` rows of a file, again from the top if shorter; `ordered`: as tastemaker takes them."""
    rows = read_jsonl(folder / f"{name}.jsonl")
    found = [rows[i % len(rows)] for i in range(count)]
    return [found[i] for i in json.loads(order_file(folder, count).read_text())] if ordered else found


def steps_of(task: str, size: str) -> int:
    steps = TASKS[task].steps
    return min(steps, LARGE_STEPS) if size == "large" else steps


def arguments() -> argparse.Namespace:
    """The command line of one measured process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--size", required=True, choices=SIZES)
    parser.add_argument("--prepared", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--variant", default="default")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", nargs="*", default=[], help="name=value: settings changed for an experiment")
    parser.add_argument("--profile", help="write where the measured steps spend their time to this file")
    return parser.parse_args()


def changes(pairs: list[str]) -> dict[str, Any]:
    """name=value pairs, values as JSON where they are JSON."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


@dataclass
class Clock:
    """Reads the processor time at the end of every step; the first `warmup` steps only set the start."""

    warmup: int
    profile: str | None = None
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    units: list[float] = field(default_factory=list)
    _stop: Callable[[], None] | None = None

    def tick(self, units: float) -> None:
        """A step that did `units` of work has ended."""
        self.cpu.append(time.process_time())
        self.wall.append(time.perf_counter())
        self.units.append(units)
        if self.profile and len(self.cpu) == self.warmup:
            self._stop = profiled(self.profile)

    def report(self, steps: int, **more: Any) -> None:
        """One line of JSON: seconds of processor time per unit over the measured steps, and peak memory."""
        memory = peak_bytes()
        if self._stop is not None:
            self._stop()
        first, last = self.warmup - 1, self.warmup + steps - 1
        units = sum(self.units[first + 1 : last + 1])
        print(
            json.dumps(
                {
                    "cpu_per_unit": (self.cpu[last] - self.cpu[first]) / units,
                    "wall_per_unit": (self.wall[last] - self.wall[first]) / units,
                    "units": units,
                    "peak_bytes": memory,
                    **more,
                }
            ),
            flush=True,
        )


def peak_bytes() -> int:
    """Most resident memory this process ever held (VmHWM: ru_maxrss inherits the parent's on Linux)."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def profiled(path: str) -> Callable[[], None]:
    """Starts torch's profiler; what is returned stops it and writes the table."""
    from torch.profiler import ProfilerActivity, profile

    recorder = profile(activities=[ProfilerActivity.CPU], record_shapes=False)
    recorder.__enter__()

    def stop() -> None:
        recorder.__exit__(None, None, None)
        table = recorder.key_averages().table(sort_by="self_cpu_time_total", row_limit=60)
        Path(path).write_text(table)

    return stop


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

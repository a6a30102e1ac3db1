"""What both sides of a measurement share: the tasks, where prepared inputs lie, and how a step is timed."""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
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
    """A model of this shape with random weights."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    kv_heads: int | None = None
    """Heads of keys and values; none: as many as of queries."""
    family: str = "llama"
    tied: bool = True
    """Whether the output head is the input embedding."""
    positions: int = 2048

    @property
    def kv_width(self) -> int:
        return self.hidden // self.heads * (self.kv_heads or self.heads)


LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
"""What tastemaker asks PyTorch for by itself; given to the peer's best setting too."""
LONG = 131072
"""Positions of the models for a GPU."""
SIZES = {
    "tiny": Size(64, 160, 2, 2, 4096),
    "small": Size(256, 704, 5, 4, 4096),
    "small-32k": Size(256, 704, 5, 4, 32000),
    "medium": Size(512, 1408, 8, 8, 4096),
    "large": Size(512, 1408, 8, 8, 32000),
    "xl": Size(768, 2048, 16, 12, 32000),
    # shapes and vocabularies of Qwen2.5; the first is for trying the harness
    "qwen-tiny": Size(64, 160, 2, 4, 4352, 2, "qwen2", positions=LONG),
    "qwen-0.5b": Size(896, 4864, 24, 14, 151936, 2, "qwen2", positions=LONG),
    "qwen-1.5b": Size(1536, 8960, 28, 12, 151936, 2, "qwen2", positions=LONG),
    "qwen-7b": Size(3584, 18944, 28, 28, 152064, 4, "qwen2", tied=False, positions=LONG),
}


@dataclass(frozen=True)
class Task:
    """One kind of work, the same for everyone: what a unit is, how many make a batch, what is measured."""

    unit: str
    batch: int
    steps: int
    """Steps that are measured, after `warmup` that are not."""
    warmup: int = 4
    """Batches differ in length, and until long ones have come every new one asks the system for pages: a
    quarter to a third of ours at 42M in the second step, 4% in the fifth, and no part of a steady run.
    """
    peer: str = "trl-1.16"
    new_tokens: int = 64
    micro: int = 8
    """Episodes per forward and backward of PPO, where the peer needs a number."""
    epochs: int = 4
    """Inner epochs of PPO."""
    group: int = 1
    """Responses to each prompt of an online task."""
    sizes: tuple[str, ...] = ("small", "large")
    """Sizes that are measured where a size is asked for."""
    dtypes: tuple[str, ...] = ("bfloat16",)
    adapter: str = "full"
    once: bool = False
    """Measured in the first round alone: its peak memory is what is wanted."""

    @property
    def online(self) -> bool:
        return self.unit in ("episodes", "tokens")


TASKS = {
    "dpo": Task("pairs", 8, 8),
    "reward": Task("pairs", 8, 8),
    "sft": Task("dialogues", 8, 8, sizes=("small",)),
    "ppo": Task("episodes", 16, 3, warmup=2, peer="trl-1.12", sizes=("small",)),
    "grpo": Task("episodes", 32, 4, warmup=2, group=8, sizes=("small",)),
    "rollouts": Task(
        "tokens", 32, 8, warmup=2, peer="generate", sizes=("small",), dtypes=("float32", "bfloat16")
    ),
    "ppo-lora": Task(
        "episodes",
        8,
        1,
        warmup=0,
        peer="trl-1.12",
        new_tokens=16,
        micro=4,
        epochs=1,
        sizes=("xl",),
        adapter="lora",
        once=True,
    ),
}
PROMPT_LIMIT = {"ppo-lora": 240}
"""Tokens in the longest prompt, where a task keeps them short."""
LARGE_STEPS = 3
"""Steps of the large size: a step takes long enough for a steady reading."""


def order_file(folder: Path, count: int) -> Path:
    return folder / f"order-{count}.json"


def reward_name(size: str, adapter: str) -> str:
    return f"reward-{size}" + ("-lora" if adapter == "lora" else "")


def prompts_name(task: str) -> str:
    return f"prompts-{task}" if task in PROMPT_LIMIT else "prompts"


def rows_of(folder: Path, name: str, count: int, *, ordered: bool) -> list[dict[str, str]]:
    """The first `count` rows of a file, again from the top if shorter; `ordered`: as tastemaker takes them."""
    rows = read_jsonl(folder / f"{name}.jsonl")
    found = [rows[i % len(rows)] for i in range(count)]
    return [found[i] for i in json.loads(order_file(folder, count).read_text())] if ordered else found


def near_twenty_words(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    """The reward of the groups, the same for everyone: how near a response comes to twenty words."""
    return [-abs(len(text.split()) - 20) / 20 for text in completions]


def steps_of(task: str, size: str) -> int:
    steps = TASKS[task].steps
    return min(steps, LARGE_STEPS) if size == "large" else steps


def words(vocabulary: dict[str, int], count: int, seed: int) -> str:
    """Text of exactly `count` tokens: words that are one piece each, with the space before them."""
    single = sorted(piece[1:] for piece in vocabulary if piece[:1] == "Ġ" and piece[1:].isascii())
    single = [word for word in single if len(word) > 1 and word.isalpha()]
    return "".join(f" {word}" for word in random.Random(seed).choices(single, k=count))


def long_rows(vocabulary: dict[str, int], name: str, length: int, count: int) -> list[dict[str, str]]:
    """Rows of which every dialogue has `length` tokens, half of them prompt, an end token included."""
    prompt = length // 2
    sides = {"pairs": ("chosen", "rejected"), "demonstrations": ("completion",), "prompts": ()}[name]
    return [
        {"prompt": words(vocabulary, prompt, 3 * i)}
        | {side: words(vocabulary, length - prompt - 1, 3 * i + k) for k, side in enumerate(sides, 1)}
        for i in range(count)
    ]


def arguments(parser: argparse.ArgumentParser | None = None) -> argparse.Namespace:
    """The command line of one measured process."""
    parser = parser or argparse.ArgumentParser()
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--size", required=True, choices=SIZES)
    parser.add_argument("--prepared", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--variant", default="default")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--adapter", default="full", choices=["full", "lora"])
    parser.add_argument("--context", type=int, help="rows made up to have this many tokens each")
    parser.add_argument("--batch", type=int, help="units a step, instead of the task's own number")
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
    """Reads the time at the end of every step; the first `warmup` steps only set the start.

    With no step to warm up the start is the making of the clock: then only the peak of memory says much.
    """

    warmup: int
    profile: str | None = None
    device: str = "cpu"
    steps: int = 0
    """Steps that are measured; behind them the profile ends."""
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    units: list[float] = field(default_factory=list)
    _stop: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self.tick(0)

    def tick(self, units: float) -> None:
        """A step that did `units` of work has ended."""
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()
        self.cpu.append(time.process_time())
        self.wall.append(time.perf_counter())
        self.units.append(units)
        if self.profile and len(self.cpu) == self.warmup + 1:
            self._stop = profiled(self.profile)
        elif self._stop is not None and len(self.cpu) == self.warmup + 1 + self.steps:
            self._stop()
            self._stop = None

    def report(self, steps: int, **more: Any) -> None:
        """One line of JSON: processor and wall seconds per unit over the measured steps, and peak memory.

        `seconds_per_unit` is what rates are made of: processor time on a CPU, where other processes share the
        cores, and wall time on a GPU, which the processor waits for. Memory is that of the device.
        """
        memory = peak_bytes(self.device)
        first, last = self.warmup, self.warmup + steps
        units = sum(self.units[first + 1 : last + 1])
        cpu, wall = ((t[last] - t[first]) / units for t in (self.cpu, self.wall))
        found = {
            "seconds_per_unit": cpu if self.device == "cpu" else wall,
            "cpu_per_unit": cpu,
            "wall_per_unit": wall,
            "units": units,
            "peak_bytes": memory,
        }
        print(json.dumps({**found, **more}), flush=True)


def peak_bytes(device: str = "cpu") -> int:
    """Most memory this process ever held: resident (VmHWM: ru_maxrss inherits the parent's on Linux), or what
    torch allocated on the CUDA device.
    """
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def profiled(path: str) -> Callable[[], None]:
    """Starts reading the processor's time of every operation; what is returned stops that and writes {name of
    the operation: [seconds, calls]}. torch's own profiler reads the wall's, which other processes lengthen.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    found: dict[str, list[float]] = {}

    class Times(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            start = time.thread_time()
            result = func(*args, **(kwargs or {}))
            one = found.setdefault(func.overloadpacket._qualified_op_name.removeprefix("aten::"), [0.0, 0])
            one[0] += time.thread_time() - start
            one[1] += 1
            return result

    mode = Times()
    mode.__enter__()

    def stop() -> None:
        mode.__exit__(None, None, None)
        Path(path).write_text(json.dumps(found))

    return stop


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

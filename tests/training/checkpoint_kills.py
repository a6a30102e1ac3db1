"""A small saving loop and ways to kill it. Run as a script, so that it may fork without threads about.

    checkpoint_kills.py random FOLDER KILLS    kills at random moments
    checkpoint_kills.py sweep FOLDER           kills before each file operation of one save, in turn

Prints what happened as JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tastemaker.runs import sha256_json
from tastemaker.training.checkpoint import (
    load_latest,
    pack_optimizer,
    restore_rng,
    rng_state,
    save,
    unpack_optimizer,
)

STEPS = 12
FILES = 5
"""In each checkpoint: model, optimiser, random state, JSON state, manifest."""


def train(folder: Path, *, steps: int = STEPS, dropout: float = 0.1, keep_last: int = 2) -> str:
    """Trains with every source of randomness, saving each step; resumes where it can. The weights' hash."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Dropout(dropout), nn.Linear(64, 1))
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    found = load_latest(folder)
    first = 1
    if found is not None:
        first = found.step + 1
        model.load_state_dict(found.tensors("model"))
        unpack_optimizer(optimizer, parameters, found.tensors("optimizer"), found.state["optimizer"])
        restore_rng(found.tensors("rng"), found.state["rng"])
    for step in range(first, steps + 1):
        x = torch.randn(16, 8) + float(np.random.normal()) * 0.1
        loss = (model(x)[:, 0] - x.sum(-1) * random.gauss(1, 0.1)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moments, groups = pack_optimizer(optimizer, parameters)
        numbers, rng = rng_state()
        files = {"model": dict(model.state_dict()), "optimizer": moments, "rng": numbers}
        save(folder, step, files, {"optimizer": groups, "rng": rng}, keep_last=keep_last)
    return sha256_json({name: p.detach().flatten().tolist() for name, p in parameters.items()})


def fork(task: Callable[[], str], result: Path) -> int:
    """Runs `task` in a child that writes what it returns; the child's process id."""
    child = os.fork()
    if child == 0:
        try:
            result.write_text(task())
            os._exit(0)
        except BaseException as error:
            result.write_text(repr(error))
            os._exit(3)
    return child


def end(child: int) -> int:
    """How the child ended: 0, an exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def random_kills(root: Path, kills: int) -> dict[str, object]:
    result = root / "result"
    train(root / "warm")  # so that the children need not load the rest of torch
    begin = time.monotonic()
    whole = train(root / "whole")
    duration = time.monotonic() - begin
    moments = random.Random(1)
    counts = {"killed": 0, "inside a save": 0, "finished": 0, "equal": 0, "failed": 0}
    while counts["killed"] < kills or counts["finished"] == 0:
        child = fork(lambda: train(root / "run"), result)
        time.sleep(moments.uniform(0, 0.5 * duration))
        os.kill(child, signal.SIGKILL)
        code = end(child)
        if code == -signal.SIGKILL:
            counts["killed"] += 1
            counts["inside a save"] += any((root / "run").glob(".tmp-*"))
        elif code == 0:
            counts["finished"] += 1
            counts["equal"] += result.read_text() == whole
            shutil.rmtree(root / "run")
        else:
            counts["failed"] += 1
            return {**counts, "error": result.read_text()}
    return counts


def killed_at(number: int, task: Callable[[], str]) -> str:
    """Runs `task` and dies before its file operation `number` (from 0)."""
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"):
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(watch)
    return task()


def sweep(root: Path) -> dict[str, int]:
    """Two saves, each killed before each of its file operations: one that adds a step and rotates, and one
    that replaces the only checkpoint there is.
    """
    whole = train(root / "whole", steps=4)
    counts = {"killed": 0, "equal": 0, "torn": 0, "left": 0}
    train(root / "three", steps=3)
    train(root / "four", steps=4, keep_last=1)
    for base, task in ((root / "three", lambda run: train(run, steps=4)), (root / "four", replace)):
        number = 0
        while survives(base, root / "run", number, task, whole, counts):
            number += 1
    return counts


def survives(
    base: Path, run: Path, number: int, task: Callable[[Path], str], whole: str, counts: dict[str, int]
) -> bool:
    """Kills `task` on a copy of `base` and resumes it; False when it ended before operation `number`."""
    result = run.with_name("result")
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(base, run)
    code = end(fork(lambda: killed_at(number, lambda: task(run)), result))
    if code == 0:
        return False
    assert code == -signal.SIGKILL, result.read_text()
    counts["killed"] += 1
    counts["torn"] += sum(len(list(p.iterdir())) != FILES for p in run.glob("step-*"))
    assert end(fork(lambda: train(run, steps=4), result)) == 0, (number, result.read_text())
    counts["equal"] += result.read_text() == whole
    assert end(fork(lambda: replace(run), result)) == 0, (number, result.read_text())
    counts["left"] += sum(not p.name.startswith("step-") for p in run.iterdir())
    return True


def replace(folder: Path) -> str:
    """Saves the newest step once more."""
    found = load_latest(folder, required=True)
    assert found is not None
    save(folder, found.step, {n: found.tensors(n) for n in found.names}, {**found.state, "again": True})
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[2])
    report = random_kills(place, int(sys.argv[3])) if sys.argv[1] == "random" else sweep(place)
    sys.stdout.write(json.dumps(report))

"""Work of a study as a graph of tasks, each in its own process, as many at a time as there are cores.

Own processes, so that an arm's peak memory is its own and arms of one seed run side by side. A task's
result is a JSON file in its folder, written last; a task whose arguments are unchanged and whose result is
there is not run again, so an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from tastemaker.errors import TastemakerError
from tastemaker.runs.environment import source_digest

RESULT = "result.json"
STARTED = "fingerprint"
FAILURE = "error.txt"

Report = Callable[[int, int, Mapping[str, float]], None]
"""(step, of how many, the numbers that matter)"""
Results = Mapping[str, dict[str, Any]]
Work = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """`work(folder=..., report=..., inputs=..., **arguments)` -> a dict for JSON.

    `work` must be importable (it is called in another process); `inputs` are the results of `needs`.
    """

    name: str
    work: Work
    arguments: Mapping[str, Any]
    folder: Path
    needs: tuple[str, ...] = ()
    title: str = ""
    contents: Mapping[str, str] = field(default_factory=dict[str, str])
    """Hashes of what the arguments name but do not hold (models, runs): a path stays when its content goes."""

    def fingerprint(self, results: Results) -> str:
        """Changes when the work, its arguments or what it builds on changes."""
        parts = {
            "work": f"{self.work.__module__}.{self.work.__qualname__}",
            "arguments": self.arguments,
            "needs": {n: results[n]["fingerprint"] for n in self.needs},
        }
        if self.contents:
            parts["contents"] = self.contents
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Event:
    """What happened to a task: started, reused, progress, finished or failed."""

    task: str
    kind: str
    step: int = 0
    total: int = 0
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])
    text: str = ""


class TaskFailed(TastemakerError):
    """A task ended with an error; the others that were under way are finished or stopped."""


def run_tasks(
    tasks: Sequence[Task], *, workers: int, on_event: Callable[[Event], None]
) -> dict[str, dict[str, Any]]:
    """Runs all tasks, at most `workers` at a time, in the order given where their needs allow.

    Returns every task's result by name. Raises TaskFailed with the first error's text; KeyboardInterrupt
    stops the processes and passes on.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tastemaker.studies.stages"])
    results: dict[str, dict[str, Any]] = {}
    waiting = list(tasks)
    running: dict[str, tuple[ForkServerProcess, Task, str]] = {}
    events: Queue[Event] = context.Queue()
    try:
        while waiting or running:
            for task in [t for t in waiting if all(n in results for n in t.needs)]:
                fingerprint = task.fingerprint(results)
                before = finished_result(task, fingerprint)
                if before is not None:
                    results[task.name] = before
                    waiting.remove(task)
                    on_event(Event(task.name, "reused"))
                elif len(running) < workers:
                    waiting.remove(task)
                    running[task.name] = (start(context, task, fingerprint, results, events), task, fingerprint)
                    on_event(Event(task.name, "started"))
            drain(events, on_event)
            collect(running, results, events, on_event)
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.join(10)
            if process.is_alive():
                process.kill()
        events.close()
        events.cancel_join_thread()
    return results


def start(
    context: ForkServerContext, task: Task, fingerprint: str, results: Results, events: Queue[Event]
) -> ForkServerProcess:
    inputs = {n: results[n] for n in task.needs}
    process = context.Process(target=perform, args=(task, fingerprint, inputs, events), name=task.name)
    with no_main():
        process.start()
    return process


@contextmanager
def no_main() -> Generator[None]:
    """Hides the main script from multiprocessing, which would run it again in every child: a user's script
    that compares without guarding its `__main__` would begin anew there.
    """
    main = sys.modules["__main__"]
    hidden = {name: main.__dict__.pop(name) for name in ("__spec__", "__file__") if name in main.__dict__}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(hidden)


def collect(
    running: dict[str, tuple[ForkServerProcess, Task, str]],
    results: dict[str, dict[str, Any]],
    events: Queue[Event],
    on_event: Callable[[Event], None],
) -> None:
    """Waits a moment for a process to end and takes its result."""
    wait([p.sentinel for p, _, _ in running.values()], timeout=0.2)
    for name, (process, task, fingerprint) in list(running.items()):
        if process.is_alive():
            continue
        process.join()
        del running[name]
        drain(events, on_event)
        result = finished_result(task, fingerprint)
        if result is None:
            failure = task.folder / FAILURE
            text = (
                failure.read_text() if failure.exists() else f"its process ended with code {process.exitcode}"
            )
            on_event(Event(name, "failed", text=text))
            raise TaskFailed(f"{task.title or name} failed: {text.strip()}")
        results[name] = result
        on_event(Event(name, "finished"))


def drain(events: Queue[Event], on_event: Callable[[Event], None]) -> None:
    while True:
        try:
            on_event(events.get_nowait())
        except queue.Empty:
            return


def finished_result(task: Task, fingerprint: str) -> dict[str, Any] | None:
    """The result on disk, when it belongs to these very arguments."""
    path = task.folder / RESULT
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    kept = all(Path(p).exists() for p in result.get("paths", ()))  # what it points to may have been removed
    return result if kept and result.get("fingerprint") == fingerprint else None


def claim(folder: Path, fingerprint: str) -> None:
    """Makes the task's folder ready. What another version of the task left there goes: its arguments were
    others, so it can be neither resumed nor mixed with. What this version left is resumed.
    """
    mark = folder / STARTED
    if folder.exists() and not (mark.exists() and mark.read_text() == fingerprint):
        if not mark.exists() and any(folder.iterdir()):
            raise TastemakerError(f"{folder}: is not empty and no comparison made it; choose another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(fingerprint)
    (folder / FAILURE).unlink(missing_ok=True)


def perform(task: Task, fingerprint: str, inputs: Results, events: Queue[Event]) -> None:
    """What a task's own process does."""
    # Ctrl-C reaches the whole process group; only the parent answers it, by ending its children in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING)
    last = 0.0

    def report(step: int, total: int, numbers: Mapping[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.25 or step >= total:
            last = now
            events.put(Event(task.name, "progress", step, total, dict(numbers)))

    try:
        claim(task.folder, fingerprint)
        result = task.work(folder=task.folder, report=report, inputs=inputs, **task.arguments)
    except TastemakerError as error:
        (task.folder / FAILURE).write_text(str(error))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception:
        (task.folder / FAILURE).write_text(traceback.format_exc())
        raise SystemExit(1) from None
    result |= {"fingerprint": fingerprint, "code": source_digest()}
    temporary = task.folder / f".{RESULT}.{os.getpid()}"
    temporary.write_text(json.dumps(result, indent=1, sort_keys=True))
    os.replace(temporary, task.folder / RESULT)

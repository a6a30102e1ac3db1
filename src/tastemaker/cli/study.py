"""A comparison on the terminal: what is under way, how long it will take, and the table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from tastemaker.cli.progress import numbers

if TYPE_CHECKING:
    from tastemaker.studies.compare import Plan, Study
    from tastemaker.studies.tasks import Event, Task


@dataclass
class Clock:
    """How long the rest will take, from what tasks of the same kind took so far.

    Tasks of a kind not seen yet count as the average of those that were.
    """

    workers: int
    kinds: Mapping[str, str]
    """Task -> its kind, for all tasks that have not been reused."""
    now: Callable[[], float] = time.monotonic
    started: dict[str, float] = field(default_factory=dict[str, float])
    took: dict[str, float] = field(default_factory=dict[str, float])

    def start(self, task: str) -> None:
        self.started[task] = self.now()

    def finish(self, task: str) -> float:
        """Seconds the task took."""
        self.took[task] = self.now() - self.started.pop(task, self.now())
        return self.took[task]

    def left(self, waiting: Sequence[str]) -> float | None:
        """Seconds until all is done; None while there is nothing to go by."""
        if not self.took:
            return None
        rest = sum(self._expected(task) for task in waiting)
        for task, began in self.started.items():
            rest += max(0.0, self._expected(task) - (self.now() - began))
        return rest / self.workers

    def _expected(self, task: str) -> float:
        alike = [s for name, s in self.took.items() if self.kinds[name] == self.kinds[task]]
        known = alike or list(self.took.values())
        return sum(known) / len(known)


def spoken(seconds: float | None) -> str:
    """A duration as people say it."""
    if seconds is None:
        return "time left not known yet"
    if seconds < 90:
        return f"about {max(1, round(seconds))} s left"
    return f"about {round(seconds / 60)} min left"


class Board:
    """Listens to a comparison: a line for each task under way and one for the whole."""

    def __init__(self, out: Console, workers: int) -> None:
        self.out = out
        self.workers = workers
        self.waiting: list[str] = []
        self.done = 0
        self.clock: Clock | None = None
        self.titles: dict[str, str] = {}
        self.bar: Progress | None = None
        self.whole: TaskID | None = None
        self.lines: dict[str, TaskID] = {}

    def __call__(self, event: Event, plan: Plan) -> None:
        if self.clock is None:
            self._begin(plan.tasks)
        assert self.clock is not None
        match event.kind:
            case "started":
                self.waiting.remove(event.task)
                self.clock.start(event.task)
                self._open_line(event.task)
            case "reused":
                self.waiting.remove(event.task)
                self.done += 1
                self._say(f"{self.titles[event.task]}: reused")
            case "progress":
                self._move_line(event)
            case "finished":
                self.done += 1
                seconds = self.clock.finish(event.task)
                self._close_line(event.task)
                self._say(f"{self.titles[event.task]}: done in {seconds:.0f} s")
            case _:
                self._close_line(event.task)
        self._show_whole()

    def _begin(self, tasks: Sequence[Task]) -> None:
        self.waiting = [task.name for task in tasks]
        self.titles = {task.name: task.title or task.name for task in tasks}
        self.clock = Clock(self.workers, {task.name: task.work.__name__ for task in tasks})
        if self.bar is not None:
            self.whole = self.bar.add_task("[bold]comparison", total=len(tasks), numbers="")

    def _status(self) -> str:
        assert self.clock is not None
        return f"{self.done}/{len(self.titles)} stages, {spoken(self.clock.left(self.waiting))}"

    def _show_whole(self) -> None:
        if self.bar is not None and self.whole is not None:
            self.bar.update(self.whole, completed=self.done, numbers=self._status())

    def _say(self, text: str) -> None:
        """A line that stays; where there is no terminal it carries the state of the whole too."""
        if self.bar is None:
            text += f"  ({self._status()})"
        self.out.print(Text(text, style="dim"), soft_wrap=True)

    def _open_line(self, task: str) -> None:
        if self.bar is not None:
            self.lines[task] = self.bar.add_task(self.titles[task], total=None, numbers="starting")

    def _move_line(self, event: Event) -> None:
        if self.bar is not None and event.task in self.lines:
            said = f"{event.step}/{event.total}  {numbers(event.numbers)}"
            self.bar.update(
                self.lines[event.task], completed=event.step, total=event.total or None, numbers=said
            )

    def _close_line(self, task: str) -> None:
        if self.bar is not None and task in self.lines:
            self.bar.remove_task(self.lines.pop(task))


@contextmanager
def board(out: Console, workers: int) -> Generator[Board]:
    """Gives what `compare` reports to."""
    listener = Board(out, workers)
    if not out.is_terminal:
        yield listener
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[numbers]}"))
    with Progress(*columns, console=out, transient=True) as bar:
        listener.bar = bar
        yield listener


def show_study(out: Console, study: Study) -> None:
    """The table of the arms beside SFT, the verdict, and where the rest is."""
    from tastemaker.studies.report import summary_table, verdict_text

    out.print()
    out.print(summary_table(study.results))
    out.print()
    out.print(Text(verdict_text(study.results)))
    out.print()
    out.print(Text(f"report   {study.report}"), soft_wrap=True)
    out.print(Text(f"numbers  {study.folder / 'results.json'}"), soft_wrap=True)

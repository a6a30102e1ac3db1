"""One process at a time writes a run.

The kernel's lock (`flock`) decides, so a process that is killed never leaves a lock that blocks; the
file's content only tells people who holds it. File systems that keep such locks to one host protect
against a second process on the same host only.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import time
import weakref
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType

from tastemaker.errors import TastemakerError
from tastemaker.runs.process import Process

log = logging.getLogger(__name__)

LOCK_FILE = "lock"
PATIENCE = 0.3
"""Seconds for which a held lock is tried again: `holder` takes it for an instant when it looks."""
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who wrote himself into the lock file, and when (UTC)."""

    process: Process
    since: str

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.process.host} (since {self.since})"


class RunLock:
    """The right to write the run in `folder`: a context manager. The folder is made where absent."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / LOCK_FILE
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock, or raises `TastemakerError` naming the process that has it."""
        if self._descriptor is not None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise TastemakerError(
                f"{self.path}: the run's lock cannot be opened: {error.strerror}. Choose a folder that can be "
                "written."
            ) from error
        try:
            if not _try_for(descriptor, PATIENCE):
                raise self._refusal(_read(descriptor))
            self._take_over(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        # A forked child inherits the open file, and with it the lock, beyond this process's death.
        os.register_at_fork(after_in_child=partial(_let_go_in_child, weakref.ref(self)))

    def release(self) -> None:
        """Gives the lock back. The file stays, empty: removing it would race with the next process."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        os.ftruncate(descriptor, 0)
        os.close(descriptor)

    def _take_over(self, descriptor: int) -> None:
        former = _read(descriptor)
        if former is not None and former.process != Process.current():
            log.warning("%s: taken over from %s, which ended without giving it back", self.path, former)
        holder = Holder(Process.current(), datetime.now(UTC).isoformat(timespec="seconds"))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(holder)).encode(), 0)
        os.fsync(descriptor)

    def _refusal(self, former: Holder | None) -> TastemakerError:
        folder = self.path.parent
        who = str(former) if former else "another process"
        if former and former.process.alive() is False:
            return TastemakerError(
                f"{folder}: {who} has ended, but a process that it started still holds the run. End that "
                f"process (`fuser {self.path}` names it), or write to another folder."
            )
        return TastemakerError(
            f"{folder}: {who} is writing this run. Wait for it, end it, or write to another folder."
        )

    def _abandon(self) -> None:
        """Closes the inherited copy: the parent keeps its lock."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def holder(folder: str | Path) -> Holder | None:
    """Who is writing the run in `folder` right now; None when nobody is."""
    try:
        descriptor = os.open(Path(folder) / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        free = _try(descriptor, fcntl.LOCK_SH)
        return None if free else _read(descriptor) or Holder(Process("unknown", 0, 0), "unknown")
    finally:
        os.close(descriptor)


def _let_go_in_child(lock: weakref.ref[RunLock]) -> None:
    held = lock()
    if held is not None:
        held._abandon()  # pyright: ignore[reportPrivateUsage]


def _try_for(descriptor: int, patience: float) -> bool:
    end = time.monotonic() + patience
    while not _try(descriptor, fcntl.LOCK_EX):
        if time.monotonic() >= end:
            return False
        time.sleep(0.01)
    return True


def _try(descriptor: int, kind: int) -> bool:
    """Whether the lock was free (and is now ours)."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        # No kernel lock here: all there is to go by is whether the process named in the file lives.
        former = _read(descriptor)
        return former is None or former.process.alive() is False
    return True


def _read(descriptor: int) -> Holder | None:
    """What the lock file says; None when it is empty or cannot be understood."""
    try:
        fields = json.loads(os.pread(descriptor, 4096, 0))
        process = fields["process"]
        return Holder(
            Process(str(process["host"]), int(process["pid"]), int(process["started"])), fields["since"]
        )
    except (ValueError, KeyError, TypeError):
        return None

"""Which process something belongs to, and whether that process still runs."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """A process for good: process ids are used again, their start times are not."""

    host: str
    pid: int
    started: int
    """Clock ticks from boot to its start; 0 where the system does not tell."""

    @classmethod
    def current(cls) -> Process:
        """This process."""
        state = _state(os.getpid())
        return cls(_host(), os.getpid(), state[1] if state else 0)

    def alive(self) -> bool | None:
        """Whether it still runs; None where that cannot be known from here (another host)."""
        if self.host != _host():
            return None
        state = _state(self.pid)
        if state is not None:
            letter, started = state
            return letter not in "ZX" and self.started in (0, started)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def _host() -> str:
    """The host's name, with characters that are safe in a file name."""
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:64] or "localhost"


def _state(pid: int) -> tuple[str, int] | None:
    """(state letter, start in clock ticks) by /proc; None where there is no such entry."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The second field is the command in parentheses and may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])

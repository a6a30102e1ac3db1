"""`tastemaker`: reads a command line, calls the public API, prints."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import FrameType

from tastemaker import __version__
from tastemaker.cli.commands import commands
from tastemaker.cli.help import console, show_error, show_overview
from tastemaker.cli.layers import UsageError, tastemaker_error
from tastemaker.config import nearest

USAGE, FAILED, INTERRUPTED = 2, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0; 2 for a wrong command line or settings file; 1 for an
    error while running; 130 when interrupted. An error that is none of the user's keeps its traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with _terminable():
            return _dispatch(argv)
    except UsageError as error:
        command = argv[0] if argv and argv[0] in commands() else ""
        show_error(str(error), f"tastemaker {command} --help lists the options".replace("  ", " "))
        return USAGE
    except KeyboardInterrupt:
        show_error("interrupted; the same command continues")
        return INTERRUPTED
    except SystemExit as exit:  # rich: the reader of our output has gone, as in `tastemaker dpo --help | head`
        return exit.code if isinstance(exit.code, int) else FAILED
    except tastemaker_error() as error:
        show_error(str(error))
        return FAILED
    except (OSError, MemoryError) as error:
        show_error(f"{type(error).__name__}: {error}")
        return FAILED


@contextmanager
def _terminable() -> Generator[None]:
    """SIGTERM (a batch system's time limit) ends a command as Ctrl-C does, so that child processes end too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        show_overview(__version__, [(c.name, c.summary) for c in commands().values()])
        return 0 if argv else USAGE
    if argv[0] in ("--version", "-V", "version"):
        console().print(f"tastemaker {__version__}")
        return 0
    name, *rest = argv
    if name not in commands():
        close = nearest(name, commands()) or list(commands())
        raise UsageError(f"{name}: no such command; did you mean {' or '.join(close)}?")
    commands()[name].run(rest)
    return 0

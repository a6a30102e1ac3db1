"""Names of runs, safe as file names on every system."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from tastemaker.errors import TastemakerError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Windows takes these for devices, whatever their ending.
RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


def is_name(name: str) -> bool:
    """Whether `name` can name a run."""
    return NAME.fullmatch(name) is not None and RESERVED.fullmatch(name) is None


def check_name(name: str) -> str:
    """`name` itself; raises where it cannot name a run."""
    if not is_name(name):
        raise TastemakerError(
            f"name: {name!r} cannot name a run. Use 1 to 64 letters, digits, '.', '_' or '-', beginning "
            "with a letter or digit, and no name that Windows reserves (con, nul, ...)."
        )
    return name


def default_name(method: str) -> str:
    """`<method>-<8 hex digits>`. Drawn from the system, so that no training random state moves."""
    return check_name(f"{method}-{secrets.token_hex(4)}")


def run_folder(root: str | Path, name: str) -> Path:
    """The folder of run `name` directly under `root`.

    For names that come from elsewhere (a recipe, the web): nothing outside `root` can be reached, neither
    by the name nor by a symbolic link that lies there.
    """
    folder = Path(root).resolve() / check_name(name)
    if folder.is_symlink():
        raise TastemakerError(f"{folder}: is a symbolic link. A run must lie in {folder.parent} itself.")
    return folder

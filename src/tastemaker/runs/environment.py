"""What a run ran on: versions, code, command."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tastemaker.runs.redact import redact_command

PACKAGES = ("torch", "transformers", "peft", "tastemaker")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers. Read from their metadata, so that
    none of them needs to be imported.
    """
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


@cache
def source_digest() -> str:
    """A short hash of the package's own code: tells versions apart that are called alike."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def git_commit(folder: Path | None = None) -> str | None:
    """The commit of the repository around `folder` (default: the working directory).

    With "+changed" where tracked files differ from it; None outside a repository or without git.
    """
    commit = _git(["rev-parse", "--verify", "HEAD"], folder)
    if commit is None or commit.returncode != 0:
        return None
    changed = _git(["diff", "--quiet", "HEAD", "--"], folder)
    return commit.stdout.strip() + ("+changed" if changed is None or changed.returncode == 1 else "")


def command() -> str:
    """How this process was started, without secrets."""
    program = Path(sys.argv[0]).name
    # `python -m tastemaker` calls the program after the file it runs
    return redact_command(["tastemaker" if program == "__main__.py" else program, *sys.argv[1:]])


def _git(arguments: list[str], folder: Path | None) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"

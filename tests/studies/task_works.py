"""What the tasks of test_tasks do: importable, since they run in other processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tastemaker.types import TastemakerError


def add(*, folder: Path, report: Any, inputs: Mapping[str, Any], amount: int) -> dict[str, Any]:
    """The sum of `amount` and of what it needs; counts in a file how often it ran."""
    ran = folder / "ran"
    ran.write_text(ran.read_text() + "." if ran.exists() else ".")
    report(1, 1, {"amount": float(amount)})
    return {"sum": amount + sum(i["sum"] for i in inputs.values()), "pid": os.getpid()}


def fail(*, folder: Path, report: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    raise TastemakerError("the well is dry; dig deeper")


def crash(*, folder: Path, report: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    os._exit(7)

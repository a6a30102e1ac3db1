"""The files a comparison leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_report(folder: Path, results: Mapping[str, Any]) -> None:
    """Writes `results.json`."""
    (folder / "results.json").write_text(json.dumps(results, indent=1))

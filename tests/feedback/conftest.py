"""A store on SQLite and one on PostgreSQL, where the server's programs are installed."""

from __future__ import annotations

import importlib
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tastemaker.feedback.store import Store

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """A server of our own, as the campaign of kills starts it."""
    pytest.importorskip("psycopg", reason="the extra tastemaker[postgresql] is not installed")
    sys.path.append(str(BENCHMARKS))
    servers = importlib.import_module("postgres_server")
    with tempfile.TemporaryDirectory(prefix="tastemaker-pg-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # its programs refuse root: another user must reach its data
        server = servers.PostgresServer(Path(folder) / "data")
        try:
            server.start()
        except servers.Unavailable as reason:
            pytest.skip(str(reason))  # SQLite is what is embedded; this one where it can be had
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    if request.param == "sqlite":
        where = str(tmp_path / "labels.db")
    else:
        server = request.getfixturevalue("postgresql")
        where = server.database(f"labels{next(_numbers)}")
    opened = Store.open(where)
    yield opened
    opened.close()

"""Where the studio listens, and what it says where it cannot."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra tastemaker[studio] is not installed")

from tastemaker.errors import TastemakerError
from tastemaker.studio.server import is_loopback, serve


def told_by(tmp_path: Path, **options) -> list[str]:
    told: list[str] = []
    serve(tmp_path / "labels.db", root=tmp_path, data=tmp_path, tell=told.append, **options)
    return told


def test_loopback_is_told_from_the_rest() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", "")))


def test_other_machines_need_accounts(tmp_path: Path) -> None:
    with pytest.raises(TastemakerError, match="--accounts"):
        told_by(tmp_path, host="0.0.0.0", port=0)


def test_a_port_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(TastemakerError, match="--port names another"),
    ):
        told_by(tmp_path, port=taken.getsockname()[1])
    with pytest.raises(TastemakerError, match="port 99999"):
        told_by(tmp_path, port=99999)


def test_it_says_where_it_is_and_is_there(tmp_path: Path) -> None:
    told: list[str] = []
    work = {"root": tmp_path, "data": tmp_path, "tell": told.append, "port": 0, "accounts": True}
    threading.Thread(target=serve, args=(tmp_path / "labels.db",), kwargs=work, daemon=True).start()
    until = time.monotonic() + 60
    while len(told) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    address = told[0].split()[2]
    assert address in told[1] and "/invite/" in told[1]
    with urllib.request.urlopen(f"{address}/login", timeout=60) as answer:
        assert "Log in" in answer.read().decode()

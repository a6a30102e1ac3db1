"""A studio with accounts in a folder of its own, served to a real browser where there is one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra tastemaker[studio] is not installed")

from argon2 import PasswordHasher

from studio.seat import CHROMIUM
from studio.shop import PASSWORD, ROLES, Shop
from tastemaker.feedback.store import Store
from tastemaker.studio import accounts
from tastemaker.studio.accounts import accept, invite
from tastemaker.studio.app import create_app


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    # Hashing is slow on purpose; the tests would do nothing else.
    monkeypatch.setattr(accounts, "_HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    store = Store.open(tmp_path / "labels.db")
    app = create_app(store, root=tmp_path / "runs", data=tmp_path / "data", accounts=True)
    made = Shop(store, app)
    for role in ROLES:
        with store.writing() as writer:
            token = invite(writer, role)
        accept(store, token, role, PASSWORD)
    yield made
    store.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        words = "no Chromium is installed to label with (Debian: apt-get install chromium)"
        pytest.skip(words)  # nothing else can tell what a page is like
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def address(shop: Shop) -> Iterator[str]:
    """Where the studio of `shop` is served."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(shop.app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()

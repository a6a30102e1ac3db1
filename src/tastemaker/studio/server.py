"""Serving the studio: loopback without accounts, anything else with them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from tastemaker.errors import TastemakerError
from tastemaker.feedback.store import Store
from tastemaker.studio.accounts import admins, invite
from tastemaker.studio.app import LOOPBACK, create_app


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def serve(
    labels: str | Path,
    *,
    root: str | Path,
    data: str | Path,
    models: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 8741,
    accounts: bool = False,
    hostnames: Sequence[str] = (),
    tell: Callable[[str], None],
) -> None:
    """Serves until it is told to stop. `tell` is given the lines a person should read.

    Raises TastemakerError for an address beyond this machine without accounts, one that cannot be listened on,
    or a store that does not open.
    """
    if not is_loopback(host) and not accounts:
        raise TastemakerError(
            f"host {host}: can be reached from other machines, where everybody would be admin. Add --accounts."
        )
    store = Store.open(labels)
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    tell(f"studio at {address}  (labels: {labels}, runs: {root}, data: {data}); Ctrl-C ends it")
    if accounts:
        with store.reading() as session:
            known = admins(session)
        if not known:
            with store.writing() as writer:
                token = invite(writer, "admin")
            tell(f"the first admin is made at {address}/invite/{token}")
    names = {*LOOPBACK, f"[{host}]" if ":" in host else host, *hostnames}
    app = create_app(store, root=root, data=data, models=models, accounts=accounts, hosts=names)
    config = uvicorn.Config(
        app,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,  # people think longer between two requests than uvicorn's 5 s
    )
    with listening, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one."""
    if not 0 <= port < 2**16:
        raise TastemakerError(f"port {port}: should be from 0 (any that is free) to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family)
    except OSError as error:
        raise TastemakerError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}. Another studio may be running "
            "there; --port names another."
        ) from error

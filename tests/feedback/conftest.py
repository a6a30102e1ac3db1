"""A store on SQLite and one on PostgreSQL, where the server's programs are installed."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tastemaker.feedback.store import Store

_numbers = itertools.count()


def postgres_programs() -> Path | None:
    """The folder with initdb and postgres, where there is one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    named = shutil.which("initdb")
    return found[0].parent if found else Path(named).resolve().parent if named else None


def as_nobody(folder: Path) -> dict[str, object]:
    """PostgreSQL refuses to run as root: another user owns its folder then."""
    if os.getuid() != 0:
        return {}
    import pwd

    names = [entry.pw_name for entry in pwd.getpwall()]
    user = "postgres" if "postgres" in names else "nobody"
    shutil.chown(folder, user)
    return {"user": user}


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a server of our own, on a socket in a folder of its own."""
    programs = postgres_programs()
    if programs is None:  # SQLite is what is embedded; a server is tested where one is installed
        pytest.skip("postgresql is not installed (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="the extra tastemaker[postgresql] is not installed")
    with tempfile.TemporaryDirectory(prefix="tastemaker-pg-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        folder.chmod(0o755)
        user = as_nobody(folder)
        data, log = folder / "data", folder / "log"
        common = {"cwd": folder, "capture_output": True, **user}
        init = ["initdb", "-D", str(data), "-U", "tastemaker", "--auth=trust", "-E", "UTF8", "--no-sync"]
        made_it = subprocess.run([programs / init[0], *init[1:]], **common)
        if made_it.returncode:  # its programs refuse root, and not every machine has another user to lend
            pytest.skip(f"postgresql cannot be set up here: {made_it.stderr.decode()[-300:]}")
        options = f"-c listen_addresses= -c unix_socket_directories={folder}"
        start = [programs / "pg_ctl", "-D", data, "-w", "-l", log, "-o", options, "start"]
        if subprocess.run(
            start, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user
        ).returncode:  # containers without shared memory or sockets: nothing of ours could be said there
            pytest.skip("postgresql does not start here")
        try:
            yield f"postgresql://tastemaker@/{{}}?host={folder}"
        finally:
            subprocess.run([programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **common)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    if request.param == "sqlite":
        where = str(tmp_path / "labels.db")
    else:
        import psycopg

        url = request.getfixturevalue("postgresql")
        name = f"labels{next(_numbers)}"
        with psycopg.connect(url.format("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        where = url.format(name)
    opened = Store.open(where)
    yield opened
    opened.close()

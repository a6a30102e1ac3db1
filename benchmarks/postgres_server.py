"""A PostgreSQL server of our own: Debian's programs, a folder, a socket there; gone when its block ends."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

USER = "tastemaker"


def programs() -> Path | None:
    """The folder with initdb and pg_ctl, where there is one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    named = shutil.which("initdb")
    return found[0].parent if found else Path(named).resolve().parent if named else None


class Unavailable(Exception):
    """No server can be had here, and why."""


class PostgresServer:
    """Serves while its block lasts. `data` is kept, and found again by the next."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.socket = Path()

    def __enter__(self) -> PostgresServer:
        self.start()
        return self

    def start(self) -> None:
        """Raises Unavailable."""
        found = programs()
        if found is None:
            raise Unavailable("postgresql is not installed (Debian: apt-get install postgresql)")
        self._programs = found
        # A socket's path has at most 107 characters: it lies in a short folder, not beside the data.
        self.socket = Path(tempfile.mkdtemp(prefix="tastemaker-pg-"))
        self.data.mkdir(parents=True, exist_ok=True)
        self._user = self._other_user()
        if not (self.data / "PG_VERSION").exists():
            self._run("initdb", "-D", self.data, "-U", USER, "--auth=trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={self.socket}"
        try:
            self._run("pg_ctl", "-D", self.data, "-w", "-l", self.socket / "log", "-o", options, "start")
        except Unavailable as error:  # containers without shared memory or sockets
            log = self.socket / "log"
            raise Unavailable(f"{error} {log.read_text()[-500:] if log.exists() else ''}") from error

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """The data stay."""
        self._run("pg_ctl", "-D", self.data, "-w", "-m", "fast", "stop")
        shutil.rmtree(self.socket, ignore_errors=True)

    def url(self, name: str) -> str:
        return f"postgresql://{USER}@/{name}?host={self.socket}"

    def database(self, name: str) -> str:
        """The URL of the database of that name, made where there is none."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
                connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def _other_user(self) -> dict[str, object]:
        """PostgreSQL refuses to run as root: another user owns its folders then."""
        if os.getuid() != 0:
            return {}
        names = [entry.pw_name for entry in pwd.getpwall()]
        user = "postgres" if "postgres" in names else "nobody"
        for folder in (self.data, self.socket):
            shutil.chown(folder, user)
        return {"user": user}

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        # Not captured by pipes: the server would inherit them, and reading would never end.
        with open(self.socket / "said", "w+") as said:
            done = subprocess.run(command, cwd="/", stdout=said, stderr=said, **self._user)
            if done.returncode:
                said.seek(0)
                raise Unavailable(f"{program}: {said.read()[-500:]}")

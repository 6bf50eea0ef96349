"""A real PostgreSQL server on loopback, for tests: Debian's, with data in a folder of its own and fsync on.

PostgreSQL refuses to run as root: there, its own user or `nobody` runs it. `server` makes one; the fixture `postgres`
of `tests/conftest.py` is one for the whole run, with a new database for each test that asks.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.bench.candidates import BenchError, free_port, tool

USER, PASSWORD = "penstock", "a-password-that-nobody-may-print"
START_SECONDS = 60.0
_SETTINGS = {
    "dynamic_shared_memory_type": "mmap",  # /dev/shm of a container may be small
    "fsync": "on",
    "listen_addresses": "127.0.0.1",
    "max_connections": "40",
    "shared_buffers": "32MB",
}
_NUMBERS = itertools.count(1)


class Postgres:
    """A server that can be ended and started again on the same port. `USER` may do everything and needs `PASSWORD`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.log = folder / "log"
        self._bin = binaries()
        self._user = _user()
        self._process: subprocess.Popen[bytes] | None = None
        self._shared: str | None = None
        if self._user is not None:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        words = folder / "password"
        words.write_text(PASSWORD)
        words.chmod(0o644)
        command = [
            "initdb", "--no-sync", "--encoding=UTF8", "--locale=C", f"--username={USER}", f"--pwfile={words}",
            "--auth-host=scram-sha-256", "--auth-local=reject", "-D", str(folder / "data"),
        ]  # fmt: skip
        command[0] = str(self._bin / command[0])
        done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, user=self._user)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Return when it answers."""
        assert self._process is None
        settings = {**_SETTINGS, "port": str(self.port), "unix_socket_directories": str(self.folder)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self.folder / "data"), *options],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=self._user,
                start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                return psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                said = self.log.read_text("utf-8", "replace")[-2000:]
                assert self._process.poll() is None, said
                assert time.monotonic() < until, said
                time.sleep(0.05)

    def stop(self, *, crash: bool = False) -> None:
        """End it: every client is cut off. `crash`: at once, so that the next start recovers."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
            process.wait(60)

    def hang(self, hung: bool = True) -> None:
        """Every process of it stands still, as on a disk that does not answer, until told `False`."""
        assert self._process is not None
        pids = [self._process.pid, *_children(self._process.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP if hung else signal.SIGCONT)

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD) -> str:
        """What a client is given."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(_NUMBERS)}"
        self.run(f"CREATE DATABASE {name}")
        return self.url(name)

    def emptied(self) -> str:
        """The URL of a database that is always the same one, with nothing in it: quicker than a new one."""
        if self._shared is None:
            self._shared = self.database()
        name = self._shared.rpartition("/")[2]
        self.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        ours = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        for (schema,) in self.run(ours, self._shared):
            self.run(f'DROP SCHEMA "{schema}" CASCADE', self._shared)
        self.run("CREATE SCHEMA public", self._shared)
        return self._shared

    def run(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of one statement in a database, by its name or URL."""
        where = database if "://" in database else self.url(database)
        with psycopg.connect(where, autocommit=True) as db:
            done = db.execute(sql)
            return done.fetchall() if done.description else []


def binaries() -> Path:
    """The folder with the server's programs. Raises BenchError."""
    return Path(tool("initdb", "postgresql")).resolve().parent


def _user() -> str | None:
    """Who runs it, where we are root and it would refuse."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


@contextlib.contextmanager
def server() -> Iterator[Postgres]:
    """A server that runs until the block ends. Skips the test where there is none and we may not install it."""
    try:
        binaries()
    except BenchError as error:
        pytest.skip(str(error))
    # Not pytest's folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="penstock-postgres-"))
    try:
        made = Postgres(folder)
        made.start()
        try:
            yield made
        finally:
            made.stop(crash=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

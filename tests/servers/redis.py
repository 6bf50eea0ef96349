"""A real Redis on loopback, for tests: Debian's, with nothing kept on disk. `server` makes one."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis as Client
from redis.exceptions import RedisError

from tests.bench.candidates import free_port, tool

PASSWORD = "a-password-that-nobody-may-print"
START_SECONDS = 60.0


class Redis:
    """A server that can be ended and started again, empty, on the same port. With `tls` it speaks nothing else: the
    files of its certificate, which clients have to trust, and of its key."""

    def __init__(self, folder: Path, tls: tuple[Path, Path] | None = None) -> None:
        self.folder, self.port, self._tls = folder, free_port(), tls
        self._program = tool("redis-server")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Return when it answers. `options` are more of its own, like `--maxmemory 1mb`."""
        assert self._process is None
        port = ["--port", str(self.port)]
        if self._tls is not None:
            certificate, key = map(str, self._tls)
            port = [
                "--port", "0", "--tls-port", str(self.port), "--tls-cert-file", certificate, "--tls-key-file", key,
                "--tls-ca-cert-file", certificate, "--tls-auth-clients", "no",
            ]  # fmt: skip
        command = [
            self._program, *port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", str(self.folder), "--requirepass", PASSWORD, *options,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        until = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(RedisError), self.client() as client:
                client.ping()
                return
            assert self._process.poll() is None, "redis-server ended"
            assert time.monotonic() < until, "redis-server does not answer"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it at once: every client is cut off, and all that it knew is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(30)

    def hang(self, hung: bool = True) -> None:
        """It stands still, as a machine that does not answer, until told `False`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if hung else signal.SIGCONT)

    def url(self, user: str = "", password: str = PASSWORD) -> str:
        """What a client is given."""
        if self._tls is not None:
            return f"rediss://{user}:{password}@127.0.0.1:{self.port}/0?ssl_ca_certs={self._tls[0]}"
        return f"redis://{user}:{password}@127.0.0.1:{self.port}/0"

    def client(self) -> Client:
        """One that may do everything."""
        unseen = {"ssl_cert_reqs": "none", "ssl_check_hostname": False} if self._tls is not None else {}
        return Client.from_url(self.url(), socket_timeout=30, **unseen)

    def run(self, *command: Any) -> Any:
        """What it answers to one command."""
        with self.client() as client:
            return client.execute_command(*command)


@contextlib.contextmanager
def server(*options: str, tls: tuple[Path, Path] | None = None) -> Iterator[Redis]:
    """One that runs until the block ends. Raises BenchError where there is none and we may not install it."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-redis-"))
    try:
        made = Redis(folder, tls)
        made.start(*options)
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""A real Redis, a replica of it, and a Sentinel that makes the replica the primary when the first one is killed."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis as Client
from redis.exceptions import RedisError

from tests.bench.candidates import free_port, tool
from tests.servers.redis import PASSWORD, START_SECONDS, Redis, server

NAME = "main"
OWN_PASSWORD = "what-the-sentinel-wants-to-hear"
_SETTINGS = """
{listen}
bind 127.0.0.1
dir {folder}
requirepass {own}
sentinel monitor {name} 127.0.0.1 {primary} 1
sentinel auth-pass {name} {password}
sentinel down-after-milliseconds {name} 800
sentinel failover-timeout {name} 1000
"""


_TLS = """
port 0
tls-port {port}
tls-replication yes
tls-auth-clients no
tls-cert-file {certificate}
tls-key-file {key}
tls-ca-cert-file {certificate}
"""


class Watched:
    """Two of Redis, of which the first is the primary, and the Sentinel; with `tls` none of them speaks without."""

    def __init__(self, primary: Redis, replica: Redis, folder: Path, tls: tuple[Path, Path] | None = None) -> None:
        self.primary, self.replica, self.port, self._tls = primary, replica, free_port(), tls
        self._away = free_port()
        settings = folder / "sentinel.conf"
        listen = f"port {self.port}"
        if tls is not None:
            listen = _TLS.format(port=self.port, certificate=tls[0], key=tls[1])
        told = {"listen": listen, "folder": folder, "own": OWN_PASSWORD, "name": NAME, "password": PASSWORD}
        settings.write_text(_SETTINGS.format(**told, primary=primary.port))
        self._process = subprocess.Popen(
            [tool("redis-server"), str(settings), "--sentinel"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def url(self, name: str = NAME, own: str = OWN_PASSWORD) -> str:
        """What a client is given: the first of the Sentinels is away."""
        hosts = f"127.0.0.1:{self._away},127.0.0.1:{self.port}"
        address = f"{hosts}/{name}/0?sentinel_password={own}"
        if self._tls is not None:
            return f"rediss+sentinel://:{PASSWORD}@{address}&ssl_ca_certs={self._tls[0]}"
        return f"redis+sentinel://:{PASSWORD}@{address}"

    def wait(self) -> None:
        """Until the Sentinel knows both, and the replica has all that the primary has."""
        until = time.monotonic() + START_SECONDS
        secure: dict[str, Any] = {"ssl": True, "ssl_ca_certs": str(self._tls[0])} if self._tls is not None else {}
        with Client(host="127.0.0.1", port=self.port, password=OWN_PASSWORD, protocol=2, **secure) as sentinel:
            while True:
                with contextlib.suppress(RedisError):
                    # It asks how they are a hundred times as often as it would.
                    sentinel.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", 100)
                    told = self.replica.run("INFO", "replication")
                    if told["master_link_status"] == "up" and len(sentinel.sentinel_slaves(NAME)) == 1:
                        return
                assert self._process.poll() is None, "the Sentinel ended"
                assert time.monotonic() < until, "the Sentinel does not know both"
                time.sleep(0.02)

    def lag(self) -> None:
        """The replica hears nothing from now on, and is chosen all the same for some eight seconds."""
        self.replica.run("CONFIG", "SET", "masterauth", "no-more")
        self.replica.run("CLIENT", "KILL", "TYPE", "master")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(30)


@contextlib.contextmanager
def watched(tls: tuple[Path, Path] | None = None) -> Iterator[Watched]:
    """Runs until the block ends. `tls` are the files of a certificate for 127.0.0.1 and of its key. Raises BenchError
    where there is no Redis and we may not install it."""
    ours = ["--masterauth", PASSWORD, "--repl-diskless-sync-delay", "0"]
    if tls is not None:
        ours += ["--tls-replication", "yes"]
    with (
        server(*ours, tls=tls) as primary,
        server(*ours, "--replicaof", "127.0.0.1", str(primary.port), tls=tls) as replica,
    ):
        made = Watched(primary, replica, primary.folder, tls)
        try:
            made.wait()
            yield made
        finally:
            made.stop()

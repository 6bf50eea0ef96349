"""A real Redis, a replica of it, and Sentinels that make the replica the primary when the first one is killed."""

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
sentinel myid {id:040x}
sentinel sentinel-pass {own}
sentinel monitor {name} 127.0.0.1 {primary} {quorum}
sentinel auth-pass {name} {password}
sentinel down-after-milliseconds {name} 800
sentinel failover-timeout {name} 1000
"""
_OTHER = "sentinel known-sentinel {name} 127.0.0.1 {port} {id:040x}\n"


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
    """Two of Redis, of which the first is the primary, and the Sentinels, of which more than half must agree; with
    `tls` none of them speaks without."""

    def __init__(
        self, primary: Redis, replica: Redis, folder: Path, tls: tuple[Path, Path] | None = None, sentinels: int = 1
    ) -> None:
        self.primary, self.replica, self._tls = primary, replica, tls
        self.ports = [free_port() for _ in range(sentinels)]
        self._away = free_port()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._settings = [folder / f"sentinel-{port}.conf" for port in self.ports]
        for number, (port, settings) in enumerate(zip(self.ports, self._settings, strict=True), 1):
            listen = f"port {port}"
            if tls is not None:
                listen = _TLS.format(port=port, certificate=tls[0], key=tls[1])
            home = folder / f"sentinel-{port}"
            home.mkdir()
            told = {"listen": listen, "folder": home, "own": OWN_PASSWORD, "name": NAME, "password": PASSWORD}
            others = [(each, id) for id, each in enumerate(self.ports, 1) if each != port]
            settings.write_text(
                _SETTINGS.format(**told, primary=primary.port, quorum=sentinels // 2 + 1, id=number)
                + "".join(_OTHER.format(name=NAME, port=each, id=id) for each, id in others)
            )
            self.start(number - 1)

    @property
    def port(self) -> int:
        return self.ports[0]

    def start(self, number: int) -> None:
        """A Sentinel, or one again that was killed."""
        self._processes[number] = subprocess.Popen(
            [tool("redis-server"), str(self._settings[number]), "--sentinel"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def kill(self, number: int) -> None:
        """End a Sentinel."""
        process = self._processes.pop(number)
        process.kill()
        process.wait(30)

    def url(self, name: str = NAME, own: str = OWN_PASSWORD) -> str:
        """What a client is given: the first of the Sentinels is away."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in [self._away, *self.ports])
        address = f"{hosts}/{name}/0?sentinel_password={own}"
        if self._tls is not None:
            return f"rediss+sentinel://:{PASSWORD}@{address}&ssl_ca_certs={self._tls[0]}"
        return f"redis+sentinel://:{PASSWORD}@{address}"

    def wait(self) -> None:
        """Until each Sentinel knows all, and the replica has all that the primary has."""
        until = time.monotonic() + START_SECONDS
        for number in range(len(self.ports)):
            while not self.knows(number):
                assert self._processes[number].poll() is None, "a Sentinel ended"
                assert time.monotonic() < until, "a Sentinel does not know the others"
                time.sleep(0.02)

    def knows(self, number: int) -> bool:
        """Whether a Sentinel knows the others and the replica, which has all that the primary has."""
        secure: dict[str, Any] = {"ssl": True, "ssl_ca_certs": str(self._tls[0])} if self._tls is not None else {}
        port = self.ports[number]
        with Client(host="127.0.0.1", port=port, password=OWN_PASSWORD, protocol=2, **secure) as sentinel:
            with contextlib.suppress(RedisError):
                # It asks how they are a hundred times as often as it would.
                sentinel.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", 100)
                told = self.replica.run("INFO", "replication")
                others = [each for each in sentinel.sentinel_sentinels(NAME) if not each["is_disconnected"]]
                known = len(sentinel.sentinel_slaves(NAME)) == 1 and len(others) == len(self.ports) - 1
                return known and told["master_link_status"] == "up"
            return False

    def lag(self) -> None:
        """The replica hears nothing from now on, and is chosen all the same for some eight seconds."""
        self.replica.run("CONFIG", "SET", "masterauth", "no-more")
        self.replica.run("CLIENT", "KILL", "TYPE", "master")

    def stop(self) -> None:
        for number in list(self._processes):
            self.kill(number)


@contextlib.contextmanager
def watched(tls: tuple[Path, Path] | None = None, sentinels: int = 1) -> Iterator[Watched]:
    """Runs until the block ends. `tls` are the files of a certificate for 127.0.0.1 and of its key. Raises BenchError
    where there is no Redis and we may not install it."""
    ours = ["--masterauth", PASSWORD, "--repl-diskless-sync-delay", "0"]
    if tls is not None:
        ours += ["--tls-replication", "yes"]
    with (
        server(*ours, tls=tls) as primary,
        server(*ours, "--replicaof", "127.0.0.1", str(primary.port), tls=tls) as replica,
    ):
        made = Watched(primary, replica, primary.folder, tls, sentinels)
        try:
            made.wait()
            yield made
        finally:
            made.stop()

"""`penstock doctor` and a serving Penstock, for each way in which what is shared can be of no use."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy import doctor_cli
from proxy.config import load
from proxy.doctor.base import Finding, Place, State
from proxy.doctor.remembered import _memory
from proxy.logs import captured
from tests.bench.candidates import free_port
from tests.proxy.conftest import standing
from tests.proxy.keyring import give
from tests.proxy.test_accounts_remembered import KEYS, RULES, Asker, ready, until
from tests.servers.certificates import certificate
from tests.servers.redis import PASSWORD, Redis, server

COMMAND = re.compile(rb"(?:^|\r\n)\*\d+\r\n")
Made = Callable[[], contextlib.AbstractContextManager[str]]


@contextlib.contextmanager
def answering(reply: bytes) -> Iterator[str]:
    """Something that answers so to each command that it is told."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while told := self.request.recv(65536):
                    self.request.sendall(reply * len(COMMAND.findall(told)))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, block_on_close = True, False

    with Server(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"redis://127.0.0.1:{made.server_address[1]}/0"
        finally:
            made.shutdown()
            thread.join()


@contextlib.contextmanager
def missing() -> Iterator[str]:
    yield f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"


@contextlib.contextmanager
def wrong_password() -> Iterator[str]:
    with server() as own:
        yield own.url(password="no-password-of-ours")


@contextlib.contextmanager
def no_rights() -> Iterator[str]:
    with server() as own:
        own.run("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+@connection", "+info")
        yield own.url("reader", "secret")


@contextlib.contextmanager
def full() -> Iterator[str]:
    with server("--maxmemory", "1", "--maxmemory-policy", "noeviction") as own:
        yield own.url()


@contextlib.contextmanager
def replica() -> Iterator[str]:
    with server() as own:
        own.run("REPLICAOF", "127.0.0.1", own.port)
        yield own.url()


@contextlib.contextmanager
def hanging() -> Iterator[str]:
    with server() as own:
        own.hang()
        yield own.url()
        own.hang(False)


@contextlib.contextmanager
def of_tls(host: str = "127.0.0.1", ends_in: float = 1.0) -> Iterator[tuple[Redis, Path]]:
    """A Redis that speaks TLS only, and its certificate."""
    with tempfile.TemporaryDirectory() as folder:
        tls = certificate(Path(folder), host=host, ends_in=ends_in)
        with server(tls=tls) as own:
            yield own, tls[0]


@contextlib.contextmanager
def untrusted() -> Iterator[str]:
    with of_tls() as (own, _):
        yield own.url().partition("?")[0]


@contextlib.contextmanager
def ended() -> Iterator[str]:
    with of_tls(ends_in=-1) as (own, _):
        yield own.url()


@contextlib.contextmanager
def of_another_host() -> Iterator[str]:
    with of_tls("redis.example") as (own, _):
        yield own.url()


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    with server("--cluster-enabled", "yes") as own:
        yield own.url()


INFO = b"redis_version:5.0.7\r\n"
SENTINEL = b"redis_version:7.0.15\r\nredis_mode:sentinel\r\n"
WAYS: dict[str, tuple[Made, str, str]] = {
    "missing": (missing, "away", "Redis cannot be reached"),
    "wrong password": (wrong_password, "credentials", "refuses our user or password"),
    "no rights": (no_rights, "credentials", "refuses our user or password"),
    "full": (full, "full", "cannot keep more"),
    "a replica": (replica, "read_only", "is a replica"),
    "hanging": (hanging, "slow", "does not answer in time"),
    "a certificate that nobody here knows": (untrusted, "certificate", "self-signed certificate"),
    "a certificate that has ended": (ended, "certificate", "certificate has expired"),
    "a certificate of another host": (of_another_host, "certificate", "certificate is not valid for '127.0.0.1'"),
    "a node of a cluster": (cluster, "cluster", "a node of a Redis Cluster"),
    "a sentinel": (lambda: answering(b"$%d\r\n%s\r\n" % (len(SENTINEL), SENTINEL)), "cluster", "a Sentinel"),
    "too old": (lambda: answering(b"$%d\r\n%s\r\n" % (len(INFO), INFO)), "version", "this is Redis 5.0.7"),
    "what says yes to everything": (lambda: answering(b"+OK\r\n"), "strange", "does not keep what it is told"),
    "what answers in numbers": (lambda: answering(b":1\r\n"), "strange", "does not speak Redis"),
    "another service": (lambda: answering(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "strange", "does not speak Redis"),
}


@pytest.mark.parametrize(("made", "state", "said"), WAYS.values(), ids=WAYS.keys())
async def test_it_serves_and_says_what_is_wrong(made: Made, state: str, said: str, tmp_path: Path) -> None:
    """P7: a named state in /readyz and a metric, and strikes and bans go on by what is known here."""
    with made() as url:
        async with standing(tmp_path, RULES, settings={"state": url}, keys=KEYS) as s:
            ann = Asker(s, "ann")
            assert [await ann("MARK"), await ann("Hi")] == ["content_policy_violation", "ok"]
            told = (await ready(s))["redis"]
            assert told.startswith(f"{state}: ")
            assert said in told
            assert 'penstock_part_up{part="redis"} 0.0' in (await s.client.get(s.admin_url + "/metrics")).text
            await ann("MARK")
            await ann("MARK")
            assert await ann("Hi") == "account_banned"


@pytest.mark.parametrize(("made", "state", "said"), WAYS.values(), ids=WAYS.keys())
def test_the_doctor_says_it_too(made: Made, state: str, said: str, tmp_path: Path) -> None:
    with made() as url:
        worst, *_ = [each for each in looked(tmp_path, state=url) if each.state is State.WRONG]
    assert said in worst.detail
    assert worst.mend
    assert PASSWORD not in worst.detail + worst.mend


def looked(folder: Path, **given: Any) -> list[Finding]:
    give(folder / "data", "ann")
    settings = load(None, data_dir=folder / "data", **{"credentials": "keys", **given})
    return list(doctor_cli.look(Place(settings, (time.time(), time.monotonic())), ["state"]))


def test_all_is_well(tmp_path: Path, redis: Redis) -> None:
    found = looked(tmp_path, state=redis.url(), state_timeout=5)
    assert {each.state for each in found} == {State.WELL}
    assert "Redis answers after" in found[-1].detail
    assert not (tmp_path / "data" / "state.db").exists()
    found = looked(tmp_path)
    assert found[-1].detail.endswith("other machines by themselves")


async def test_over_tls(tmp_path: Path) -> None:
    with of_tls() as (own, _):
        async with standing(tmp_path, RULES, settings={"state": own.url()}, keys=KEYS) as s:
            assert (await ready(s))["redis"] == "ready"
            await Asker(s, "ann")("MARK")
            async with asyncio.timeout(20):
                while not own.run("KEYS", "penstock:*strikes*"):
                    await asyncio.sleep(0.02)
        found = await asyncio.to_thread(looked, tmp_path, state=own.url(), state_timeout=5)
        assert {each.state for each in found} == {State.WELL}, found


def test_what_shares_nothing_is_told(tmp_path: Path, redis: Redis) -> None:
    (found,) = looked(tmp_path, state=redis.url(), credentials="pass_through")
    assert (found.state, "nothing is shared" in found.detail) == (State.WARNING, True)
    (found,) = looked(tmp_path, credentials="pass_through")
    assert found.state is State.WELL


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"maxmemory": 0, "used_memory": 9, "maxmemory_policy": "allkeys-lru"}, []),
        ({"maxmemory": 100, "used_memory": 9, "maxmemory_policy": "noeviction"}, []),
        ({"maxmemory": 100, "used_memory": 9, "maxmemory_policy": "volatile-ttl"}, []),
        ({"maxmemory": 100, "used_memory": 9, "maxmemory_policy": "allkeys-lru"}, ["forgets what it likes"]),
        ({"maxmemory": 100, "used_memory": 95, "maxmemory_policy": "noeviction"}, ["95% of its memory"]),
    ],
)
def test_memory(told: dict[str, Any], said: list[str]) -> None:
    found = list(_memory(told))
    assert len(found) == len(said)
    assert all(words in each.detail and each.mend for words, each in zip(said, found, strict=True))


async def test_it_mends_without_a_restart(tmp_path: Path) -> None:
    """Full, then with room again."""
    with server("--maxmemory", "1", "--maxmemory-policy", "noeviction") as own:
        async with standing(tmp_path, RULES, settings={"state": own.url()}, keys=KEYS) as s:
            ann = Asker(s, "ann")
            await ann("MARK")
            own.run("CONFIG", "SET", "maxmemory", "0")

            async def told() -> bool:
                return bool(own.run("ZCARD", "penstock:{ann}:strikes:mark") == 1)

            await until(told)
            assert (await ready(s))["redis"] == "ready"


async def test_what_others_wrote_under_our_names_ends_no_ban(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named state, told once; known flags hold, strikes are told, and it is well again when that is gone."""
    monkeypatch.setattr("proxy.state.shared.LOOK", 0.05)
    with server() as own, captured() as lines:
        async with standing(tmp_path, RULES, settings={"state": own.url()}, keys=KEYS) as s:
            ann, ben = Asker(s, "ann"), Asker(s, "ben")
            for _ in range(3):
                await ann("MARK")
            await until(lambda: bool(own.run("HLEN", "penstock:flags")))
            own.run("HSET", "penstock:flags", "ann\nbanned", "garbage")
            own.run("INCR", "penstock:version")

            async def told(state: str) -> bool:
                found: str = (await ready(s))["redis"]
                return found.startswith(state)

            await until(lambda: told("strange: what Redis holds for us was not written by us"))
            assert await ann("Hi") == "account_banned"
            assert await ben("MARK") == "content_policy_violation"
            own.run("HDEL", "penstock:flags", "ann\nbanned")
            await until(lambda: told("ready"))
    events = [line["event"] for line in lines if line.get("part") == "redis"]
    assert events == ["part is not well", "part is well again"]
    assert "internal fault" not in {line["event"] for line in lines}

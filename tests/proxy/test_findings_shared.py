"""T17 over Redis: what slow classifiers found on one machine is known on another, and to nobody without the secret."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson

from classifiers.base import Message, Role
from classifiers.cache import KEPT, Cache, Seen
from proxy.metrics import Metrics
from proxy.state.line import Line
from proxy.state.verdicts import PREFIX, Verdicts
from tests.proxy.conftest import Stand, standing
from tests.proxy.test_accounts_remembered import Asker, replicas, until
from tests.servers.redis import Redis, server

SECRET = b"s" * 32
SEEN: Seen = (("mark", 0.75, (3, 7)), ("other", 0.5, None))
TEXT = Message(Role.USER, "a text that nobody may read in Redis", "/x")
SLOW = """
id: slow
version: 1
owner: tests
description: A classifier that takes its time.
classifiers:
  canary: {kind: canary, word: MARK, inline: false}
rules:
  - id: no-mark
    description: MARK is blocked.
    stages: [input]
    when: {finding: canary.mark, at_least: 0.5}
    action: block
"""


@contextlib.asynccontextmanager
async def memories(redis: Redis, *secrets: bytes) -> AsyncIterator[list[Cache]]:
    """The memories of machines with these secrets."""
    lines = [Line(redis.url(), 20) for _ in secrets]
    for line in lines:
        await line.begin()
    yield [Cache(beyond=Verdicts(line, secret, Metrics())) for line, secret in zip(lines, secrets, strict=True)]
    for line in lines:
        await line.close()


async def put(cache: Cache, name: bytes, redis: Redis, seen: Seen = SEEN) -> None:
    from classifiers.base import Finding

    cache.put(name, [Finding("c", label, score, 0, at) for label, score, at in seen], 0.0)

    async def there() -> bool:
        return bool(redis.run("EXISTS", PREFIX + name))

    await until(there)


async def test_what_one_found_the_other_knows(redis: Redis) -> None:
    async with memories(redis, SECRET, SECRET) as (one, other):
        name = one.name("ann", "digest", TEXT)
        assert other.name("ann", "digest", TEXT) == name
        await put(one, name, redis)
        await other.ask([name, b"another"])
        assert other.get(name, asyncio.get_running_loop().time()) == SEEN
        assert len(other) == 1
        assert 0 < redis.run("TTL", PREFIX + name) <= KEPT


async def test_who_has_another_secret_knows_nothing(redis: Redis) -> None:
    async with memories(redis, SECRET, b"t" * 32) as (one, stranger):
        name = one.name("ann", "digest", TEXT)
        assert stranger.name("ann", "digest", TEXT) != name
        await put(one, name, redis)
        await stranger.ask([name])
        assert len(stranger) == 0


async def test_what_is_not_signed_is_not_believed(redis: Redis) -> None:
    async with memories(redis, SECRET, SECRET) as (one, other):
        names = [one.name(account, "digest", TEXT) for account in ("ann", "ben", "cid", "dee")]
        for name in names:
            await put(one, name, redis)
        value = redis.run("GET", PREFIX + names[0])
        forged = orjson.dumps((orjson.loads(value[16:])[0], []))
        redis.run("SET", PREFIX + names[0], value[:16] + forged)  # nothing was found, says somebody
        redis.run("SET", PREFIX + names[1], value)  # what was found in another text
        redis.run("SET", PREFIX + names[2], b"short")
        await other.ask(names)
        assert [other.get(name, asyncio.get_running_loop().time()) for name in names] == [None, None, None, SEEN]


async def test_no_letter_of_a_text_is_in_redis(redis: Redis) -> None:
    async with memories(redis, SECRET) as (one,):
        await put(one, one.name("ann", "digest", TEXT), redis)
        (key,) = redis.run("KEYS", "penstock:found:*")
        kept = key + redis.run("GET", key)
        for word in (b"text", b"nobody", b"ann", b"digest"):
            assert word not in kept


async def test_what_is_too_old_is_not_taken(redis: Redis) -> None:
    async with memories(redis, SECRET) as (one,):
        name = one.name("ann", "digest", TEXT)
        await put(one, name, redis)
        verdicts = Verdicts(one._beyond._line, SECRET, Metrics())  # type: ignore[union-attr]
        other = Cache(kept=0.0, beyond=verdicts)
        await other.ask([name])
        assert len(other) == 0


async def test_a_text_is_read_once_by_all_replicas(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tests.proxy.test_accounts_remembered.RULES", SLOW)
    with server() as own:
        async with replicas(tmp_path, own.url()) as (one, two):
            say = "the same text"
            for ask in (Asker(one, "ann"), Asker(two, "ann"), Asker(two, "ann")):
                assert await ask(say) == "ok"
                await until(lambda: bool(own.run("KEYS", "penstock:found:*")))
            assert (_read(one, say), _read(two, say)) == (1, 0)
            assert await Asker(two, "ben")(say) == "ok"  # another account's is another one
            assert _read(two, say) == 1
            page = (await two.client.get(two.admin_url + "/metrics")).text
            assert re.search(r'penstock_state_findings_total\{fate="found"\} [1-9]', page)
            own.stop()
            assert await Asker(two, "ann")("a new text") == "ok"
            assert await Asker(two, "ann")("MARK") == "content_policy_violation"


async def test_an_exchange_asks_redis_once(tmp_path: Path, redis: Redis, monkeypatch: Any) -> None:
    """Its account's count and its texts' findings: one round trip for both, and none for the answer."""
    counting = (
        SLOW
        + """
  - id: third
    description: Reads a count on both ways.
    stages: [input, output]
    when: account.history["mark"] >= 2 && score("canary.mark") >= 0.5
    action: block
"""
    )
    trips: list[list[str]] = []
    together = Line._together

    async def watched(self: Line, commands: Any) -> list[Any]:
        trips.append([str(command[0]) for command in commands])
        return await together(self, commands)

    more = {"state": redis.url(), "state_timeout": 5.0}
    async with standing(tmp_path, counting, settings=more, keys={"ann": {}}) as s:
        monkeypatch.setattr(Line, "_together", watched)
        assert await Asker(s, "ann")("some text") == "ok"
        asked = [trip for trip in trips if {"ZCOUNT", "MGET"} & set(trip)]
        assert [sorted(trip) for trip in asked] == [["MGET", "ZCOUNT"]]


def _read(s: Stand, text: str) -> int:
    """How often a classifier of this replica has read the text."""
    canary: Any = s.running.plane.guard.policies.classifiers["canary"]
    return sum(message.text == text for message in canary.read)

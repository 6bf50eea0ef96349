"""What rules leave on accounts, through Penstock on real sockets: with the file alone, with Redis, with Redis cut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any

import httpx2
import pytest

from policies.document import read
from policies.facts import Account
from policies.marks import DAY, Marks, Memory, memory_of
from policies.marks import Flag as Marked
from policies.marks import Strike as Struck
from policies.mends import parse
from policies.model import Policy
from proxy.metrics import Metrics
from proxy.parts import Parts
from proxy.state.base import Fault, Flag, Strike
from proxy.state.line import Line
from proxy.state.local import Local
from proxy.state.redis_store import RedisStore
from proxy.state.shared import State
from tests.proxy.conftest import Make, Stand, standing
from tests.proxy.keyring import give
from tests.proxy.served import served
from tests.servers.names import begin_and_ask_once, hanging
from tests.servers.redis import Redis, server
from tests.upstream import Upstream, replies, shapes

RULES = """
id: strikes
version: 1
owner: tests
description: Three times the word MARK in an hour, and the account is banned.
classifiers:
  canary: {kind: canary, word: MARK, inline: true}
  quiet: {kind: canary, word: HUSH, inline: true}
rules:
  - id: no-mark
    description: MARK is blocked and counted, wherever it stands.
    stages: [input, output]
    when: {finding: canary.mark, at_least: 0.5}
    action: block
    stream: {hold_back: 8}
    strike: {name: mark, within: 1h}
  - id: third
    description: The third time bans.
    stages: [input]
    when: account.history["mark"] >= 2 && score("canary.mark") >= 0.5
    action: block
    flag: banned
  - id: banned
    description: Who is banned gets no answers.
    stages: [input]
    when: '"banned" in account.flags'
    action: block
    reason: account_banned
  - id: shadowed
    description: A shadow leaves nothing.
    stages: [input]
    when: {finding: quiet.mark, at_least: 0.5}
    action: block
    mode: shadow
    strike: hush
    flag: hushed
"""
KEYS: dict[str, dict[str, Any]] = {"ann": {}, "ben": {}}


class Asker:
    """One account's client."""

    def __init__(self, stand: Stand, name: str) -> None:
        self._stand, self._headers = stand, {"authorization": f"Bearer {stand.keys[name]}"}

    async def __call__(self, text: str, **more: Any) -> str:
        """What became of it: the reason of a refusal, or `ok`."""
        body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
        answer = await self._stand.client.post("/v1/chat/completions", json=body, headers=self._headers)
        return "ok" if answer.status_code == 200 else str(answer.json()["error"]["penstock"]["reason"])


async def until(holds: Callable[[], Awaitable[bool] | bool]) -> None:
    """Wait for something that happens by itself."""
    async with asyncio.timeout(30):
        while True:
            found = holds()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.02)


async def test_three_strikes_and_a_ban_that_survives_a_restart(tmp_path: Path) -> None:
    async with standing(tmp_path, RULES, keys=KEYS) as s:
        ann, ben = Asker(s, "ann"), Asker(s, "ben")
        said = [await ann(text) for text in ("Hi", "MARK", "Hi", "MARK", "Hi", "MARK", "Hi")]
        ours = "content_policy_violation"
        assert said == ["ok", ours, "ok", ours, "ok", ours, "account_banned"]
        assert [await ben(text) for text in ("MARK", "HUSH", "Hi")] == [ours, "ok", "ok"]
        bodies = [row.outcome for row in await s.rows() if row.outcome and "strikes" in row.outcome]
        assert sorted((body["account"], *body.get("flags", ())) for body in bodies) == [
            ("ann",), ("ann",), ("ann", "banned"), ("ben",),
        ]  # fmt: skip
        page = (await s.client.get(s.admin_url + "/metrics")).text
        assert 'penstock_account_strikes_total{name="mark"} 4.0' in page
        assert "penstock_accounts_flagged 1.0" in page
        keys = s.keys
    async with standing(tmp_path, RULES, settings={"credentials": "keys"}) as s:
        s.keys.update(keys)
        assert await Asker(s, "ann")("Hi") == "account_banned"
        assert await Asker(s, "ben")("Hi") == "ok"


async def test_one_exchange_strikes_once_whatever_it_does(stand: Make) -> None:
    async with stand(RULES, keys=KEYS) as s:
        ann, local = Asker(s, "ann"), Local(s.data / "state.db")
        # In the request and, on the way, in a stream whose every chunk is judged.
        s.upstream.reply = _stream("It is MARK, MARK and MARK again.")
        await ann("Hi", stream=True)
        assert await local.kept("ann") == {"mark": 1}
        local.close()


async def test_a_file_that_cannot_be_written_loses_nothing(tmp_path: Path) -> None:
    local, metrics = Local(tmp_path / "state.db"), Metrics()
    parts = Parts(metrics)
    state = State(local, metrics, parts)
    await state.begin()
    memory = memory_of([_policy()])
    third = {("strikes", "no-mark"), ("strikes", "third")}
    state.leave("ann", memory, "pn_0", {("strikes", "no-mark")})
    with local._using() as db:
        db.execute("PRAGMA query_only = ON")
    assert state.leave("ann", memory, "pn_1", third) == {"strikes": ["mark"], "flags": ["banned"]}
    assert parts.states()["state"].startswith("read_only: ")
    account = await state.recall(Account("ann"), memory)
    assert (account.history, account.flags) == ({"mark": 2}, frozenset({"banned"}))
    with local._using() as db:
        db.execute("PRAGMA query_only = OFF")
    await until(lambda: parts.states()["state"] == "ready")
    assert await local.kept("ann") == {"mark": 2}
    account = await state.recall(Account("ann"), memory)
    assert (account.history, account.flags) == ({"mark": 2}, frozenset({"banned"}))
    await state.close()


def _policy() -> Policy:
    made = parse(read(RULES.encode(), "policy.yaml"))
    assert made is not None
    return made


async def test_who_has_texts_moderated_is_not_struck(stand: Make) -> None:
    async with stand(RULES, keys=KEYS) as s:
        headers = {"authorization": f"Bearer {s.keys['ann']}"}
        for _ in range(3):
            answer = await s.client.post("/v1/moderations", json={"input": "MARK"}, headers=headers)
            assert answer.json()["results"][0]["flagged"]
        assert await Asker(s, "ann")("Hi") == "ok"
        local = Local(s.data / "state.db")
        assert await local.kept("ann") == {}
        local.close()


def _stream(text: str) -> Any:
    return replies.sse(shapes.stream(text))


async def test_accounts_that_nobody_knows_are_not_counted(stand: Make) -> None:
    """Without keys of ours a caller could make himself a new account for each request."""
    async with stand(RULES) as s:
        for _ in range(3):
            assert (await s.chat("MARK")).status_code == 400
        assert s.running.plane.state is None
        assert not (s.data / "state.db").exists()


async def test_workers_of_one_machine_count_together(tmp_path: Path) -> None:
    """Without Redis: three processes, fifty strikes at once, one of them killed, and a ban that all of them hold."""
    counted = RULES.replace("mode: shadow", "mode: enforce")
    key = give(tmp_path / "data", "ann")
    async with (
        Upstream() as upstream,
        served(tmp_path, upstream.url, workers=3, policy=counted, settings={"credentials": "keys"}) as s,
        httpx2.AsyncClient(
            base_url=s.url, trust_env=False, timeout=30, headers={"authorization": f"Bearer {key}"},
            limits=httpx2.Limits(max_keepalive_connections=0),
        ) as client,
    ):  # fmt: skip

        async def ask(text: str) -> int:
            body = {"model": "m", "messages": [{"role": "user", "content": text}]}
            return (await client.post("/v1/chat/completions", json=body)).status_code

        file = Local(s.data / "state.db")
        assert set(await asyncio.gather(*(ask("HUSH") for _ in range(50)))) == {400}
        assert await file.kept("ann") == {"hush": 50}
        os.kill(s.children()[0], signal.SIGKILL)
        await s.until(lambda: s.said("a worker serves again"))
        assert [await ask("MARK") for _ in range(3)] == [400] * 3
        assert await file.kept("ann") == {"hush": 50, "mark": 3}

        async def all_know() -> bool:
            return set(await asyncio.gather(*(ask("Hi") for _ in range(12)))) == {400}

        await until(all_know)
        file.close()


# Several policies that count the same name over different times, or others


def counting(name: str, **within: int) -> Memory:
    """What policy `name` leaves and reads: these strikes, over so many seconds."""
    left = {(name, each): Marks(Struck.model_construct(name=each, within=size)) for each, size in within.items()}
    return Memory(left=left, counted=within)


WIDE, NARROW = counting("wide", mark=7 * DAY), counting("narrow", mark=1800)


@contextlib.asynccontextmanager
async def knowing(folder: Path, url: str | None) -> AsyncIterator[tuple[State, Local]]:
    local, metrics = Local(folder / "state.db"), Metrics()
    state = State(local, metrics, Parts(metrics))
    if url is not None:
        await state.beside(RedisStore(Line(url, 20)))
    await state.begin()
    yield state, local
    await state.close()


@pytest.mark.parametrize("shared", [False, True], ids=["file", "redis"])
async def test_a_short_time_erases_nothing_of_a_long_one(tmp_path: Path, redis: Redis, shared: bool) -> None:
    async with knowing(tmp_path, redis.url() if shared else None) as (state, local):
        ann, hours_ago = Account("ann"), time.time() - 2 * 3600
        local.put([Strike("ann", "mark", f"old_{number}", hours_ago) for number in range(4)])
        state.leave("ann", NARROW, "pn_1", [("narrow", "mark")])
        for number, expected in ((2, 6), (3, 7)):
            state.leave("ann", NARROW, f"pn_{number}", [("narrow", "mark")])
            local.tidy()
            assert (await state.recall(ann, WIDE)).history == {"mark": expected}
            assert (await state.recall(ann, NARROW)).history == {"mark": number}


async def test_a_strike_counts_for_whoever_counts_over_a_longer_time(tmp_path: Path) -> None:
    """Whatever the rule that left it counts over: the tidying up of the file had taken it away after that."""
    async with knowing(tmp_path, None) as (state, local):
        now, real = time.time(), local.clock.now
        local.clock.now = lambda: now - 3600  # type: ignore[method-assign]
        state.leave("ann", NARROW, "pn_1", [("narrow", "mark")])
        local.clock.now = real  # type: ignore[method-assign]
        local.tidy()
        assert (await state.recall(Account("ann"), WIDE)).history == {"mark": 1}
        assert (await state.recall(Account("ann"), NARROW)).history == {}


async def test_what_was_heard_for_one_policy_outlasts_the_question_of_another(tmp_path: Path, own: Redis) -> None:
    """Redis knows what fell elsewhere; once it is away, each policy has the count that it heard last, and what falls
    here on top."""
    other = counting("other", hush=DAY)
    line = Line(own.url(), 20)
    await line.begin()
    now = time.time()
    await RedisStore(line).strike([Strike("ann", "mark", f"x{n}", now - 3600) for n in range(7)])
    await RedisStore(line).strike([Strike("ann", "mark", "x8", now), Strike("ann", "hush", "x9", now)])
    await line.close()
    async with knowing(tmp_path, own.url()) as (state, _):
        ann = Account("ann")
        heard = [{"mark": 8}, {"mark": 1}, {"hush": 1}]
        assert [(await state.recall(ann, each)).history for each in (WIDE, NARROW, other)] == heard
        own.stop()
        assert [(await state.recall(ann, each)).history for each in (WIDE, NARROW, other)] == heard
        state.leave("ann", NARROW, "pn_1", [("narrow", "mark")])
        assert [(await state.recall(ann, each)).history for each in (WIDE, NARROW, other)] == [
            {"mark": 9}, {"mark": 2}, {"hush": 1},
        ]  # fmt: skip


@pytest.mark.parametrize("shared", [False, True], ids=["workers", "machines"])
async def test_a_ban_is_not_shortened_by_who_knows_nothing_of_it(tmp_path: Path, own: Redis, shared: bool) -> None:
    """Two that flag one account in the same second, and an operator who did before."""
    left = {
        ("p", name): Marks(flag=Marked.model_construct(name="banned", lasts=lasts))
        for name, lasts in (("long", 30 * DAY), ("short", 60))
    }
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    there = own.url() if shared else None
    async with (
        knowing(tmp_path / "one", there) as (one, file),
        knowing(tmp_path / ("two" if shared else "one"), there) as (two, other),
    ):
        now, memory = time.time(), Memory(left=left)
        one.leave("ann", memory, "pn_1", [("p", "long")])
        two.leave("ann", memory, "pn_2", [("p", "short")])
        file.mark([Flag("ben", "banned", inf, now, "operator")])
        two.leave("ben", memory, "pn_3", [("p", "short")])

        def both_know() -> bool:
            return all(
                {flag.account: flag.until > now + DAY for flag in each.marked()} == {"ann": True, "ben": True}
                for each in (file, other)
            )

        await until(both_know)
        if not shared:
            return
        line = Line(own.url(), 20)
        await line.begin()
        assert all(flag.until > now + DAY for flag in await RedisStore(line).flags())
        await line.close()


async def test_a_new_redis_is_told_all_without_holding_anybody_up(
    tmp_path: Path, own: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No slice is looked at by the event loop, and however much is to be told, it looks up in between."""
    monkeypatch.setattr("proxy.state.local.SLICE", 50)
    real, slices, turns = Local.untell, list[bool](), list[None]()
    hear = State._hear

    def untell(local: Local, after: Any) -> Any:
        slices.append(threading.current_thread() is threading.main_thread())
        return real(local, after)

    async def heard(state: State, redis: RedisStore) -> None:
        turns.append(None)
        await hear(state, redis)

    monkeypatch.setattr(Local, "untell", untell)
    monkeypatch.setattr(State, "_hear", heard)
    monkeypatch.setattr("proxy.state.shared.LOOK", 0.0)
    every = [Strike("ann", "mark", f"x{number}", time.time() - number) for number in range(450)]
    file = Local(tmp_path / "state.db")
    file.put(every)
    file.sent(every)
    file.close()
    async with knowing(tmp_path, own.url()) as (_, local):
        assert slices == [False] * 10
        before = len(turns)
        await until(lambda: local.waiting() == 0)
        assert len(turns) - before >= 3
        assert own.run("ZCARD", "penstock:{ann}:strikes:mark") == 450
    assert slices == [False] * 10


async def test_a_ban_that_another_process_tells_while_we_read_stands(
    tmp_path: Path, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes of one machine: one reads all flags, the other bans and tells Redis so, then the first has its
    answer."""
    banned = Flag("ann", "banned", inf, time.time(), "rule x")
    theirs, read, tellings = Local(tmp_path / "state.db"), RedisStore.all, [banned]

    async def slowly(store: RedisStore) -> Any:
        found = await read(store)
        while tellings:
            theirs.mark([flag := tellings.pop()])
            await store.flag([flag])
            theirs.sent_flags([flag])
        return found

    monkeypatch.setattr(RedisStore, "all", slowly)
    async with knowing(tmp_path, redis.url()) as (state, local):
        assert tellings == []
        assert local.marked() == [banned]
        assert state.flags_of("ann") == {"banned"}
    theirs.close()


# Two replicas and a Redis that is cut


@contextlib.asynccontextmanager
async def replicas(folder: Path, url: str) -> AsyncIterator[tuple[Stand, Stand]]:
    """Two that know the same keys and share a Redis."""
    more = {"state": url, "state_timeout": 2.0, "keys_dir": folder / "one" / "data"}
    for name in ("one", "two"):
        (folder / name).mkdir()
    async with (
        standing(folder / "one", RULES, settings=more, keys=KEYS) as one,
        standing(folder / "two", RULES, settings={**more, "credentials": "keys"}) as two,
    ):
        two.keys.update(one.keys)
        yield one, two


async def ready(s: Stand) -> dict[str, Any]:
    answer = await s.client.get(s.admin_url + "/readyz")
    assert answer.status_code == 200  # whatever became of Redis
    parts: dict[str, Any] = answer.json()["parts"]
    return parts


@pytest.fixture
def own() -> Iterator[Redis]:
    """A Redis that may be ended."""
    with server() as made:
        yield made


async def test_replicas_count_and_ban_together_and_a_cut_loses_nothing(tmp_path: Path, own: Redis) -> None:
    """P7, T54: the ban holds, counters go local, nothing resets, and it mends without a restart."""
    async with replicas(tmp_path, own.url()) as (one, two):
        ann, ben = (Asker(one, "ann"), Asker(two, "ann")), (Asker(one, "ben"), Asker(two, "ben"))
        ours = "content_policy_violation"
        assert [await ann[0]("MARK"), await ann[1]("MARK")] == [ours] * 2
        await until(lambda: _kept(own, "ann", 2))  # a strike falls when its exchange has ended
        assert await ann[0]("MARK") == ours
        await until(lambda: _banned(ann[1]))
        assert await ben[0]("MARK") == ours
        await until(lambda: _kept(own, "ben", 1))
        assert await ben[1]("MARK there") == ours  # so two heard of the one at the other replica
        await until(lambda: _kept(own, "ben", 2))

        own.stop()
        assert await ann[0]("Hi") == await ann[1]("Hi") == "account_banned"
        # Two knew of one strike when it asked last, and has one of its own: this is the third.
        assert await ben[1]("MARK") == ours
        assert await ben[1]("Hi") == "account_banned"
        assert (await ready(two))["redis"].startswith("away: Redis cannot be reached")
        page = (await two.client.get(two.admin_url + "/metrics")).text
        assert 'penstock_part_up{part="redis"} 0.0' in page
        assert "penstock_state_waiting" in page

        own.start()  # with nothing in it: each replica tells what it knows
        await until(lambda: _well(one, two))
        await until(lambda: _kept(own, "ben", 3))
        await until(lambda: _banned(ben[0]))
        assert await ann[0]("Hi") == await ann[1]("Hi") == "account_banned"
        assert own.run("HLEN", "penstock:flags") == 2
        assert 'penstock_part_up{part="redis"} 1.0' in (await two.client.get(two.admin_url + "/metrics")).text


async def test_a_reset_reaches_what_other_machines_keep(tmp_path: Path, own: Redis) -> None:
    async with replicas(tmp_path, own.url()) as (_, two):
        assert await Asker(two, "ben")("MARK") == "content_policy_violation"
        await until(lambda: _kept(own, "ben", 1))
        line = Line(own.url(), 20)
        await line.begin()
        await RedisStore(line).reset("ben", time.time())
        await line.close()
        file = Local(two.data / "state.db")

        async def forgotten() -> bool:
            return await file.kept("ben") == {}

        await until(forgotten)
        file.close()
        own.stop()
        said = [await Asker(two, "ben")(text) for text in ("MARK", "MARK", "Hi")]
        assert said == ["content_policy_violation", "content_policy_violation", "ok"]


async def _banned(ask: Asker) -> bool:
    return await ask("Hi") == "account_banned"


async def _well(*stands: Stand) -> bool:
    return all([(await ready(each)).get("redis") == "ready" for each in stands])


async def _kept(redis: Redis, account: str, number: int) -> bool:
    return bool(redis.run("ZCARD", f"penstock:{{{account}}}:strikes:mark") == number)


async def test_much_that_waits_is_told_within_the_usual_deadline(tmp_path: Path, redis: Redis) -> None:
    """Three thousand strikes and flags that fell while Redis was away; the line stays up meanwhile."""
    local, metrics, now = Local(tmp_path / "state.db"), Metrics(), time.time()
    local.put([Strike(f"a{number % 50}", "loud", f"pn_{number}", now) for number in range(3000)])
    local.mark([Flag(f"b{number}", "banned", inf, now, "x") for number in range(3000)])
    parts, faults = Parts(metrics), list[object]()
    state = State(local, metrics, parts)
    line = Line(redis.url(), 0.1)
    await state.beside(RedisStore(line))
    line.tell(faults.append)
    await state.begin()
    assert local.waiting() == 0
    assert redis.run("HLEN", "penstock:flags") == 3000
    assert redis.run("ZCARD", "penstock:{a7}:strikes:loud") == 60
    assert faults == []
    await state.close()


async def test_a_redis_whose_name_hangs_is_looked_up_once(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as soon:
        soon.setattr("proxy.state.line.PROBE", 0.05)
        soon.setattr("proxy.state.line.PAUSE", (0.01, 0.01))
        line = Line(redis.url().replace("127.0.0.1", "redis.example"), 20)
        with hanging(monkeypatch, "redis.example") as asked:
            await begin_and_ask_once(line, Fault.SLOW, asked, 5)
    await until(lambda: line.up)
    await line.close()


async def test_a_redis_that_hangs_costs_one_exchange_one_deadline(tmp_path: Path, own: Redis) -> None:
    async with replicas(tmp_path, own.url()) as (one, _):
        ben = Asker(one, "ben")
        assert await ben("MARK") == "content_policy_violation"
        asked = _asked(one)
        own.hang()
        # Two seconds are given by these settings, once: whoever comes after that does not wait.
        answers = [await ben(text) for text in ("Hi", "MARK", "Hi", "MARK", "Hi")]
        assert answers == ["ok", *["content_policy_violation", "ok"], "content_policy_violation", "account_banned"]
        assert (await ready(one))["redis"].startswith("slow")
        assert _asked(one) == asked + 1
        own.hang(False)
        await until(lambda: _well(one))
        await until(lambda: _kept(own, "ben", 3))


def _asked(s: Stand) -> int:
    """How often anybody waited for Redis."""
    state = s.running.plane.state
    assert state is not None
    return state.waited


async def test_a_file_that_is_taken_away_is_told_and_ends_no_ban(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.state.shared.LOOK", 0.05)
    async with standing(tmp_path, RULES, keys=KEYS) as s:
        ann = Asker(s, "ann")
        for _ in range(3):
            await ann("MARK")
        assert await ann("Hi") == "account_banned"
        for file in (tmp_path / "data").glob("state.db*"):
            file.rename(tmp_path / file.name)

        async def told(state: str) -> bool:
            found: str = (await ready(s))["state"]
            return found.startswith(state)

        await until(lambda: told("away: "))
        assert await ann("Hi") == "account_banned"
        for file in tmp_path.glob("state.db*"):
            file.rename(tmp_path / "data" / file.name)
        await until(lambda: told("ready"))
        assert await ann("Hi") == "account_banned"

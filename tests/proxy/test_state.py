"""The contract of what replicas share, on both stores: the file of a machine, and a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.state.base import KEPT, Flag, StateUnavailable, Store, Strike
from proxy.state.line import Line
from proxy.state.local import Local
from proxy.state.redis_store import RedisStore
from tests.servers.redis import Redis

Several = Callable[[int], contextlib.AbstractAsyncContextManager[list[Store]]]
"""So many processes' views of one store."""


@pytest.fixture(params=["file", "redis"])
def several(request: pytest.FixtureRequest, tmp_path: Path) -> Several:
    if request.param == "file":

        @contextlib.asynccontextmanager
        async def files(number: int) -> AsyncIterator[list[Store]]:
            made = [Local(tmp_path / "state.db") for _ in range(number)]
            yield list(made)
            for each in made:
                each.close()

        return files
    server: Redis = request.getfixturevalue("redis")

    @contextlib.asynccontextmanager
    async def lines(number: int) -> AsyncIterator[list[Store]]:
        made = [Line(server.url(), 20) for _ in range(number)]
        for line in made:
            await line.begin()
            assert line.up
        yield [RedisStore(line) for line in made]
        for line in made:
            await line.close()

    return lines


def strike(decision: str, name: str = "loud", at: float | None = None, account: str = "a") -> Strike:
    return Strike(account, name, decision, time.time() if at is None else at)


def since(**seconds: float) -> dict[str, float]:
    return {name: time.time() - each for name, each in seconds.items()}


async def test_a_thousand_strikes_at_once_are_a_thousand(several: Several) -> None:
    """P7: from four processes, each strike told twice, one of them by another process."""
    async with several(4) as stores:
        every = [strike(f"pn_{number}") for number in range(1000)]
        told = [stores[(number + again) % 4].strike([each]) for again in (0, 1) for number, each in enumerate(every)]
        await asyncio.gather(*told)
        assert [await store.counts("a", since(loud=60)) for store in stores] == [{"loud": 1000}] * 4


async def test_strikes_are_told_apart(several: Several) -> None:
    async with several(2) as (one, other):
        await one.strike([strike("1"), strike("1", "quiet"), strike("2"), strike("3", account="b c@d/e+f:g")])
        assert await other.counts("a", since(loud=60, quiet=60, none=60)) == {"loud": 2, "quiet": 1}
        assert await other.counts("b c@d/e+f:g", since(loud=60)) == {"loud": 1}
        assert await other.counts("nobody", since(loud=60)) == {}
        assert await other.kept("a") == {"loud": 2, "quiet": 1}


async def test_only_what_fell_within_the_time_counts(several: Several) -> None:
    now = time.time()
    async with several(1) as (store,):
        await store.strike([strike(str(age), at=now - age) for age in (5, 50, 500)])
        assert await store.counts("a", {"loud": now - 60}) == {"loud": 2}
        assert await store.counts("a", {"loud": now - 600}) == {"loud": 3}
        assert await store.counts("a", {"loud": now}) == {}


async def test_what_is_told_first_is_counted(several: Several) -> None:
    async with several(2) as (one, other):
        first = [strike("1"), strike("2")]
        assert await one.counts("a", since(loud=60), first) == {"loud": 2}
        assert await other.counts("a", since(loud=60), first) == {"loud": 2}


async def test_a_decision_told_late_keeps_its_time(several: Several) -> None:
    now = time.time()
    async with several(1) as (store,):
        await store.strike([strike("1", at=now - 100)])
        await store.strike([strike("1", at=now)])
        assert await store.counts("a", {"loud": now - 60}) == {}


async def test_a_count_has_an_end(several: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("local", "redis_store"):
        monkeypatch.setattr(f"proxy.state.{module}.MOST", 20)
    async with several(1) as (store,):
        await store.strike([strike(str(number)) for number in range(25)])
        assert await store.counts("a", since(loud=60)) == {"loud": 20}


async def test_what_counts_for_nobody_is_forgotten(several: Several) -> None:
    """After a year, and no strike that falls later makes others end earlier."""
    now = time.time()
    async with several(1) as (store,):
        await store.strike([strike("1", at=now - KEPT - 10), strike("2", at=now - KEPT + 1000), strike("3")])
        if isinstance(store, Local):
            store.tidy()
        else:
            (left,) = await store.line.ask(("TTL", "penstock:{a}:strikes:loud"))  # type: ignore[attr-defined]
            assert left > KEPT - 1000
        assert await store.kept("a") == {"loud": 2}


async def test_flags(several: Several) -> None:
    now = time.time()
    async with several(2) as (one, other):
        before = await other.version()
        banned, slow = Flag("a", "banned", inf, now, "rule x"), Flag("b", "slow", now + 60, now, "ann")
        await one.flag([banned, slow, Flag("c", "over", now - 1, now - 2, "rule y")])
        assert await other.version() != before
        assert sorted(await other.flags()) == [banned, slow]
        later = slow._replace(until=now + 600)
        await other.flag([later])
        assert sorted(await one.flags()) == [banned, later]
        between = await other.version()
        assert await one.unflag("a", "banned")
        assert not await one.unflag("a", "banned")
        assert await other.version() != between
        assert await other.flags() == [later]


SAID = st.builds(
    Flag, st.just("a"), st.just("banned"), st.sampled_from([40.0, 60.0, inf]), st.sampled_from([1.0, 2.0, 3.0]),
    st.sampled_from(["rule x", "rule y", "ann"]),
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(said=st.lists(SAID, min_size=1, max_size=4))
async def test_no_rule_shortens_a_flag(said: list[Flag], several: Several) -> None:
    """Whoever sets it in whatever order; a person's word replaces what was there before it. Also in a file that hears
    of it from Redis."""
    now = time.time()
    marks = [flag._replace(until=now + flag.until, at=now + flag.at) for flag in said]
    async with several(2) as stores:
        await stores[0].unflag("a", "banned")
        for number, mark in enumerate(marks):
            await stores[number % 2].flag([mark])
        (left,) = await stores[0].flags()
        if isinstance(stores[0], Local):
            await stores[0].unflag("a", "banned")
            for mark in marks:
                stores[0].mirror([mark], {}, [])
            assert stores[0].marked() == [left]
    wanted = marks[0]
    for mark in marks[1:]:
        wanted = mark if mark.over(wanted) else wanted
    assert left == wanted
    if all(mark.by != "ann" for mark in marks):
        assert left.until == max(mark.until for mark in marks)
    if marks[-1].by == "ann" and marks[-1].at == max(mark.at for mark in marks):
        assert left == marks[-1]


@pytest.mark.parametrize("there", [b"no JSON", b"[]", b'{"at": 1}', b'{"until": "x", "at": 1, "by": "x"}'])
async def test_what_others_wrote_in_place_of_a_flag_is_replaced(there: bytes, redis: Redis) -> None:
    line, mark = Line(redis.url(), 20), Flag("a", "banned", inf, time.time(), "rule x")
    await line.begin()
    store = RedisStore(line)
    await line.ask(("HSET", "penstock:flags", "a\nbanned", there))
    await store.flag([mark])
    assert mark in await store.flags()
    await line.close()


async def test_a_reset_forgets_one_account_up_to_then(several: Several) -> None:
    now = time.time()
    async with several(2) as (one, other):
        await one.strike([strike("1", at=now - 5), strike("2", "quiet", at=now - 5), strike("3", account="b")])
        await one.strike([strike("4", at=now + 1)])
        await one.flag([Flag("a", "banned", inf, now - 5, "x"), Flag("b", "banned", inf, now, "x")])
        before = await one.version()
        await other.reset("a", now)
        assert await one.version() != before
        assert await one.counts("a", since(loud=60, quiet=60)) == {"loud": 1}
        assert await one.counts("b", since(loud=60)) == {"loud": 1}
        assert [flag.account for flag in await one.flags()] == ["b"]


class Plain:
    """The contract once more, as plainly as it can be said."""

    def __init__(self) -> None:
        self.struck: dict[tuple[str, str, str], float] = {}
        self.marks: dict[tuple[str, str], Flag] = {}

    def counts(self, account: str, names: list[str], at: float) -> dict[str, int]:
        found = {n: sum(k[:2] == (account, n) and t > at for k, t in self.struck.items()) for n in names}
        return {name: count for name, count in found.items() if count}


NAMES, ACCOUNTS = st.sampled_from(["loud", "quiet"]), st.sampled_from(["a", "b"])
AGES = st.sampled_from([1.0, 20.0, 40.0])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("strike"), ACCOUNTS, NAMES, st.sampled_from("1234"), AGES),
        st.tuples(st.just("flag"), ACCOUNTS, NAMES, st.sampled_from([30.0, inf]), st.sampled_from(["x", "rule x"])),
        st.tuples(st.just("unflag"), ACCOUNTS, NAMES),
        st.tuples(st.just("reset"), ACCOUNTS, st.sampled_from([10.0, 30.0])),
    ),
    max_size=12,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
async def test_any_order_of_things(steps: list[Any], tmp_path: Path, redis: Redis) -> None:
    """Both stores say after each of them what the plain one says."""
    redis.run("FLUSHALL")
    (tmp_path / "state.db").unlink(missing_ok=True)
    now, plain = time.time(), Plain()
    line, local = Line(redis.url(), 20), Local(tmp_path / "state.db")
    await line.begin()
    stores: list[Store] = [local, RedisStore(line)]
    for what, account, *more in steps:
        for store in stores:
            await _done(store, what, account, more, now)
        match what:
            case "strike":
                name, decision, age = more
                plain.struck.setdefault((account, name, decision), now - age)
            case "flag":
                mark = Flag(account, more[0], now + more[1], now - 20, more[2])
                if (known := plain.marks.get((account, more[0]))) is None or mark.over(known):
                    plain.marks[account, more[0]] = mark
            case "unflag":
                plain.marks.pop((account, more[0]), None)
            case "reset":
                plain.struck = {k: at for k, at in plain.struck.items() if k[0] != account or at > now - more[0]}
                plain.marks = {k: f for k, f in plain.marks.items() if k[0] != account or f.at > now - more[0]}
    for store in stores:
        for account in ("a", "b"):
            for age in (10.0, 30.0, 60.0):
                wanted = plain.counts(account, ["loud", "quiet"], now - age)
                assert await store.counts(account, {"loud": now - age, "quiet": now - age}) == wanted
        assert sorted(await store.flags()) == sorted(plain.marks.values())
    local.close()
    await line.close()


async def _done(store: Store, what: str, account: str, more: list[Any], now: float) -> None:
    match what:
        case "strike":
            await store.strike([Strike(account, more[0], more[1], now - more[2])])
        case "flag":
            await store.flag([Flag(account, more[0], now + more[1], now - 20, more[2])])
        case "unflag":
            await store.unflag(account, more[0])
        case "reset":
            await store.reset(account, now - more[0])


def test_a_file_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"this is no database, and it is long enough to be looked at" * 20)
    with pytest.raises(StateUnavailable, match=r"state\.db.*move it away"):
        Local(tmp_path / "state.db").put([strike("1")])


def test_a_good_copy_that_is_put_back_is_seen(tmp_path: Path) -> None:
    path, copy = tmp_path / "state.db", tmp_path / "copy.db"
    kept = Local(copy)
    kept.mark([Flag("a", "banned", inf, time.time(), "x")])
    kept.close()
    local = Local(path)
    local.mark([Flag("b", "banned", inf, time.time(), "x")])
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(b"no database any more " * 1000)
    with pytest.raises(StateUnavailable, match="move it away"):
        local.mark([Flag("c", "banned", inf, time.time(), "x")])
    for left in tmp_path.glob("state.db*"):
        left.unlink()
    copy.rename(path)
    assert [flag.account for flag in local.marked()] == ["a"]
    local.close()


def test_a_file_that_was_full_is_well_once_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with the next row that fits."""
    local = Local(tmp_path / "state.db")
    local.put([strike("1")])
    assert local._db is not None
    local._db.execute("PRAGMA max_page_count = 1")  # as many as there are
    monkeypatch.setattr("proxy.state.local.is_roomy", lambda path: False)
    with pytest.raises(StateUnavailable, match="full"):
        local.put([strike(f"{number:01000}") for number in range(100)])
    local.put([strike("2")])
    assert not local.has_room()
    monkeypatch.setattr("proxy.state.local.is_roomy", lambda path: True)
    assert local.has_room()
    local.close()


def test_what_counts_no_more_is_forgotten(tmp_path: Path) -> None:
    local, now = Local(tmp_path / "state.db"), time.time()
    local.put([strike("1", at=now - KEPT - 10), strike("2", at=now - KEPT + 1000)])
    local.mark([Flag("a", "over", now - 1, now - 2, "x"), Flag("a", "banned", inf, now, "x")])
    local.tidy()
    assert local.waiting() == 2
    assert (tmp_path / "state.db").stat().st_mode & 0o777 == 0o600


def test_the_newest_strikes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.state.local.MOST", 20)
    local, now = Local(tmp_path / "state.db"), time.time()
    local.put([strike(str(number), at=now - number) for number in range(30)])
    local.put([strike("1", "quiet")])
    local.tidy()
    assert local.counted("a", {"loud": now - 19.5, "quiet": now - 60}) == {"loud": 20, "quiet": 1}
    assert local.waiting() == 21
    local.close()


def test_all_is_to_be_told_anew_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two of them others write, and what Redis is told then it may be told again."""
    monkeypatch.setattr("proxy.state.local.SLICE", 3)
    local, other = Local(tmp_path / "state.db"), Local(tmp_path / "state.db")
    every = [strike(str(number), name, account=account) for account in "ab" for name in "xy" for number in range(4)]
    local.put(every)
    local.sent(every)
    last, left = local.untell(None), [local.waiting()]
    while last is not None:
        other.put([strike("new", str(len(left)))])
        last = local.untell(last)
        left.append(local.waiting())
    assert max(after - before for before, after in itertools.pairwise(left)) <= 4
    assert not local.knows("another")
    local.telling("another")
    assert other.knows("another")
    assert not {(each.account, each.name, each.decision) for each in every} - {each[:3] for each in local.some_unsent()}
    for each in (local, other):
        each.close()


def test_before_a_count_only_what_it_asks_for_is_told(tmp_path: Path) -> None:
    local, now = Local(tmp_path / "state.db"), time.time()
    local.put(
        [strike("old", at=now - 100), strike("new", at=now - 10), strike("quiet", "quiet"), strike("x", account="b")]
    )
    assert [each.decision for each in local.unsent("a", {"loud": now - 60})] == ["new"]
    assert [each.decision for each in local.unsent("a", {"loud": now - 200, "none": 0})] == ["old", "new"]
    local.close()


async def test_many_strikes_are_few_commands(redis: Redis) -> None:
    """Redis answers nobody while it reads thousands."""
    line, now, asked = Line(redis.url(), 20), time.time(), []
    await line.begin()
    store, ask = RedisStore(line), line.ask

    async def counted(*commands: Any) -> list[Any]:
        asked.append(len(commands))
        return await ask(*commands)

    store._ask = counted
    every = [strike(str(number), name, now - number / 100) for number in range(3000) for name in ("many", "more")]
    assert await store.counts("a", {"many": now - 60, "more": now - 20}, every) == {"many": 3000, "more": 2000}
    assert asked == [14]
    await line.close()


def test_what_another_process_tells_meanwhile_is_not_taken_away(tmp_path: Path) -> None:
    """This process has asked Redis for all marks, and the other tells it of one, before the answer is here."""
    now = time.time()
    ours, theirs = Local(tmp_path / "state.db"), Local(tmp_path / "state.db")
    old, gone, late = (
        Flag("a", "old", inf, now - 9, "x"),
        Flag("a", "gone", inf, now - 8, "x"),
        Flag("b", "x", inf, now, "y"),
    )
    theirs.mark([old, gone])
    theirs.sent_flags(theirs.marked())
    told = ours.told()
    theirs.mark([late])
    theirs.sent_flags(theirs.marked(unsent=True))
    ours.mirror([old], {}, told)
    assert sorted(ours.marked()) == [old, late]
    # Once it was read since, Redis is right again.
    ours.mirror([old], {}, ours.told())
    assert ours.marked() == [old]
    for each in (ours, theirs):
        each.close()

"""P7 with Sentinels: the primary is killed, its replica takes over, and nothing that is known of accounts is lost."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from proxy.doctor.base import State
from proxy.state.base import Fault
from proxy.state.line import Line
from tests.proxy.test_accounts_remembered import Asker, _banned, _kept, _well, replicas, until
from tests.proxy.test_doctor_state import looked
from tests.servers.certificates import certificate
from tests.servers.names import begin_and_ask_once, hanging
from tests.servers.redis import PASSWORD
from tests.servers.sentinels import NAME, OWN_PASSWORD, watched

OURS = "content_policy_violation"


async def test_flags_and_counts_hold_when_the_primary_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three Sentinels one is left, which may not choose alone: nothing is forgotten while there is no primary. With
    a second one there is, and all goes on."""
    monkeypatch.setattr("proxy.state.shared.LOOK", 0.1)
    with watched(sentinels=3) as redis:
        async with replicas(tmp_path, redis.url()) as (one, two):
            assert await _well(one, two)
            ann, ben = (Asker(one, "ann"), Asker(two, "ann")), (Asker(one, "ben"), Asker(two, "ben"))
            assert [await ann[0]("MARK"), await ann[1]("MARK")] == [OURS] * 2
            await until(lambda: _kept(redis.primary, "ann", 2))  # a strike falls when its exchange has ended
            assert await ann[0]("MARK") == OURS
            await until(lambda: _banned(ann[1]))
            redis.lag()  # a Sentinel's promise is not that nothing is lost
            assert await ben[0]("MARK") == OURS
            await until(lambda: _kept(redis.primary, "ben", 1))
            assert await _kept(redis.replica, "ben", 0)
            redis.kill(0)
            redis.kill(1)
            redis.primary.stop()
            assert await ann[0]("Hi") == await ann[1]("Hi") == "account_banned"
            assert await ben[0]("MARK") == OURS
            await until(lambda: one.running.states()["parts"]["redis"].startswith("unnamed"))
            redis.start(1)

            async def moved() -> bool:
                return await _well(one, two) and await _kept(redis.replica, "ben", 2)

            await until(moved)
            assert redis.replica.run("HLEN", "penstock:flags") == 1
            assert await ben[1]("MARK there") == OURS  # the third, of which two fell at the other replica
            assert await ben[1]("Hi") == "account_banned"
            await until(lambda: _banned(ben[0]))
            assert await ann[0]("Hi") == await ann[1]("Hi") == "account_banned"


def test_the_doctor_looks_at_the_primary(tmp_path: Path) -> None:
    with watched() as redis:
        found = looked(tmp_path, state=redis.url())
        assert {each.state for each in found} == {State.WELL}
        assert any("Redis answers after" in each.detail for each in found)
        for url, state, said in (
            (redis.url(name="another"), "unnamed", "no Sentinel names a primary"),
            (redis.url(own="wrong"), "credentials", "the Sentinels refuse our user or password"),
            (redis.url().partition("?")[0], "credentials", "the Sentinels refuse our user or password"),
            (redis.url().replace(f"127.0.0.1:{redis.port}", "127.0.0.1:1"), "unnamed", "no Sentinel names a primary"),
            (redis.url().replace(f":{PASSWORD}@", ":wrong@"), "credentials", "refuses our user or password"),
        ):
            (wrong,) = [each for each in looked(tmp_path, state=url) if each.state is State.WRONG]
            assert said in wrong.detail, state
            assert PASSWORD not in wrong.detail + wrong.mend
            assert OWN_PASSWORD not in wrong.detail + wrong.mend


def test_over_tls(tmp_path: Path) -> None:
    """To the Sentinels and to what they name; no authority but that of the address is believed."""
    with watched(certificate(tmp_path)) as redis:
        assert {each.state for each in looked(tmp_path, state=redis.url())} == {State.WELL}
        untrusted = redis.url().partition("&ssl_ca_certs")[0]
        (wrong,) = [each for each in looked(tmp_path, state=untrusted) if each.state is State.WRONG]
        assert "certificate" in wrong.mend
        assert PASSWORD not in wrong.detail + wrong.mend


async def test_a_sentinel_whose_name_hangs_keeps_nobody_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.state.line.ASKED", 0.1)
    with watched(sentinels=2) as redis:
        address = redis.url().replace("@127.0.0.1:", "@slow.example:")
        line = Line(address, 5)
        with hanging(monkeypatch, "slow.example") as asked:
            for _ in range(3):
                await line.begin()
                assert line.up
                await line._client.connection_pool.disconnect()
            assert len(asked) == 1
        await line.close()


async def test_sentinels_whose_names_all_hang_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.state.line.ASKED", 0.05)
    monkeypatch.setattr("proxy.state.line.CHOSEN", (0.01, 0.01))
    with watched() as redis:
        address = f"slow.example:{redis.port}/{NAME}/0?sentinel_password={OWN_PASSWORD}"
        line = Line(f"redis+sentinel://:{PASSWORD}@{address}", 5)
        with hanging(monkeypatch, "slow.example") as asked:
            await begin_and_ask_once(line, Fault.UNNAMED, asked, 4)
        await until(lambda: line.up)
        await line.close()


async def test_a_primary_whose_name_hangs_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.state.line.PROBE", 0.3)
    monkeypatch.setattr("proxy.state.line.CHOSEN", (0.01, 0.01))
    with watched() as redis:
        line = Line(redis.url(), 5)
        found = AsyncMock(return_value=("slow.example", redis.primary.port))
        monkeypatch.setattr("redis.asyncio.sentinel.Sentinel.discover_master", found)
        with hanging(monkeypatch, "slow.example") as asked:
            await begin_and_ask_once(line, Fault.SLOW, asked, 4)
        await until(lambda: line.up)
        await line.close()

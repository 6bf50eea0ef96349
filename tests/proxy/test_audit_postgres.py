"""PostgreSQL that is missing, full, read-only, of another version, or lost in the middle: told in one line, without a
password, and mended without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from proxy.audit import Audit, AuditUnavailable, Key, Reader, Record, new_id
from proxy.audit.entry import STATES
from proxy.audit.postgres import PostgresStore
from proxy.audit.postgres_schema import _STATES, explain
from proxy.audit.process import Process
from proxy.audit.record import encode
from proxy.audit.target import problem_with, shown
from proxy.config import ConfigError, load
from proxy.doctor.base import Finding, Place, State
from proxy.doctor.database import check_database
from proxy.server import CannotServe, serving
from tests.proxy.audit_lines import until
from tests.servers.postgres import PASSWORD, Postgres, server
from tests.upstream import Upstream, api

KEY = Key(b"k" * 32)
FULL = """
CREATE FUNCTION penstock_audit.full() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{}'; END $$
"""
ON_ROWS = "CREATE TRIGGER full_disk BEFORE INSERT ON penstock_audit.records EXECUTE FUNCTION penstock_audit.full()"


def outcome(id: str = "") -> Record:
    return Record(id or new_id(), "outcome", time.time(), {"status": "released"})


def begun(postgres: Postgres, url: str = "") -> str:
    """A database with a log in it."""
    url = url or postgres.emptied()
    PostgresStore.open(url, KEY.seal).close()
    return url


def _as(postgres: Postgres, *rights: str) -> str:
    """The URL for a new user with nothing but these rights."""
    url = postgres.database()
    name = url.rpartition("/")[2]
    postgres.run(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    for right in rights:
        postgres.run(right.format(name), url)
    return postgres.url(name, user=name)


def _read_only(postgres: Postgres) -> str:
    url = begun(postgres, postgres.database())
    postgres.run(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    return url


def _newer(postgres: Postgres) -> str:
    url = begun(postgres)
    postgres.run("UPDATE penstock_audit.meta SET value = '9' WHERE name = 'version'", url)
    return url


def _narrow(postgres: Postgres) -> str:
    name = postgres.database().rpartition("/")[2] + "_latin"
    postgres.run(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'")
    return postgres.url(name)


CLOSED = "postgresql://penstock:" + PASSWORD + "@127.0.0.1:1/penstock"
UNUSABLE: dict[str, tuple[Callable[[Postgres], str], str, str, str]] = {
    # name: (URL, state, problem, mend)
    "nobody listens": (lambda _: CLOSED, "missing", "nobody answers", "start the server"),
    "no such host": (lambda _: CLOSED.replace("127.0.0.1", "no.such.invalid"), "missing", "nobody answers", "host"),
    "wrong password": (lambda p: p.url("postgres", password="wrong-" + PASSWORD), "forbidden", "refuses", "log in"),
    "no such user": (lambda p: p.url("postgres", user="nobody_here"), "forbidden", "refuses", "log in"),
    "no such database": (lambda p: p.url("none_such"), "missing", "does not exist", "createdb"),
    "no right to make tables": (_as, "forbidden", "may not write", "GRANT"),
    "read-only": (_read_only, "read_only", "takes no writes", "primary"),
    "an encoding without all letters": (_narrow, "version", "encoding LATIN1", "UTF8"),
    "newer tables": (_newer, "version", "schema 9", "another database"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_database_that_cannot_be_used_says_why_in_one_line(postgres: Postgres, tmp_path: Path, name: str) -> None:
    make, state, problem, mend = UNUSABLE[name]
    url = make(postgres)
    with pytest.raises(AuditUnavailable, match=problem) as error:
        PostgresStore.open(url, KEY.seal, head=str(tmp_path / "head"), patience=2)
    assert error.value.state == state
    assert mend in error.value.mend
    assert "\n" not in str(error.value)
    assert PASSWORD not in str(error.value)


def test_a_server_that_is_too_old_is_refused(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.audit.postgres_schema.OLDEST_SERVER", 990000)
    with pytest.raises(AuditUnavailable, match="is PostgreSQL") as error:
        PostgresStore.open(postgres.database(), KEY.seal)
    assert error.value.state == "version"
    assert "version 99 or later" in error.value.mend


async def test_a_user_that_may_make_a_schema_needs_nothing_else(postgres: Postgres, tmp_path: Path) -> None:
    url = _as(postgres, "GRANT CREATE ON DATABASE {0} TO {0}")
    audit = await Audit.open(url, key=KEY, head=tmp_path / "head")
    await audit.durable(outcome())
    await audit.close()
    with Reader(url, tmp_path / "head") as log:
        assert log.verify(KEY).rows == 1


def test_every_state_is_one_of_those_named() -> None:
    assert {state for state, *_ in _STATES.values()} <= STATES


SAID = {
    "53100": "full", "25006": "read_only", "53300": "busy", "55P03": "busy", "57014": "slow", "57P01": "missing",
    "58030": "failing", "XX001": "damaged", "42501": "forbidden", "08006": "missing", "22000": "failing",
}  # fmt: skip


@pytest.mark.parametrize("code", SAID)
def test_each_code_of_the_server_is_a_state_with_a_mend(code: str) -> None:
    told = explain(psycopg.errors.lookup(code)("what the server says"), CLOSED)
    assert told.state == SAID[code]
    assert told.mend
    assert PASSWORD not in str(told)


@pytest.mark.parametrize("code", ["53100", "25006", "57P01"])
async def test_what_the_server_says_in_the_middle_is_a_state_and_is_over_when_it_is_over(
    postgres: Postgres, tmp_path: Path, code: str
) -> None:
    url = begun(postgres)
    audit = await Audit.open(url, key=KEY, head=tmp_path / "head")
    told: list[str] = []
    audit.observer = lambda fault: told.append(fault.state if fault else "well")
    await audit.durable(first := outcome())
    postgres.run(FULL.format(code), url)
    postgres.run(ON_ROWS, url)
    with pytest.raises(AuditUnavailable) as error:
        await audit.durable(second := outcome())
    assert error.value.state == SAID[code]
    assert error.value.mend
    assert not audit.healthy
    with pytest.raises(AuditUnavailable):
        audit.submit(outcome())
    assert audit.append(third := outcome())  # what is under way is kept
    postgres.run("DROP TRIGGER full_disk ON penstock_audit.records", url)
    await until(lambda: audit.healthy and not audit.waiting)
    await audit.close()
    assert audit.lost == 0
    assert set(told) == {SAID[code], "well"}
    with Reader(url, tmp_path / "head") as log:
        assert [id for (id,) in log.select("SELECT id FROM records ORDER BY seq")] == [first.id, second.id, third.id]
        assert log.verify(KEY).broken is None


async def test_rows_that_the_database_lost_are_noticed_at_once(postgres: Postgres, tmp_path: Path) -> None:
    """As after a failover to a copy that lagged behind."""
    url = begun(postgres)
    audit = await Audit.open(url, key=KEY, head=tmp_path / "head")
    for _ in range(3):
        await audit.durable(outcome())
    postgres.run("DELETE FROM penstock_audit.records WHERE seq > 1", url)
    with pytest.raises(AuditUnavailable, match=r"newest 2 row\(s\).* are gone") as error:
        await audit.durable(outcome())
    assert error.value.state == "damaged"
    with contextlib.suppress(AuditUnavailable):
        await audit.close(0.2)
    with pytest.raises(AuditUnavailable, match="are gone"):
        PostgresStore.open(url, KEY.seal, head=str(tmp_path / "head"))
    (tmp_path / "head").unlink()  # as the mend says
    PostgresStore.open(url, KEY.seal, head=str(tmp_path / "head")).close()


@pytest.mark.parametrize("lease", [0.0, 60.0], ids=["gone for long", "gone a moment ago"])
def test_a_replica_that_lives_marks_what_a_dead_one_left(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, lease: float
) -> None:
    """But not at once: when the server restarts, every lock is free for a moment."""
    monkeypatch.setattr("proxy.audit.postgres.LEASE", lease)
    monkeypatch.setattr("proxy.audit.postgres.TOUCH", 0.0)
    url = begun(postgres)
    dead, alive = PostgresStore.open(url, KEY.seal), PostgresStore.open(url, KEY.seal)
    held, id = new_id(), new_id()
    dead.write([encode(Record(id, "intent", time.time(), {"action": "pass", "account": "a"}))])
    alive.write([encode(Record(held, "intent", time.time(), {"action": "pass"}))])
    dead._drop()
    alive.tidy()
    with Reader(url) as log:
        exchange, mine = log.exchange(id), log.exchange(held)
    assert exchange is not None
    assert mine is not None
    assert mine.outcome is None
    if lease:
        assert exchange.outcome is None
        dead.write([encode(Record(id, "outcome", time.time(), {"status": "released"}))])  # it was not dead
    else:
        assert exchange.outcome is not None
        assert (exchange.outcome["status"], exchange.outcome["account"]) == ("aborted", "a")
    alive.close()
    dead.close()
    with Reader(url) as log:
        assert log.verify(KEY).broken is None


def test_who_reads_may_take_their_time(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that stands still in its turn is cut off; an export may wait for its disk."""
    monkeypatch.setattr("proxy.audit.postgres_source.PATIENCE", 0.5)
    monkeypatch.setattr("proxy.audit.postgres_source.AT_ONCE", 1)
    url = begun(postgres)
    store = PostgresStore.open(url, KEY.seal)
    store.write([encode(outcome()) for _ in range(3)])
    store.close()
    with Reader(url) as log:
        walk = log.walk()
        next(walk)
        time.sleep(0.8)
        assert len(list(walk)) == 2


def test_a_role_that_does_not_wait_for_the_disk_is_made_to(postgres: Postgres) -> None:
    url = begun(postgres, postgres.database())
    postgres.run(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
    store = PostgresStore.open(url, KEY.seal)
    assert store._db is not None
    assert store._db.execute("SHOW synchronous_commit").fetchone() == ("on",)
    store._drop()
    store.write([encode(outcome())])
    assert store._db is not None
    assert store._db.execute("SHOW synchronous_commit").fetchone() == ("on",)
    store.close()


async def test_the_writer_alone_knows_the_password(postgres: Postgres, tmp_path: Path) -> None:
    audit = await Audit.open(begun(postgres), key=KEY, head=tmp_path / "head")
    assert isinstance(audit._line, Process)
    for name in ("cmdline", "environ"):
        assert PASSWORD.encode() not in Path(f"/proc/{audit._line.pid}/{name}").read_bytes()
    await audit.close()


@contextlib.asynccontextmanager
async def _served(
    url: str, folder: Path, **more: Any
) -> AsyncIterator[tuple[httpx2.AsyncClient, httpx2.AsyncClient, Any]]:
    """The data plane, the admin plane, and what runs."""
    async with Upstream(api.answer) as upstream:
        settings = load(
            None, upstream=upstream.url, policy="observe", port=0, admin_port=0, data_dir=folder, audit_database=url,
            heartbeat_interval=0, **more,
        )  # fmt: skip
        async with serving(settings) as running, contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    httpx2.AsyncClient(base_url="http://{}:{}".format(*address), timeout=30, trust_env=False)
                )
                for address in (running.address, running.admin_address)
            ]
            yield clients[0], clients[1], running


CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello."}]}


async def test_a_server_lost_in_the_middle_is_a_state_and_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with server() as own:
        url = own.database()
        async with _served(url, tmp_path) as (client, admin, running):

            async def asked() -> int:
                status: int = (await client.post("/v1/chat/completions", json=CHAT)).status_code
                return status

            async def gauge(name: str) -> str:
                page = (await admin.get("/metrics")).text
                return next(line.rpartition(" ")[2] for line in page.splitlines() if line.startswith(name))

            assert await asked() == 200
            assert (await admin.get("/readyz")).status_code == 200
            assert await gauge('penstock_part_up{part="audit"}') == "1.0"
            for again in range(2):
                await asyncio.to_thread(own.stop, crash=bool(again))
                refused = await client.post("/v1/chat/completions", json=CHAT)
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "audit_unavailable"
                ready = await admin.get("/readyz")
                assert ready.status_code == 503
                assert "127.0.0.1" in ready.json()["checks"]["audit"]
                assert ready.json()["parts"]["audit"].startswith("missing: ")
                assert await gauge('penstock_part_up{part="audit"}') == "0.0"
                await asyncio.to_thread(own.start)
                await until(lambda: running.audit.healthy)
                assert await asked() == 200
                assert (await admin.get("/readyz")).status_code == 200
                assert await gauge('penstock_part_up{part="audit"}') == "1.0"
        with Reader(url, tmp_path / "audit-database-head") as log:
            assert log.verify(Key.load(tmp_path / "audit.key")).broken is None
            assert len([each for each in log.latest(100) if each["status"] == "released"]) >= 3
        said = "".join(capsys.readouterr()) + caplog.text
        assert PASSWORD not in said
        assert PASSWORD not in own.log.read_text()
        assert said.count("part is not well") == 2


async def test_a_server_that_hangs_refuses_work_and_is_forgiven(tmp_path: Path) -> None:
    with server() as own:
        url = own.database()
        audit = await Audit.open(url, key=KEY, head=tmp_path / "head", patience=1.0)
        await audit.durable(outcome())
        own.hang()
        try:
            with pytest.raises(AuditUnavailable) as error:
                await audit.durable(outcome())
            assert error.value.state == "slow"
        finally:
            own.hang(False)
        await until(lambda: audit.healthy and not audit.waiting)
        await audit.close()
        with Reader(url, tmp_path / "head") as log:
            assert (log.verify(KEY).broken, log.verify(KEY).rows) == (None, 2)


async def test_it_does_not_begin_without_its_database(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match="nobody answers") as error:
        async with _served(CLOSED, tmp_path):
            pass
    assert PASSWORD not in str(error.value)


# ---- the setting


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mysql://a:b@c/d", "no URL of a PostgreSQL"),
        ("host=localhost password=" + PASSWORD, "no URL of a PostgreSQL"),
        ("postgresql://penstock:" + PASSWORD + "@host", "names no database"),
        ("postgresql://penstock:" + PASSWORD + "@host:port/x", "percent-encoded"),
    ],
)
def test_a_wrong_url_is_told_without_its_words(url: str, problem: str) -> None:
    assert problem in problem_with(url)
    with pytest.raises(ConfigError, match="audit_database") as error:
        load(None, upstream="http://127.0.0.1:1/v1", audit_database=url)
    assert PASSWORD not in str(error.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"postgresql://u:{PASSWORD}@h:5/d?sslmode=require&password={PASSWORD}", "postgresql://u@h:5/d"),
        (f"postgresql:///d?host=/run/postgresql&password={PASSWORD}", "postgresql:///run/postgresql/d"),
        ("/var/lib/penstock/audit.db", "/var/lib/penstock/audit.db"),
    ],
)
def test_a_place_is_shown_without_its_password(url: str, said: str) -> None:
    assert shown(url) == said
    settings = load(None, upstream="http://127.0.0.1:1/v1", **({"audit_database": url} if "://" in url else {}))
    assert PASSWORD not in repr(settings)


@pytest.mark.parametrize(("keep", "seconds"), [("", 0), ("1h", 3600), ("90d", 90 * 86400), ("2w", 14 * 86400)])
def test_how_long_is_read(keep: str, seconds: float) -> None:
    assert load(None, upstream="http://127.0.0.1:1/v1", audit_keep=keep).audit_seconds == seconds


@pytest.mark.parametrize("keep", ["90", "0d", "90 days", "-1d", "1m"])
def test_what_is_no_time_to_keep_is_refused(keep: str) -> None:
    with pytest.raises(ConfigError, match="audit_keep"):
        load(None, upstream="http://127.0.0.1:1/v1", audit_keep=keep)


# ---- the doctor


def _looked(url: str, folder: Path) -> list[Finding]:
    settings = load(None, upstream="http://127.0.0.1:1/v1", audit_database=url, data_dir=folder)
    return list(check_database(Place(settings, (time.time(), time.monotonic()))))


@pytest.mark.parametrize("name", UNUSABLE)
def test_the_doctor_says_what_is_wrong_with_a_database(postgres: Postgres, tmp_path: Path, name: str) -> None:
    make, _, problem, mend = UNUSABLE[name]
    wrong = [each for each in _looked(make(postgres), tmp_path) if each.state is State.WRONG]
    assert len(wrong) == 1
    assert problem in wrong[0].detail
    assert mend in wrong[0].mend or name == "newer tables"
    assert PASSWORD not in f"{wrong}"


def test_the_doctor_sees_a_full_disk(postgres: Postgres, tmp_path: Path) -> None:
    url = begun(postgres, postgres.database())
    postgres.run(FULL.format("53100").replace("trigger", "event_trigger"), url)
    postgres.run("CREATE EVENT TRIGGER f ON ddl_command_start EXECUTE FUNCTION penstock_audit.full()", url)
    (found,) = _looked(url, tmp_path)
    assert (found.state, "is full" in found.detail) == (State.WRONG, True)


def test_the_doctor_finds_a_database_well_and_leaves_nothing(postgres: Postgres, tmp_path: Path) -> None:
    empty = postgres.database()
    assert {each.state for each in _looked(empty, tmp_path)} <= {State.WELL, State.WARNING}  # a slow disk is a warning
    assert postgres.run("SELECT count(*) FROM pg_namespace WHERE nspname = 'penstock_audit'", empty) == [(0,)]
    key = Key.load(tmp_path / "audit.key")
    store = PostgresStore.open(empty, key.seal, head=str(tmp_path / "audit-database-head"))
    store.write([encode(outcome())])
    store.close()
    assert any("is whole: 1 rows" in each.detail for each in _looked(empty, tmp_path))
    postgres.run("UPDATE penstock_audit.records SET at = 0", empty)
    assert any("broken at row 1" in each.detail for each in _looked(empty, tmp_path) if each.state is State.WRONG)


def test_the_doctor_warns_of_a_server_that_forgets(tmp_path: Path) -> None:
    with server() as own:
        own.run("ALTER SYSTEM SET full_page_writes = off")
        own.run("SELECT pg_reload_conf()")
        url, until = own.database(), time.monotonic() + 20
        while own.run("SHOW full_page_writes") != [("off",)] and time.monotonic() < until:
            time.sleep(0.05)
        found = [each for each in _looked(url, tmp_path) if "full_page_writes" in each.detail]
        assert [each.state for each in found] == [State.WARNING]

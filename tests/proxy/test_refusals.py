"""Refusals in the audit: no key in clear, and no more of strangers than a disk and its queue can bear."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from proxy import audit_cli, refusals
from proxy.accounts.secret import mint
from proxy.audit import Reader, Record
from proxy.audit_key import audit_key
from proxy.config import load as load_settings
from proxy.listener import Incoming
from proxy.metrics import Metrics
from proxy.refusals import BURST, Refusals
from tests.proxy.conftest import Make, Stand, standing
from tests.proxy.test_audit import FakeStore, intent, opened
from tests.proxy.test_console import browsing, made
from tests.upstream import replies

MANY = 10 * BURST


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def read(data: Path) -> list[Any]:
    with Reader(data / "audit.db") as log:
        return log.latest(10_000)


def totals(rows: list[Any]) -> Counter[str]:
    """Refusals by their code, as the records tell."""
    told = Counter[str]()
    for row in rows:
        told[row["detail"]] += row["times"] or 1
    return told


async def scraped(s: Stand) -> str:
    async with browsing_admin(s) as client:
        return str((await client.get("/metrics")).text)


def browsing_admin(s: Stand) -> Any:
    import httpx2

    return httpx2.AsyncClient(base_url=s.admin_url, timeout=20, trust_env=False)


@pytest.mark.parametrize("keyed", [True, False])
async def test_no_key_in_a_path_stands_in_the_audit_or_any_file(
    tmp_path: Path, keyed: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key in a URL is refused, or is asked for as a model's name: no file, page or line has it afterwards."""
    monkeypatch.setattr(refusals, "BURST", 1000)
    keys: dict[str, dict[str, Any]] | None = {"ci": {}} if keyed else None
    async with standing(tmp_path, None, {"open_routes": ["/v1/files"]}, keys) as s:
        key = s.keys.get("ci") or mint()
        s.upstream.reply = replies.json({"error": {"message": "no such thing"}}, status=404)
        spelled = [key, key.upper(), f"%70{key[1:]}", f"%2570{key[1:]}", "".join(f"%{ord(c):02x}" for c in key)]
        for name in spelled:
            for path in (f"/v1/models/{name}", f"/{name}/v1/chat/completions", f"/v1/files/{name}", f"/x?k={name}"):
                for headers in ({}, bearer(key), bearer(mint())):
                    answer = await s.client.get("/", headers=headers, extensions={"target": path.encode()})
                    assert answer.status_code in {400, 401, 403, 404}, path
        body = {"model": key, "messages": [{"role": "user", "content": "Hi"}]}
        await s.client.post("/v1/chat/completions", json=body, headers=bearer(key))
        rows = await s.rows()
        page = await scraped(s)
    assert len(rows) == 61
    assert not any(row["times"] for row in rows)
    assert any(row["path"] == "/v1/models/penstock_…" for row in rows)
    assert any(row["model"] == "penstock_…" for row in rows)
    shown = capfd.readouterr()
    texts = [page, shown.out, shown.err, *(repr((row.intent, row.outcome)) for row in rows)]
    texts += [each.read_bytes().decode("latin-1") for each in (tmp_path / "data").rglob("*") if each.is_file()]
    for secret in (key[9:], key[9:].upper(), "".join(f"%{ord(c):02x}" for c in key[9:])):
        assert not any(secret in text for text in texts)


FLOODS: dict[str, tuple[bool, str, dict[str, str], str]] = {
    "nobody": (True, "/v1/chat/completions", {}, "invalid_api_key"),
    "a made-up key": (True, "/v1/models", bearer("penstock_x"), "invalid_api_key"),
    "two keys": (True, "/x", {**bearer("a"), "x-api-key": "b"}, "ambiguous_credentials"),
    "no keys are asked for": (False, "/nowhere", bearer("sk-made-up"), "unknown_url"),
}


@pytest.mark.parametrize(("keyed", "path", "headers", "code"), FLOODS.values(), ids=FLOODS.keys())
async def test_a_flood_of_strangers_is_told_in_a_few_records(
    stand: Make, keyed: bool, path: str, headers: dict[str, str], code: str
) -> None:
    async with stand(keys={"ci": {}} if keyed else None) as s:
        began = asyncio.get_running_loop().time()
        answers = [await s.client.get(path, headers=headers) for _ in range(MANY)]
        lasted = asyncio.get_running_loop().time() - began
        data = s.data
        assert f'penstock_requests_refused_total{{code="{code}"}} {MANY}.0' in await scraped(s)
        outcome = 'penstock_exchanges_total{dialect="none",model="other",outcome="refused"}'
        assert f"{outcome} {MANY}.0" in await scraped(s)
    rows = read(data)  # the end has written what was gathered
    assert totals(rows) == {code: MANY}
    assert BURST < len(rows) <= BURST + 1 + (refusals.RATE + 1) * (lasted + 1)
    assert {answer.headers["x-request-id"] for answer in answers} == {row.id for row in rows}
    many = [row for row in rows if row["times"]]
    assert many
    for row in many:
        assert (row["method"], row["path"], row["status"]) == ("GET", path, "refused")
        assert row["answered"] == answers[0].status_code
        assert 0 <= row["seconds"] <= lasted + 2


async def test_what_a_customer_asks_in_vain_is_a_record_each(stand: Make) -> None:
    async with stand(keys={"ci": {}}) as s:
        for number in range(2 * BURST):
            assert (await s.client.get(f"/v1/no{number}", headers=bearer(s.keys["ci"]))).status_code == 404
        rows = await s.rows()
        assert {(row["path"], row["account"], row["times"]) for row in rows} == {
            (f"/v1/no{number}", "ci", None) for number in range(2 * BURST)
        }


async def test_each_code_is_counted_by_itself_and_what_differs_is_not_said(
    stand: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "BURST", 0)
    monkeypatch.setattr(refusals, "RATE", 0.0)
    async with stand() as s:
        for number in range(6):
            await s.client.get(f"/v1/no{number}", headers=bearer(f"k{number}"))
            await s.client.delete("/v1/chat/completions")
        await s.client.get("/v1/files/x")
        data = s.data
    rows = read(data)
    assert totals(rows) == {"unknown_url": 6, "method_not_allowed": 6, "route_closed": 1}
    told = {row["detail"]: (row["account"], row["method"], row["path"], row["answered"]) for row in rows}
    assert told["unknown_url"] == (None, None, None, 404)
    assert told["route_closed"] == ("anonymous", "GET", "/v1/files/x", 404)
    assert told["method_not_allowed"][0] == "anonymous"


async def test_what_was_gathered_is_told_within_a_second_or_so(stand: Make) -> None:
    async with stand() as s:
        for _ in range(2 * BURST):
            await s.client.get("/nowhere")
        async with asyncio.timeout(20):
            while totals(await s.rows()) != {"unknown_url": 2 * BURST}:
                await asyncio.sleep(0.05)


async def test_the_chain_and_those_who_read_it_take_such_records(stand: Make, tmp_path: Path) -> None:
    async with stand() as s:
        for _ in range(3 * BURST):
            await s.client.get("/nowhere")
        path, data = s.data / "audit.db", s.data
        async with browsing(made(s)) as browser:
            async with asyncio.timeout(20):
                while not any(row["times"] for row in await s.rows()):
                    await asyncio.sleep(0.05)
            found = next(row for row in await s.rows() if row["times"])
            words = f"refused ({found['times']:,} times)"
            assert words in (await browser.get("/")).text
            assert str(found["times"]) in (await browser.get(f"/decisions/{found.id}")).text
    with Reader(path) as log:
        key = audit_key(load_settings(None, upstream="http://127.0.0.1:1", data_dir=data))
        assert log.verify(key).broken is None

    def run(*args: object) -> str:
        result = CliRunner().invoke(audit_cli.app, [*map(str, args), "--path", str(path)])
        assert result.exit_code == 0, result.output
        return result.stdout

    line = next(line for line in run("tail", "-n", 1000).splitlines() if found.id in line)
    assert line.endswith(f"-  -  -  {words}")
    assert found.id in run("tail", "-n", 1000, "--error", "unknown_url", "--status", "refused")
    assert str(found["times"]) in run("show", found.id)
    to = tmp_path / "out.jsonl"
    run("export", "--to", to)
    rows = [json.loads(line) for line in to.read_text().splitlines()]
    assert sum(row["times"] for row in rows) == 3 * BURST
    assert "times" not in rows[0]["body"]


def asked(path: bytes) -> Incoming:
    return Incoming(b"GET", path, [], True)


async def test_strangers_leave_room_for_exchanges() -> None:
    """With a disk that stands still: half of the queue is theirs at most, and nothing of theirs is lost."""
    store = FakeStore()
    async with opened(store, capacity=16) as audit:
        store.gate.clear()
        told = Refusals(audit, Metrics(), lambda: "r1")
        for _ in range(100):
            told.take(asked(b"/x"), 401, "invalid_api_key", "anonymous", known=False)
        assert audit.waiting == 8
        assert audit.healthy
        told._tell()  # as its timer does: there is no room yet
        exchanges = [audit.submit(intent()) for _ in range(8)]
        store.gate.set()
        await asyncio.gather(*exchanges)
        told.close()
        assert audit.lost == 0
    times = [json.loads(entry[4]).get("times", 1) for entry in store.rows if entry[2] == "outcome"]
    assert sum(times) == 100
    assert len(times) == 9


async def test_while_the_audit_takes_nothing_strangers_are_counted() -> None:
    store = FakeStore()
    async with opened(store, capacity=4) as audit:
        store.gate.clear()
        while audit.healthy:
            audit.append(intent())
        lost = audit.lost
        told = Refusals(audit, Metrics(), lambda: "r1")
        for _ in range(7):
            told.take(None, 408, "request_timeout", "anonymous", known=False)
        told._tell()
        assert audit.lost == lost
        told.close()  # the end has come, and there is no room
        assert audit.lost == lost + 7


class Log:
    """An audit that takes all, or nothing at the moment."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.roomy, self.lost = True, 0

    def append(self, record: Record) -> bool:
        self.records.append(record)
        return True


STEPS = st.lists(
    st.tuples(st.just("refuse"), st.integers(1, 30), st.sampled_from([401, 404]), st.sampled_from("ab"), st.booleans())
    | st.tuples(st.just("wait"), st.floats(0, 5))
    | st.tuples(st.just("tell"))
    | st.tuples(st.just("room"), st.booleans()),
    max_size=30,
)


@given(STEPS)
def test_the_totals_are_right_and_the_records_few(steps: list[tuple[Any, ...]]) -> None:
    clock, log = [0.0], Log()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proxy.refusals.time.monotonic", lambda: clock[0])
        told = Refusals(log, Metrics(), lambda: "r1")  # type: ignore[arg-type]
        patch.setattr(told, "_later", lambda: None)
        counted, ids, known = Counter[tuple[int, str]](), set[str](), 0
        most = float(BURST)
        for name, *values in steps:
            if name == "refuse":
                times, status, code, is_known = values
                for _ in range(times):
                    ids.add(told.take(asked(b"/x"), status, code, "a", known=is_known))
                counted[status, code] += times
                known += times if is_known else 0
            elif name == "wait":
                clock[0] += values[0]
                most += values[0] * refusals.RATE
            elif name == "tell":
                told._tell()
                most += 4
            else:
                log.roomy = values[0]
        told.close()
    bodies = [record.body for record in log.records]
    found = Counter[str]()
    for body in bodies:
        found[body["detail"]] += body.get("times", 1)
    expected = Counter[str]()
    for (_, code), times in counted.items():
        expected[code] += times
    assert found == expected
    assert ids == {record.id for record in log.records}
    assert len(bodies) <= known + most + 4

"""Several workers: one Penstock to whoever asks, whatever happens to any of them."""

from __future__ import annotations

import asyncio
import json
import marshal
import os
import signal
import socket
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from proxy.accounts.file import KeyFile
from proxy.audit import Key, Reader
from proxy.keeper import Keeper
from proxy.policy_store import Store
from proxy.tally import Counter as Count
from proxy.tally import Gauge, Histogram
from proxy.workers.accept import Load
from proxy.workers.crew import Crew
from tests.proxy import endure
from tests.proxy.conftest import DEFAULTS, RULES
from tests.proxy.endure import address, revisions
from tests.proxy.keyring import give
from tests.proxy.served import Served, command, served
from tests.servers.postgres import Postgres
from tests.upstream import Upstream, replies, shapes

FIRST = RULES.format(**DEFAULTS)
SECOND = FIRST.replace("kind: canary, inline", "kind: canary, word: ODD, inline", 1)


def client(s: Served) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=64, max_keepalive_connections=0)
    return httpx2.AsyncClient(base_url=s.url, trust_env=False, timeout=30, limits=limits)


async def chat(c: httpx2.AsyncClient, text: str = "Hi") -> int:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return (await c.post("/v1/chat/completions", json=body)).status_code


def whole(s: Served) -> dict[str, Any]:
    """Every exchange by its id, once the chain was found whole."""
    with Reader(s.data / "audit.db") as log:
        verdict = log.verify(Key.load(s.data / "audit.key", create=False))
        assert verdict.broken is None, verdict
        return {exchange.id: exchange for exchange in log.latest(1_000_000)}


async def end(s: Served) -> int:
    s.process.terminate()
    return await asyncio.wait_for(s.process.wait(), 30)


async def test_one_penstock_to_whoever_asks(tmp_path: Path) -> None:
    async with Upstream() as upstream, served(tmp_path, upstream.url, workers=3) as s, client(s) as c:
        assert len(s.children()) == 3
        (line,) = s.said("serving")
        assert (line["workers"], len(line["revision"])) == (3, 12)
        said = Counter(await asyncio.gather(*(chat(c, "MARK" if n % 4 == 0 else "Hi") for n in range(80))))
        assert said == {200: 60, 400: 20}
        metrics = await s.metrics(c)
        assert sum(value for name, value in metrics.items() if name.startswith("penstock_exchanges_total")) == 80
        assert metrics['penstock_workers{state="serving"}'] == metrics['penstock_workers{state="wanted"}'] == 3
        assert revisions(metrics) == {str(n): {line["revision"]} for n in range(3)}
        assert metrics["process_open_fds"] > 30  # of all four processes
        assert await s.ready(c) == {}
        assert (await c.get(s.admin + "/livez")).json() == {"status": "alive"}
        assert (await c.get(s.admin + "/readyz")).json()["upstreams"] == {"upstream": "answers"}
        assert await end(s) == 0
        assert len(whole(s)) == 80
        assert not [each for each in s.lines if each["level"] == "error"]


async def test_connections_are_spread(tmp_path: Path) -> None:
    async with Upstream() as upstream, served(tmp_path, upstream.url, workers=3) as s:
        before = {pid: sockets(pid) for pid in s.children()}
        pairs = await asyncio.gather(*(asyncio.open_connection(*address(s)) for _ in range(60)))
        try:
            await s.until(lambda: sum(sockets(pid) - before[pid] for pid in before) == 60)
            held = sorted(sockets(pid) - before[pid] for pid in before)
            assert held[0] >= 10, held
        finally:
            for _, writer in pairs:
                writer.transport.abort()


def sockets(pid: int) -> int:
    names = []
    for file in os.listdir(f"/proc/{pid}/fd"):
        try:
            names.append(os.readlink(f"/proc/{pid}/fd/{file}"))
        except FileNotFoundError:
            continue
    return sum(name.startswith("socket:") for name in names)


async def test_a_worker_that_dies_is_replaced_and_what_it_counted_stays(tmp_path: Path) -> None:
    async with Upstream() as upstream, served(tmp_path, upstream.url, workers=2) as s, client(s) as c:
        await asyncio.gather(*(chat(c) for _ in range(20)))
        before = await s.metrics(c)
        for victim in s.children():
            os.kill(victim, signal.SIGKILL)
        await s.until(lambda: len(s.said("a worker serves again")) == 2)
        after = await s.metrics(c)
        assert all(after[name] >= value for name, value in before.items() if name.startswith("penstock_exchanges_tot"))
        assert after['penstock_worker_ends_total{how="signal"}'] == 2
        lines = s.said("a worker ended, another takes its place")
        assert [line["worker"] for line in lines] in ([0, 1], [1, 0])
        assert {line["ended"] for line in lines} == {"SIGKILL"}
        assert "memory" in lines[0]["mend"]
        assert await chat(c) == 200
        assert await s.ready(c) == {}
        pids = sorted(s.children())
        shown = await asyncio.to_thread(command, "policy", "status", "--json", "--data-dir", str(s.data))
        assert sorted(each["pid"] for each in json.loads(shown.stdout)["processes"]) == pids
        assert len(list((s.data / "policies" / "serving").glob("*.json"))) == 2


async def test_a_worker_that_starts_again_knows_the_keys_that_the_others_know(tmp_path: Path) -> None:
    """Whatever became of their file; and none that was revoked meanwhile."""
    data = tmp_path / "data"
    kept, lost = give(data, "kept"), give(data, "lost")
    (ended,) = [each.id for each in KeyFile(data / "keys.json").read() if each.name == "lost"]
    keys = {"credentials": "keys", "upstream_key": "sk-ours"}
    async with Upstream() as upstream, served(tmp_path, upstream.url, workers=2, settings=keys) as s, client(s) as c:

        async def ask(key: str) -> set[int]:
            body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
            headers = {"authorization": f"Bearer {key}", "connection": "close"}
            asked = [c.post("/v1/chat/completions", json=body, headers=headers) for _ in range(12)]
            return {answer.status_code for answer in await asyncio.gather(*asked)}

        assert await ask(kept) == await ask(lost) == {200}
        (data / "keys.json").write_text("{")
        KeyFile(data / "keys.json").revoke(ended, time.time())
        for victim in s.children():
            os.kill(victim, signal.SIGKILL)
        await s.until(lambda: len(s.said("a worker serves again")) == 2)
        assert (await ask(kept), await ask(lost)) == ({200}, {401})
        await s.until(
            lambda: {each["worker"] for each in s.said("part is not well") if each["part"] == "keys"} == {0, 1}
        )
    async with served(tmp_path, upstream.url, workers=2, settings=keys) as s:  # all of it, started anew
        assert not s.said("serving")
        assert any("the keys cannot be read" in line.get("text", "") for line in s.lines)


async def test_it_ends_with_what_it_has_begun(tmp_path: Path) -> None:
    """P11, with several workers: all is answered, nobody new is let in."""
    hold = asyncio.Event()
    reply = [hold, *replies.json(shapes.completion("Fine."))]
    async with Upstream(reply) as upstream, served(tmp_path, upstream.url, workers=2) as s, client(s) as c:
        asked = [asyncio.create_task(chat(c)) for _ in range(12)]
        await upstream.arrived(12)
        s.process.terminate()
        await s.until(lambda: s.said("draining"))
        assert await s.ready(c) == {"drain": "this process is about to end"}
        await s.until(lambda: refuses(address(s)))
        hold.set()
        assert await asyncio.gather(*asked) == [200] * 12
        assert await asyncio.wait_for(s.process.wait(), 30) == 0
    assert {each.outcome["status"] for each in whole(s).values()} == {"released"}


def refuses(where: tuple[str, int]) -> bool:
    try:
        socket.create_connection(where, timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_second_signal_ends_at_once(tmp_path: Path, workers: int) -> None:
    never = [asyncio.Event()]
    more = {"drain_timeout": 300}
    async with (
        Upstream(never) as upstream,
        served(tmp_path, upstream.url, workers=workers, settings=more) as s,
        client(s) as c,
    ):
        asked = asyncio.create_task(chat(c))
        await upstream.arrived()
        s.process.terminate()
        await s.until(lambda: s.said("draining"))
        s.process.terminate()
        async with asyncio.timeout(60):  # of three hundred for what is in flight
            await s.process.wait()
        with pytest.raises(httpx2.HTTPError):
            await asked


async def test_workers_end_when_nobody_leads_them(tmp_path: Path) -> None:
    hold = asyncio.Event()
    reply = [hold, *replies.json(shapes.completion("Fine."))]
    async with Upstream(reply) as upstream, served(tmp_path, upstream.url, workers=2) as s, client(s) as c:
        workers = s.children()
        asked = asyncio.create_task(chat(c))
        await upstream.arrived()
        s.process.kill()
        await s.until(lambda: len(s.said("the supervisor is gone")) == 2)
        await s.until(lambda: refuses(address(s)))  # the next one finds the port free
        hold.set()
        assert await asked == 200
        await s.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert len(whole(s)) == 1


async def test_a_worker_that_hangs_is_killed(tmp_path: Path) -> None:
    patched = {"proxy.workers.crew.PATIENCE": 0.1, "proxy.workers.crew.HUNG": 0.5}
    async with Upstream() as upstream, served(tmp_path, upstream.url, workers=2, patched=patched) as s, client(s) as c:
        os.kill(s.children()[0], signal.SIGSTOP)
        await s.until(lambda: s.said("a worker serves again"))
        assert s.said("a worker does not answer")
        assert (await s.metrics(c))['penstock_worker_ends_total{how="hung"}'] == 1
        assert await s.ready(c) == {}


async def test_workers_share_a_database(postgres: Postgres, tmp_path: Path) -> None:
    """The audit in PostgreSQL: the workers' writers stand in one chain, and a killed one's exchanges are in it."""
    there = {"audit_database": postgres.emptied()}
    async with (
        Upstream() as upstream,
        served(tmp_path, upstream.url, workers=2, settings=there) as s,
        client(s) as c,
    ):
        assert set(await asyncio.gather(*(chat(c) for _ in range(20)))) == {200}
        os.kill(s.children()[0], signal.SIGKILL)
        await s.until(partial(told_again, s, 1))
        assert set(await asyncio.gather(*(chat(c) for _ in range(20)))) == {200}
        assert await end(s) == 0
    with Reader(there["audit_database"], s.data / "audit-database-head") as log:
        verdict = log.verify(Key.load(s.data / "audit.key", create=False))
        assert verdict.broken is None, verdict
        assert len(list(log.latest(100))) == 40


# The policy


async def test_all_workers_come_to_one_policy(tmp_path: Path) -> None:
    async with Upstream() as upstream, served(tmp_path, upstream.url, workers=3) as s, client(s) as c:
        first = s.said("serving")[0]["revision"]
        s.policy.write_text(SECOND)
        s.process.send_signal(signal.SIGHUP)
        await s.until(lambda: len(s.said("policy loaded")) == 3)
        second = s.said("policy loaded")[0]["revision"]
        assert revisions(await s.metrics(c)) == {str(n): {second} for n in range(3)}
        s.policy.write_text(FIRST)
        told = await c.post(s.admin + "/policy/reload")
        assert (told.status_code, told.json()["revision"]) == (200, first)
        s.policy.write_text("rules: [")
        told = await c.post(s.admin + "/policy/reload")
        assert (told.status_code, told.json()["revision"]) == (409, first)
        assert "policy.yaml:1" in told.json()["last_failure"]["problem"]
        assert revisions(await s.metrics(c)) == {str(n): {first} for n in range(3)}
        # Who starts again enforces what the others do, whatever stands in the file by now.
        for text in ("rules: [", SECOND):
            s.policy.write_text(text)
            again = len(s.said("a worker serves again")) + 1
            os.kill(s.children()[0], signal.SIGKILL)
            await s.until(partial(told_again, s, again))
            assert revisions(await s.metrics(c)) == {str(n): {first} for n in range(3)}
        data = ("--data-dir", str(s.data))
        done = await asyncio.to_thread(command, "policy", "rollback", *data)
        assert done.returncode == 0, done
        await s.until(lambda: len(s.said("policy loaded")) >= 9)
        assert revisions(await s.metrics(c)) == {str(n): {second} for n in range(3)}


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_policy_that_is_to_be_loaded_while_it_starts(tmp_path: Path, workers: int) -> None:
    """SIGHUP before it serves ends nobody, and is heeded: what was read first may be the file as it was."""

    async def hurry() -> None:
        key, config = tmp_path / "data" / "audit.key", str(tmp_path / "penstock.yaml").encode()
        while not key.exists():
            await asyncio.sleep(0.005)
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        (pid,) = [int(each) for each in children if config in Path(f"/proc/{each}/cmdline").read_bytes()]
        os.kill(pid, signal.SIGHUP)

    hurrying = asyncio.create_task(hurry())
    async with Upstream() as upstream, served(tmp_path, upstream.url, workers=workers) as s:
        await hurrying
        await s.until(lambda: s.said("policy loaded"))


def told_again(s: Served, times: int) -> bool:
    return len(s.said("a worker serves again")) == times


async def test_workers_begin_with_the_last_good_policy(tmp_path: Path) -> None:
    """P3: all with the same one, also who starts again; and all with the mended file, though nobody says so."""
    path = tmp_path / "policy.yaml"
    path.write_text(FIRST)
    before = Keeper(Store(tmp_path / "data" / "policies"), str(path))
    await before.enforced(await before.load())
    settings = {"on_broken_policy": "last_good"}
    async with (
        Upstream() as upstream,
        served(tmp_path, upstream.url, workers=2, policy="rules: [", settings=settings) as s,
        client(s) as c,
    ):
        assert s.said("serving")[0]["revision"] == before.revision
        os.kill(s.children()[0], signal.SIGKILL)
        await s.until(partial(told_again, s, 1))
        assert revisions(await s.metrics(c)) == {str(n): {before.revision} for n in range(2)}
        await s.until(lambda: {line["worker"] for line in s.said("part is not well")} == {0, 1})
        assert {line["state"] for line in s.said("part is not well")} == {"refused"}
        s.policy.write_text(SECOND)
        await s.until(lambda: s.said("policy loaded"))
        second = s.said("policy loaded")[0]["revision"]
        await s.until(lambda: len(s.said("policy loaded")) == 2)
        assert revisions(await s.metrics(c)) == {str(n): {second} for n in range(2)}


async def test_reloads_under_load_with_four_workers(tmp_path: Path) -> None:
    """T51, P3: truncated, invalid, empty and swapped files; each row names one revision that was whole, and what was
    done is what that revision does."""
    found = await endure.reloads(tmp_path, 60)
    assert found.seen > 60
    assert (found.lost, found.broken, found.open) == (0, "", 0)
    assert found.more["wrong"] == []


# Starting


async def test_it_does_not_start_with_half(tmp_path: Path) -> None:
    """What is wrong is said once, in a line, and nothing stays behind."""
    (tmp_path / "file").write_text("")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"policy": str(tmp_path / "none.yaml")}, "none.yaml"),
        ({"data_dir": str(tmp_path / "file" / "below")}, "cannot be used"),
        ({"upstream": ""}, "--upstream"),
    ]
    for settings, words in wrong:
        async with served(tmp_path, "http://127.0.0.1:9", workers=3, settings=settings) as s:
            assert await asyncio.wait_for(s.process.wait(), 30) == 1
            await s.until(partial(len, s.lines))
            (line,) = [each for each in s.lines if each["event"] == "plain"]
            assert line["text"].startswith("penstock: ")
            assert words in line["text"]


async def test_a_worker_that_cannot_start_again_is_tried_later(tmp_path: Path) -> None:
    async with Upstream() as upstream, served(tmp_path, upstream.url, workers=2) as s, client(s) as c:
        key = (s.data / "audit.key").read_text()
        (s.data / "audit.key").write_text("")
        os.kill(s.children()[0], signal.SIGKILL)
        await s.until(lambda: len(s.said("a worker could not start")) >= 2)
        first, second, *_ = s.said("a worker could not start")
        assert "key" in first["problem"]
        assert second["again_in"] >= first["again_in"]
        metrics = await s.metrics(c)
        assert (metrics['penstock_workers{state="serving"}'], metrics['penstock_workers{state="wanted"}']) == (1, 2)
        assert await chat(c) == 200  # the other one serves
        (s.data / "audit.key").write_text(key)
        await s.until(lambda: s.said("a worker serves again"))
        assert (await s.metrics(c))['penstock_workers{state="serving"}'] == 2


# What the crew decides, without processes


class Said:
    """A line to a worker that reports a revision and does what it can of what it is told."""

    def __init__(self, revision: str, follows: bool) -> None:
        self.revision, self.follows = revision, follows
        self.asked: list[tuple[str, Any]] = []

    async def ask(self, word: str, value: Any = None, within: float = 5.0) -> Any:
        self.asked.append((word, value))
        if word == "follow" and self.follows:
            self.revision = value[""]
        return {"figures": {}, "revisions": {"": self.revision}, "states": {}} if word == "report" else self.follows


def made(crew: Crew, lines: list[Said]) -> None:
    for worker, line in zip(crew.workers, lines, strict=True):
        worker.line = line  # type: ignore[assignment]
        crew._heard(worker, "serving", {"figures": {}, "revisions": {"": line.revision}, "states": {}})


async def look(crew: Crew) -> None:
    for worker in crew.workers:
        assert worker.line is not None
        await crew._look(worker, worker.line)


@pytest.mark.parametrize("follows", [True, False])
async def test_a_worker_astray_is_led_back_or_replaced(monkeypatch: pytest.MonkeyPatch, follows: bool) -> None:
    now = 100.0
    monkeypatch.setattr("proxy.workers.crew.time.monotonic", lambda: now)
    crew = Crew(3, lambda worker: None, lambda worker: None)
    lines = [Said("a", follows) for _ in range(3)]
    made(crew, lines)
    await look(crew)
    assert crew.revisions == {"": "a"}
    for line in lines[:2]:
        line.revision = "b"  # a load that the third one missed
    await look(crew)
    assert crew.revisions == {"": "b"}
    now += 0.5
    await look(crew)
    assert lines[2].asked[-1][0] == "report"  # it may still be loading
    now += 1.0
    await look(crew)
    assert lines[2].asked[-1] == ("follow", {"": "b"})
    now += 4.0
    await look(crew)
    assert [worker.told for worker in crew.workers] == [False, False, not follows]
    assert crew.workers[2].how == ("" if follows else "diverged")
    assert {worker.number for worker in crew.serving} == ({0, 1, 2} if follows else {0, 1})


async def test_one_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.workers.crew.LOOK", 0.01)
    crew = Crew(1, lambda worker: None, lambda worker: None, grace=0.3)
    stubborn = await asyncio.create_subprocess_exec("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done",
                                                    stdout=asyncio.subprocess.PIPE)  # fmt: skip
    assert stubborn.stdout is not None
    await stubborn.stdout.readline()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        (worker,) = crew.workers
        worker.begin(stubborn.pid)
        attending = asyncio.create_task(crew.attend(worker, ours))
        worker.end(how="diverged")
        assert await asyncio.wait_for(stubborn.wait(), 20) == -signal.SIGKILL
        worker.reaped = True
    await asyncio.wait_for(attending, 20)


async def test_one_that_starts_with_another_policy_does_not_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew(2, lambda worker: None, lambda worker: None)
    made(crew, [Said("a", True), Said("b", True)])
    assert crew.revisions == {"": "a"}


@pytest.mark.parametrize(
    ("said", "ready"),
    [
        ([{}, {}], {}),
        ([{"audit": "full"}, {"audit": "full"}], {"audit": "full"}),
        ([{}, {"audit": "full"}], {"worker 1: audit": "full"}),
        ([{}, None], {}),
        ([None, None], {"workers": "none of them answers"}),
    ],
)
async def test_readiness_is_that_of_all(said: list[dict[str, str] | None], ready: dict[str, str]) -> None:
    crew = Crew(2, lambda worker: None, lambda worker: None)
    for worker, answer in zip(crew.workers, said, strict=True):
        worker.serves = True

        class Ready:
            async def ask(self, *_: object, answer: object = answer) -> object:
                if answer is None:
                    raise TimeoutError
                return answer

        worker.line = Ready()  # type: ignore[assignment]
    assert await crew.ready() == ready


def test_none_serves_yet() -> None:
    crew = Crew(2, lambda worker: None, lambda worker: None)
    crew.workers[1].problem = "no key"
    assert asyncio.run(crew.ready()) == {"workers": "no key"}


def test_figures_add_up() -> None:
    counters = [Count("c", "", ("a",)) for _ in range(3)]
    gauges = [Gauge("g", "", ("a",), across=min) for _ in range(3)]
    times = [Histogram("h", "", (), (1, 2)) for _ in range(3)]
    for n in (0, 1):
        counters[n].inc("x", by=n + 1)
        counters[n].example((f"id{n}", 10.0 - n), "x")
        gauges[n].set(n, "x")
        times[n].observe(n + 0.5)
        times[n].example(n + 0.5, (f"id{n}", 10.0 - n))
    counters[1].inc("y")
    every: tuple[list[Any], ...] = (counters, gauges, times)
    for *parts, all_of_them in every:
        for each in parts:
            all_of_them.add(marshal.loads(marshal.dumps(each.dump())))
    (counted,) = counters[2].collect()
    assert {sample.labels["a"]: sample.value for sample in counted.samples} == {"x": 3, "y": 1}
    assert counted.samples[0].exemplar is not None
    assert counted.samples[0].exemplar.labels == {"decision_id": "id0"}
    (low,) = gauges[2].collect()
    assert [sample.value for sample in low.samples] == [0]
    (spread,) = times[2].collect()
    assert [sample.value for sample in spread.samples] == [1, 2, 2, 2, 2.0]


def test_who_holds_the_fewest_takes_the_next() -> None:
    load = Load(3)
    assert not load.tell(0, 5)  # nobody else is there
    assert not load.tell(1, 5)
    assert load.tell(1, 6)
    load.away(0)
    assert not load.tell(1, 6)

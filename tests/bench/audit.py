"""How dear the audit is to write, and how soon it answers: `python -m tests.bench.audit [--rows 1000000] [--postgres]`.

It fills a log with exchanges as the proxy writes them (two records each, one in thirty blocked), and asks for what is
common, rare and not there, from memory and (a file) from the disk. CPU is that of this process: the writer's for
writing, the reader's for the rest; that of PostgreSQL comes on top.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from proxy.audit import Key, Reader, Record
from proxy.audit.entry import Entry
from proxy.audit.export import write
from proxy.audit.postgres import PostgresStore
from proxy.audit.record import encode
from proxy.audit.search import Search
from proxy.audit.store import SqliteStore
from tests.servers.postgres import server

KEY = Key(b"bench" * 8)
BEGAN = 1.79e9
BATCH = 200
SEARCHES = {
    "the newest 20": Search(),
    "blocked for one account": Search(account="team-7", action="block"),
    "a rule that fired eight times": Search(rule="rare"),
    "a rule that never fired": Search(rule="none"),
    "what was in shadow": Search(mode="shadow"),
    "one hour, one model": Search(since=BEGAN, until=BEGAN + 3600, model="gpt-*", action="block"),
    "an account that never asked": Search(account="none"),
    "a model that nobody asked for": Search(model="none-*"),
    "a policy that never decided": Search(policy="none"),
    "a status that never was": Search(status="none"),
    "a stage where nothing fell": Search(stage="output", action="block"),
    "any error": Search(error="any"),
}


def exchanges(rows: int) -> Iterator[Entry]:
    chance = random.Random(1)
    every = max(1, rows // 16)
    for number in range(rows // 2):
        at = BEGAN + number / 20
        rule = "rare" if number % every == 0 else "no-codename" if chance.random() < 0.03 else None
        seen: dict[str, Any] = {"scores": {"guard.injection": round(chance.random(), 6)}, "role": "user"}
        seen |= {"rules": {rule: "block"}} if rule else {}
        body = {
            "account": f"team-{chance.randrange(50)}", "dialect": "chat", "method": "POST", "stream": True,
            "path": "/v1/chat/completions", "policy": "base" if rule else None, "revision": "abc123def456",
            "model": chance.choice(["gpt-4o-mini", "gpt-4o", "claude", "llama"]), "rule": rule, "input": seen,
            "action": "block" if rule else "pass", "stage": "input" if rule else None,
        }  # fmt: skip
        id = f"pn_{int(at * 1000):010x}{chance.getrandbits(64):016x}"
        yield encode(Record(id, "intent", at, body))
        end = {"status": "blocked" if rule else "released", "request": f"req_{chance.getrandbits(128):032x}"}
        times = {"input": 1.2, "upstream": 300.2, "total": 1200.5, "added": 2.2}
        yield encode(Record(id, "outcome", at + 1.2, {**body, **end, "upstream_status": 200, "milliseconds": times}))


def fill(store: SqliteStore | PostgresStore, rows: int) -> None:
    spent, batch = 0.0, list[Entry]()
    for entry in exchanges(rows):
        batch.append(entry)
        if len(batch) == BATCH:
            began = time.process_time()
            store.write(batch)
            store.tidy()
            spent += time.process_time() - began
            batch.clear()
    print(f"  written: {spent / rows * 1e6:.1f} us of CPU a record, {BATCH} a commit")
    store.close()


def timed(name: str, work: Callable[[], object]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    said = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"  {name}: {said}, {wall:.2f} s ({cpu:.2f} s of CPU)", flush=True)


def forgotten(where: str) -> bool:
    """Have the kernel forget what it holds of a file, as after a night: whether it is one."""
    if "://" in where:
        return False
    file = os.open(where, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)
    return True


def command(where: str, request: str) -> str:
    """As a person asks."""
    asked = [sys.executable, "-m", "proxy", "audit", "tail", "--path", where, "--request", request]
    said = subprocess.run(asked, capture_output=True, text=True, check=True)
    return f"{len(said.stdout.splitlines())} found"


def ask(where: str, folder: Path) -> None:
    with Reader(where) as log:
        oldest = log.latest(1, Search(until=BEGAN + 0.01))[0]["request"]
    for name, search in {**SEARCHES, "the upstream's id of the oldest": Search(request=oldest)}.items():
        for cold in (False, True):
            if cold and not forgotten(where):
                continue
            with Reader(where) as log:
                told = name + (", nothing of it in memory" if cold else "")
                timed(told, lambda log=log, search=search: f"{len(log.latest(20, search))} found")  # type: ignore[misc]
    forgotten(where)
    timed("penstock audit tail --request, the command as a whole", lambda: command(where, oldest))
    for form in ("jsonl", "parquet"):
        with Reader(where) as log:
            timed(f"export {form}", lambda log=log, form=form: f"{write(log.walk(), folder / form, form):,}")  # type: ignore[misc]
    with Reader(where) as log:
        timed("verify", lambda: f"{log.verify(KEY).rows:,} rows")
    print(f"  largest memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.audit")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--postgres", action="store_true", help="In PostgreSQL instead of SQLite.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        print(f"{'PostgreSQL' if given.postgres else 'SQLite'}, {given.rows:,} records")
        if given.postgres:
            where = stack.enter_context(server()).database()
            fill(PostgresStore.open(where, KEY.seal), given.rows)
        else:
            where = str(Path(folder) / "audit.db")
            fill(SqliteStore.open(where, KEY.seal), given.rows)
        ask(where, Path(folder))


if __name__ == "__main__":
    main()

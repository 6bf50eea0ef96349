"""What the supervisor knows of its workers, and says for all of them: ready or not, what was counted, which policy.

A worker is asked each second. One that did not come to the revision that others have come to is told which one; five
seconds after they had, it is ended and another takes its place. One that has not answered for a minute is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from ..logs import get_logger, lost_lines
from .figures import Figures, Page, Past
from .line import Line

log = get_logger("penstock.workers")

LOOK = 1.0
"""Seconds between two questions to a worker."""
PATIENCE = 4.0
"""Seconds for an answer: less than a probe waits for ours."""
HUNG = 60.0
"""Seconds without an answer after which a worker is killed."""
CONVERGE = 5.0
"""Seconds for a worker to enforce what others enforce."""
UNASKED = frozenset({"not asked yet"})
LOADING = 300.0
"""Seconds for a policy to be loaded, and for a worker to come to serve."""


class Worker:
    """One place, and the process that has it. `pid` is 0 where none does, `last` that of the last one; `serves` once it
    said so."""

    def __init__(self, number: int) -> None:
        self.number, self.pid, self.last, self.pause, self.since = number, 0, 0, 0.0, 0.0
        self.line: Line | None = None
        self.serves = self.told = self.reaped = self.lost = False
        self.how = self.problem = ""
        self.answered = self.ending = 0.0
        self.figures: Figures = {}
        self.revisions: dict[str, str] = {}
        self.states: dict[str, dict[str, str]] = {}
        self.status = 0

    def begin(self, pid: int) -> None:
        """A process was started for this place."""
        self.pid = self.last = pid
        self.since = self.answered = time.monotonic()
        self.serves = self.told = self.reaped = self.lost = False
        self.how = self.problem = ""
        self.revisions = {}

    def take(self, report: dict[str, Any]) -> None:
        """What it said of itself."""
        self.answered = time.monotonic()
        self.figures, self.revisions, self.states = report["figures"], report["revisions"], report["states"]

    def end(self, number: int = signal.SIGTERM, how: str = "") -> None:
        """Tell it to end. `how` is what is counted, where it is to blame."""
        if not self.told:
            self.ending = time.monotonic()
        self.told, self.how = True, self.how or how
        if self.pid and not self.reaped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Crew:
    """All workers. `changed` is called with one that began to serve, and `ended` with one whose process is gone. One
    that was told to end may take `grace` seconds."""

    def __init__(
        self, size: int, changed: Callable[[Worker], None], ended: Callable[[Worker], None], grace: float = 40.0
    ) -> None:
        self.workers = [Worker(number) for number in range(size)]
        self.past = Past()
        self.target: dict[str, tuple[str, float]] = {}
        """What is to be in force by the policy's name, and since when (monotonic)."""
        self.draining = False
        self._changed, self._ended, self._grace = changed, ended, grace

    @property
    def serving(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.serves and not worker.told]

    @property
    def revisions(self) -> dict[str, str]:
        """What a new worker has to enforce."""
        return {name: revision for name, (revision, _) in self.target.items()}

    # ---- one worker

    async def attend(self, worker: Worker, sock: socket.socket) -> None:
        """Listen to a worker that has just been forked, and ask it, until it is gone."""

        def lost() -> None:
            worker.lost = True
            self._over(worker)

        line = Line(None, lambda word, value: self._heard(worker, word, value), lost)
        worker.line = line
        await line.over(sock)
        while not worker.lost:
            await asyncio.sleep(LOOK)
            if worker.serves and not worker.lost:
                await self._look(worker, line)
            now = time.monotonic()
            if worker.told and now - worker.ending > self._grace:
                worker.end(signal.SIGKILL)
            elif not worker.serves and now - worker.since > LOADING:
                log.error("a worker does not come to serve", worker=worker.number, pid=worker.pid)
                worker.end(signal.SIGKILL, "hung")

    def reaped(self, pid: int, status: int) -> None:
        """A child of this process has ended."""
        for worker in self.workers:
            if worker.pid == pid:
                worker.reaped, worker.status = True, os.waitstatus_to_exitcode(status)
                self._over(worker)

    def _over(self, worker: Worker) -> None:
        """What it said last is read, and it is dead."""
        if worker.reaped and worker.lost and worker.pid:
            worker.pid = 0
            worker.serves = False
            self.past.add(worker.figures)
            worker.figures = {}
            self._ended(worker)

    def _heard(self, worker: Worker, word: str, value: Any) -> None:
        if word == "failed":
            worker.problem = value
            return
        worker.take(value)
        if word == "serving":
            worker.serves = True
            self._aim(worker, {})
            self._changed(worker)

    async def _look(self, worker: Worker, line: Line) -> None:
        before = worker.revisions
        try:
            worker.take(await line.ask("report", within=PATIENCE))
        except ConnectionError:
            return
        except TimeoutError:
            silent = time.monotonic() - worker.answered
            log.warning("a worker does not answer", worker=worker.number, pid=worker.pid, seconds=round(silent))
            if silent > HUNG:
                worker.end(signal.SIGKILL, "hung")
            return
        self._aim(worker, before)
        await self._lead(worker, line)

    def _aim(self, worker: Worker, before: dict[str, str]) -> None:
        """Where a worker came to another revision, all shall come to it."""
        for name, revision in worker.revisions.items():
            moved = name not in self.target or before.get(name, revision) != revision
            if moved and self.target.get(name, ("", 0.0))[0] != revision:
                self.target[name] = revision, time.monotonic()

    async def _lead(self, worker: Worker, line: Line) -> None:
        """To what others enforce; after five seconds a worker that does not is ended."""
        astray = {
            name: self.target[name]
            for name, revision in worker.revisions.items()
            if name in self.target and self.target[name][0] != revision
        }
        if not astray or worker.told:
            return
        late = time.monotonic() - min(since for _, since in astray.values())
        if late > CONVERGE:
            log.error(
                "a worker does not enforce what others do, and is replaced",
                worker=worker.number,
                pid=worker.pid,
                revisions=worker.revisions,
                others=self.revisions,
                mend="the lines above say why it could not load the policy",
            )
            worker.end(signal.SIGTERM, "diverged")
        elif late > LOOK:
            try:
                await line.ask("follow", {name: revision for name, (revision, _) in astray.items()}, PATIENCE)
            except (TimeoutError, ConnectionError):
                return

    # ---- all of them

    async def ready(self) -> dict[str, str]:
        """What is not ready, and why; what only some workers lack says which."""
        if self.draining:
            return {"drain": "this process is about to end"}
        asked = self.serving
        if not asked:
            return {"workers": next((each.problem for each in self.workers if each.problem), "none serves yet")}
        said = zip(asked, await self.ask("ready", asked), strict=True)
        known = {worker: missing for worker, missing in said if missing is not None}
        if not known:
            return {"workers": "none of them answers"}
        found: dict[str, str] = {}
        for worker, missing in known.items():
            for name, why in missing.items():
                everywhere = all(name in other for other in known.values())
                found.setdefault(name if everywhere else f"worker {worker.number}: {name}", why)
        return found

    async def reload(self) -> tuple[bool, dict[str, Any]]:
        """Have every worker load the policy: whether all could, and what is in force."""
        asked = self.serving
        said = [answer for answer in await self.ask("reload", asked, LOADING) if answer is not None]
        refused = [state for well, state in said if not well]
        well = bool(said) and not refused and len(said) == len(asked)
        states = refused or [state for _, state in said]
        return well, dict(states[0]) if states else {"last_failure": {"problem": "no worker answers"}}

    def states(self) -> dict[str, dict[str, str]]:
        """Of all that is outside, the state in each worker: said once where they agree."""
        found: dict[str, dict[str, set[str]]] = {"upstreams": {}, "parts": {}}
        for worker in self.serving:
            for kind, states in worker.states.items():
                for name, state in states.items():
                    found[kind].setdefault(name, set()).add(state)
        return {
            kind: {name: ", ".join(sorted(said - UNASKED or said)) for name, said in names.items()}
            for kind, names in found.items()
        }

    async def page(self, accept: bytes) -> tuple[str, bytes]:
        """Content type and text of the metrics of all."""
        asked = self.serving
        for worker, report in zip(asked, await self.ask("report", asked), strict=True):
            if report is not None and worker.pid:
                before = worker.revisions
                worker.take(report)
                self._aim(worker, before)
        now = [worker.figures for worker in self.workers if worker.figures]
        pids = [os.getpid(), *(worker.pid for worker in self.workers if worker.serves and worker.pid)]
        page = Page(self.past, now, pids, len(self.workers))
        page.log_lost.inc(by=lost_lines())
        return page.page(accept)

    async def ask(self, word: str, workers: list[Worker], within: float = PATIENCE, value: Any = None) -> list[Any]:
        """Each one's answer, None where it gave none."""

        async def one(worker: Worker) -> Any:
            try:
                return await worker.line.ask(word, value, within) if worker.line is not None else None
            except (TimeoutError, ConnectionError):
                return None

        return list(await asyncio.gather(*map(one, workers)))

"""The process that an operator starts: it binds the ports, starts the workers, starts again those that die, and ends
them all. Nothing of a request passes through it.

It forks at one place only, between two runs of its event loop: a child never finds a loop running, nor a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import selectors
import signal
import socket
import time
from collections.abc import Coroutine
from typing import Any, NoReturn

from classifiers.base import Classifier
from policies.document import PolicyError
from policies.load import heavy

from ..admin import Admin
from ..audit.target import shown
from ..config import Settings
from ..keeper import Keeper
from ..logs import get_logger, tell_in_each
from ..reloading import keepers_of
from ..serve import address
from ..server import CannotServe, Seat, administer, bound, check_packages
from .accept import Accepting, Load
from .crew import Crew, Worker
from .desk import Desk
from .worker import work

log = get_logger("penstock.workers")

RESTART = (0.1, 30.0)
"""Seconds before a worker is started again: the first time, and at most; each time twice as many."""
STEADY = 10.0
"""Seconds of service after which a worker's death is a first one."""
GRACE = 10.0
"""Seconds beyond the drain timeout after which a worker that should have ended is killed."""
HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
UNHEARD = (signal.SIGINT, signal.SIGHUP)
"""What a terminal sends to all processes: to workers the supervisor tells it in its own words."""


def supervise(settings: Settings) -> int:
    """Serve with several workers until a signal ends it. The exit code. Raises CannotServe."""
    check_packages()
    with (
        bound(settings.host, settings.port, "port") as data,
        bound(settings.admin_host, settings.admin_port, "admin-port") as admin,
    ):
        keepers = list(keepers_of(settings).values())
        supervisor = Supervisor(settings, data, admin, keepers)
        kept = _weights(keepers)
        gc.collect()
        gc.freeze()  # what is looked at by no collector stays shared
        code = supervisor.run()
        del kept
    return code


def _weights(keepers: list[Keeper]) -> list[Classifier]:
    """The weights that the policies ask for, where they can be read: what is wrong with a policy a worker will say."""
    found: list[Classifier] = []
    for keeper in keepers:
        with contextlib.suppress(PolicyError):
            found += heavy(keeper.likely())
    return found


class Supervisor:
    """Runs the workers that accept on `data`, and answers on `admin`."""

    def __init__(self, settings: Settings, data: socket.socket, admin: socket.socket, keepers: list[Keeper]) -> None:
        self._settings, self._data, self._admin, self._keepers = settings, data, admin, keepers
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._due: asyncio.Queue[Worker | None] = asyncio.Queue()
        self._load = Load(settings.all_workers)
        self._grace = settings.drain_timeout + GRACE
        self._crew = Crew(settings.all_workers, self._changed, self._ended, self._grace)
        self._tasks: set[asyncio.Task[object]] = set()
        self._announced = self._early = False
        self._problem = ""

    def run(self) -> int:
        """Until all has ended. Raises CannotServe where it could not begin."""
        loop, crew = self._loop, self._crew
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._load_again)
        page = Admin(crew.ready, crew.states, crew.page)
        try:
            listener = loop.run_until_complete(administer(page, self._settings, crew.reload, Desk(crew), self._admin))
            self._due.put_nowait(crew.workers[0])
            while (worker := loop.run_until_complete(self._due.get())) is not None:
                self._fork(worker)
            loop.run_until_complete(listener.close())
        finally:
            loop.close()
        if self._problem:
            raise CannotServe(self._problem)
        return 0

    # ---- starting

    def _fork(self, worker: Worker) -> None:
        if self._crew.draining or worker.pid:
            return
        ours, theirs = socket.socketpair()
        # A worker that cannot come to what is in force is tried without, where nobody else serves.
        revisions = self._crew.revisions if self._crew.serving or not worker.problem else {}
        accepting = functools.partial(Accepting, self._data, self._load, worker.number)
        seat = Seat(worker.number, self._data, revisions, accepting)
        # No signal may meet the child while it still has the handlers of its parent.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        pid = os.fork()
        if not pid:
            self._be(seat, theirs, before)
        worker.begin(pid)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        ours.setblocking(False)
        self._spawn(self._crew.attend(worker, ours))

    def _be(self, seat: Seat, sock: socket.socket, mask: set[int | signal.Signals]) -> NoReturn:
        """The child: a worker to its end. It leaves without cleaning up what belongs to its parent."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in HEARD:
                signal.signal(number, signal.SIG_IGN if number in UNHEARD else signal.SIG_DFL)
            _close_all_but(seat.sock.fileno(), sock.fileno())
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            tell_in_each(worker=seat.number)
            asyncio.set_event_loop(None)
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                code = runner.run(work(self._settings, seat, sock))
        except BaseException:
            log.exception("internal fault")
        finally:
            os._exit(code)

    def _load_again(self) -> None:
        """Have the policy loaded again, by who serves or by the first who will."""
        if self._crew.serving:
            self._spawn(self._crew.reload())
        else:
            self._early = True

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- what happens to workers

    def _changed(self, worker: Worker) -> None:
        """It serves."""
        crew, settings = self._crew, self._settings
        if self._early:
            self._early = False
            self._load_again()
        if self._announced:
            log.info("a worker serves again", worker=worker.number, pid=worker.pid)
            return
        others = [each for each in crew.workers if not each.pid]
        for each in others:
            self._due.put_nowait(each)
        if len(crew.serving) == len(crew.workers):
            self._announced = True
            log.info(
                "serving",
                base_url=f"http://{address(self._data.getsockname()[:2])}/v1",
                workers=len(crew.workers),
                admin=f"http://{address(self._admin.getsockname()[:2])}",
                upstream=", ".join(each.url for each in settings.all_upstreams.values()),
                policy=settings.policy,
                revision=crew.revisions.get("", ""),
                audit=shown(settings.audit_where),
            )

    def _ended(self, worker: Worker) -> None:
        """Its process is gone."""
        crew = self._crew
        self._load.away(worker.number)
        for keeper in self._keepers:
            keeper.store.ended(worker.last)  # a killed one could not say so itself
        if crew.draining:
            if not any(each.pid for each in crew.workers):
                self._due.put_nowait(None)
            return
        how, mend = _said(worker.status)
        if not self._announced:
            self._problem = worker.problem or f"worker {worker.number} could not start: {how} ({mend})"
            self._stop()
            return
        served = time.monotonic() - worker.since
        least, most = RESTART
        worker.pause = least if served > STEADY else min(max(2 * worker.pause, least), most)
        crew.past.ends.inc(worker.how or ("signal" if worker.status < 0 else "exit"))
        facts = {"worker": worker.number, "ended": how, "again_in": worker.pause}
        if worker.problem:
            log.error("a worker could not start", **facts, problem=worker.problem)
        else:
            log.error("a worker ended, another takes its place", **facts, mend=mend)
        self._loop.call_later(worker.pause, self._due.put_nowait, worker)

    def _reap(self) -> None:
        """Bury the dead: workers, and as the first process of a container also their orphans."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                self._crew.reaped(*found)

    # ---- the end

    def _stop(self) -> None:
        crew = self._crew
        if crew.draining:  # told twice: at once
            number = signal.SIGKILL
        else:
            number = signal.SIGTERM
            crew.draining = True
            self._data.close()
            log.info("draining", workers=sum(1 for worker in crew.workers if worker.pid))
            self._loop.call_later(self._grace, self._stop)
        for worker in crew.workers:
            worker.end(number)
        if not any(worker.pid for worker in crew.workers):
            self._due.put_nowait(None)


def _said(status: int) -> tuple[str, str]:
    """How a process ended, and what to do about it."""
    if status == -signal.SIGKILL:
        return "SIGKILL", "if nobody sent it, memory ran out (journalctl -k): give it more, or fewer workers"
    if status < 0:
        return signal.Signals(-status).name, "where nobody sent it: a fault in a library, which its version may mend"
    return f"exit code {status}", "its last lines say why"


def _close_all_but(*kept: int) -> None:
    """Close every file but these and the standard ones: a child that held its parent's would hide its parent's end."""
    at = 3
    for file in sorted(kept):
        os.closerange(at, file)
        at = file + 1
    most = os.sysconf("SC_OPEN_MAX")
    os.closerange(at, most if most > 0 else 1 << 20)  # below nought: no limit

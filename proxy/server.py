"""One process: everything is opened, both listeners serve, and everything is closed in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import ipaddress
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import classifiers
import policies
import proxy
from classifiers.asked import Asked
from classifiers.base import Role
from classifiers.panel import Panel
from policies.ready import PolicySet

from .accounts.identity import Identities
from .admin import Admin, Desk, Reload
from .app import DIALECTS, SERVED, DataPlane
from .audit import Audit, AuditUnavailable, Key
from .audit_key import audit_key
from .beside import CannotServe, observe, remember
from .config import Settings
from .cors import Pages
from .dialects.base import Dialect
from .dialects.moderations import Moderations
from .guard import Guard
from .keeper import Keeper, Refused
from .listener import Accept, Listener
from .logs import get_logger, lost_lines
from .metrics import Metrics
from .outside import Outside
from .parts import parts_of
from .readiness import CANARY, Readiness, states
from .reloading import enforced, keepers_of, reload_soon, reload_told, watching
from .routing import Routing, routing_of, unserved
from .workers.cores import cores

if TYPE_CHECKING:
    from classifiers.elsewhere import Elsewhere

    from .accounts.keys import Keys
    from .accounts.owned import Owned

__all__ = ["CannotServe", "Running", "Seat", "administer", "bound", "check_packages", "run", "serving", "settle"]

log = get_logger("penstock.server")

MAX_ADMIN_BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Seat:
    """The place of a worker among several. `sock` is the socket on which all of them accept; `revisions` are what must
    be in force, by the policy's name: empty where this worker is the first to say. `accepting` begins to accept."""

    number: int
    sock: socket.socket
    revisions: dict[str, str]
    accepting: Accept


@dataclass(frozen=True, slots=True)
class Running:
    """What `serving` made. `keepers` by the policy's name, the default's is empty. Addresses are (host, port) as
    bound; a worker among several has no admin listener, and port 0. `ready` names what is not ready, and why; `states`
    is that of all that is outside; `refresh` brings the gauges up to date."""

    plane: DataPlane
    audit: Audit
    metrics: Metrics
    keepers: dict[str, Keeper]
    address: tuple[str, int]
    admin_address: tuple[str, int]
    ready: Callable[[], Awaitable[dict[str, str]]]
    states: Callable[[], dict[str, dict[str, str]]]
    refresh: Callable[[], None]
    stop: Callable[[], None]
    stopped: asyncio.Future[None]

    async def page(self, accept: bytes) -> tuple[str, bytes]:
        """Content type and text of the metrics."""
        self.refresh()
        return self.metrics.page(accept)


@contextlib.asynccontextmanager
async def serving(settings: Settings, seat: Seat | None = None) -> AsyncIterator[Running]:
    """Penstock, serving until the block ends; with `seat` one of its workers. Raises CannotServe."""
    check_packages()
    if not settings.all_upstreams:
        raise CannotServe("no upstream is set: add --upstream https://... or PENSTOCK_UPSTREAM")
    keepers = keepers_of(settings)
    revisions = seat.revisions if seat is not None else {}
    sets = {name: await _policy(keeper, revisions.get(name, "")) for name, keeper in keepers.items()}
    async with contextlib.AsyncExitStack() as stack:
        data_socket, admin_socket = (seat.sock, None) if seat is not None else _sockets(settings, stack)
        key, audit = await _open_audit(settings)
        stack.push_async_callback(_close_audit, audit)
        metrics = Metrics(settings.metrics_models, str(seat.number) if seat is not None else "0")
        parts = parts_of(metrics, audit)
        panel, elsewhere = _panel(settings, stack)
        guards = await _guards(sets, panel, metrics)
        await enforced(keepers, sets, metrics, stack)
        keys = _keys(settings, seat)
        if keys is not None:
            keys.watch()
            stack.callback(keys.close)
        routing = _routing(settings, sets.values())
        stack.push_async_callback(routing.close)
        owned = _owned(settings, key, stack)
        plane = DataPlane(settings, guards, routing, audit, key, Identities(key, keys), metrics, owned)
        stack.callback(plane.refusals.close)
        await observe(settings, plane, parts, stack)
        if elsewhere is not None:
            from .encoder_server import watched

            stack.callback(watched(elsewhere, parts, panel, settings.encoder_fallback == "embedded").cancel)
        await remember(settings, plane, panel, metrics, parts, stack)
        running = Running(
            plane,
            audit,
            metrics,
            keepers,
            data_socket.getsockname()[:2],
            admin_socket.getsockname()[:2] if admin_socket is not None else ("", 0),
            Readiness(plane, panel, audit, parts),
            states(routing, parts),
            lambda: _refresh(metrics, audit, plane, panel, elsewhere),
            *_stopping(plane),
        )
        stack.callback(watching(running))
        stack.callback(asyncio.create_task(Outside(plane, panel, routing, keepers, parts, metrics, keys).run()).cancel)
        pages = Pages(plane, settings.cors_origins) if settings.cors_origins else plane
        listener = Listener(pages, max_body=settings.max_request_bytes, **_times(settings))
        admin = None if admin_socket is None else await _administered(settings, running, admin_socket)
        await listener.start(data_socket, seat.accepting if seat is not None else None)
        beating = _beating(settings, plane, panel, metrics, whole=seat is None or seat.number == 0)
        try:
            yield running
        finally:
            if beating is not None:
                beating.cancel()
            plane.drain()
            if admin is None:
                listener.idle()  # other workers accept what comes now
            await _drain(plane, settings.drain_timeout)
            for each in (listener, admin) if admin is not None else (listener,):
                await each.close()


async def _administered(settings: Settings, running: Running, sock: socket.socket) -> Listener:
    """The admin listener of a single process."""
    admin = Admin(running.ready, running.states, running.page)
    return await administer(admin, settings, functools.partial(reload_told, running), running.plane.reviews, sock)


async def administer(admin: Admin, settings: Settings, reload: Reload, reviews: Desk, sock: socket.socket) -> Listener:
    """Serve `admin`, which may `reload` the policy and answer `reviews`, on a bound socket."""
    admin.let(reload, reviews, settings.admin_token, _is_loopback(settings.admin_host))
    listener = Listener(admin, max_body=MAX_ADMIN_BODY, **_times(settings))
    await listener.start(sock)
    return listener


async def run(settings: Settings, announce: Callable[[Running], None]) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends at once. SIGHUP loads the policy again."""
    loop, early = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, early.set)  # else it would end what is about to serve
    async with serving(settings) as running:
        settle()
        announce(running)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, running.stop)
        loop.add_signal_handler(signal.SIGHUP, functools.partial(reload_soon, running))
        if early.is_set():
            reload_soon(running)
        await running.stopped
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        log.info("draining", exchanges=len(running.plane.in_flight))


def settle() -> None:
    """What was made so far stays: the collector need not look at it again, and rarely at the rest, since an exchange
    leaves hardly any cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _stopping(plane: DataPlane) -> tuple[Callable[[], None], asyncio.Future[None]]:
    """What ends this process, and what says that it shall end."""
    stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop() -> None:
        plane.drain()
        if not stopped.done():
            stopped.set_result(None)

    return stop, stopped


async def _policy(keeper: Keeper, at: str) -> PolicySet:
    """The policy that is to be in force, once its own cases have passed; `at` is its revision, where that is settled.
    Raises CannotServe."""
    try:
        return await keeper.load(at)
    except Refused as error:
        raise CannotServe(str(error)) from None


def _keys(settings: Settings, seat: Seat | None) -> Keys | None:
    """The callers' keys, where callers need one. Raises CannotServe."""
    if settings.credentials != "keys":
        return None
    from .accounts.file import KeyFile, KeysUnavailable, hashing
    from .accounts.keys import Keys

    try:
        last = KeyFile(settings.data_dir / "keys.last.json") if seat is not None else None
        again = seat is not None and bool(seat.revisions)
        file = KeyFile(settings.keys_path)
        keys = Keys(file, hashing(settings.keys_secret_path, file), last, again=again)
    except KeysUnavailable as error:
        raise CannotServe(f"the keys cannot be read: {error}") from None
    if not len(keys):
        log.warning("no key yet: nobody can ask", mend="penstock keys create NAME")
    return keys


def _owned(settings: Settings, key: Key, stack: contextlib.AsyncExitStack) -> Owned | None:
    """Whose is what is stored at the provider, where accounts are known."""
    if settings.credentials != "keys":
        return None
    from .accounts.owned import Owned

    owned = Owned(settings.owned_path, key.keyed_hash, settings.shared_ids)
    stack.callback(owned.close)
    return owned


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_packages() -> None:
    """`proxy` is also the import name of another distribution: all three packages must be ours."""
    roots = {Path(package.__path__[0]).resolve().parent for package in (proxy, policies, classifiers)}
    if len(roots) != 1:
        raise CannotServe(
            "another distribution hides one of our packages (proxy, policies, classifiers): "
            "install Penstock into an environment of its own"
        )


def _panel(settings: Settings, stack: contextlib.AsyncExitStack) -> tuple[Panel, Elsewhere | None]:
    """The workers, and the server that makes the encoder's passes, if one does. Raises CannotServe."""
    elsewhere = None
    if settings.encoder != "embedded":
        from .encoder_server import elsewhere_of

        try:
            elsewhere = elsewhere_of(settings)
        except (OSError, ssl.SSLError) as error:
            raise CannotServe(f"encoder_ca_file holds no certificate that can be read: {error.strerror}") from None
    panel = Panel(settings.classifier_workers or _threads(settings), elsewhere=elsewhere)
    stack.callback(panel.close)
    return panel, elsewhere


async def _guards(sets: dict[str, PolicySet], panel: Panel, metrics: Metrics) -> dict[str, Guard]:
    """Those of all policies. The first answer of a model is slow: let it be nobody's. Raises CannotServe where a
    classifier does not answer."""
    began = time.perf_counter()
    for policy_set in sets.values():
        await asyncio.to_thread(panel.prepare, policy_set.classifiers.values())
        asked = [Asked(item, frozenset(Role), 30.0) for item in policy_set.classifiers.values()]
        silent = (await panel.report([CANARY], asked)).failures
        if silent:
            lines = [f"classifier {item.classifier} does not answer: {item.reason} {item.detail}" for item in silent]
            raise CannotServe("\n".join(lines))
    log.debug("classifiers answer", seconds=round(time.perf_counter() - began, 3))
    return {name: Guard(policy_set, panel, metrics) for name, policy_set in sets.items()}


def _beating(
    settings: Settings, plane: DataPlane, panel: Panel, metrics: Metrics, *, whole: bool
) -> asyncio.Future[list[None]] | None:
    """The heartbeat of each policy, where it is wanted."""
    if not settings.heartbeat_interval:
        return None
    from .heartbeat import Heartbeat

    dialects: list[Dialect | Moderations] = [*dict(DIALECTS).values(), *dict(SERVED).values()]

    def heart(name: str) -> Heartbeat:
        every = settings.heartbeat_interval
        return Heartbeat(lambda: plane.guards[name], panel, metrics, dialects, every, name, whole)

    beating = asyncio.gather(*(heart(name).run() for name in plane.guards))
    # That it was cancelled is no news: unasked, it would be told as a fault when the process ends.
    beating.add_done_callback(lambda done: done.cancelled() or done.exception())
    return beating


def _routing(settings: Settings, sets: Iterable[PolicySet]) -> Routing:
    try:
        routing = routing_of(settings)
    except (OSError, ssl.SSLError) as error:
        raise CannotServe(f"an upstream's ca_file holds no certificate that can be read: {error.strerror}") from None
    wrong = [line for policies in sets for line in unserved(policies, routing)]
    if wrong:
        raise CannotServe("\n".join(wrong))
    return routing


async def _open_audit(settings: Settings) -> tuple[Key, Audit]:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        key = audit_key(settings, create=True)
        where, keep, head = settings.audit_where, settings.audit_seconds, settings.audit_head
        return key, await Audit.open(where, key=key, keep=keep, head=head)
    except AuditUnavailable as error:
        raise CannotServe(f"{error}") from None
    except OSError as error:
        raise CannotServe(
            f"the data directory {settings.data_dir} cannot be used: {error.strerror} "
            "(choose another with --data-dir or PENSTOCK_DATA_DIR)"
        ) from None


async def _close_audit(audit: Audit) -> None:
    try:
        await audit.close()
    except AuditUnavailable as error:
        log.error("the audit log did not close well", problem=str(error))


def _times(settings: Settings) -> dict[str, float]:
    """What every listener waits."""
    return {"receive": settings.receive_timeout, "send": settings.send_timeout}


def _sockets(settings: Settings, stack: contextlib.AsyncExitStack) -> tuple[socket.socket, socket.socket]:
    """Of the data plane and of the admin listener. Raises CannotServe."""
    data = stack.enter_context(bound(settings.host, settings.port, "port"))
    return data, stack.enter_context(bound(settings.admin_host, settings.admin_port, "admin-port"))


def _threads(settings: Settings) -> int:
    """How many threads the classifiers of one worker have, so that all of them share the cores."""
    return max(1, cores() // settings.all_workers)


@contextlib.contextmanager
def bound(host: str, port: int, option: str) -> Generator[socket.socket, None, None]:
    """A socket that listens there; `option` is that of the port. Raises CannotServe."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else getattr(error, "strerror", None) or str(error)
        reason = reason.partition(" (while attempting")[0]
        mend = f"choose another with --{option}"
        if number == errno.EADDRNOTAVAIL or (number or 0) < 0:  # below nought: no such name
            mend = f"--{option.replace('port', 'host')} is an address of this machine, or 0.0.0.0 for all"
        raise CannotServe(f"cannot listen on {host}:{port}: {reason} ({mend})") from None
    with sock:
        yield sock


async def _drain(plane: DataPlane, seconds: float) -> None:
    """Let what is in flight end, for a while; then end it: each exchange says so to its client and writes it down."""
    if plane.in_flight:
        await asyncio.wait(set(plane.in_flight), timeout=seconds)
    for task in list(plane.in_flight):
        task.cancel()
    if plane.in_flight:
        await asyncio.wait(set(plane.in_flight), timeout=1)


def _refresh(metrics: Metrics, audit: Audit, plane: DataPlane, panel: Panel, elsewhere: Elsewhere | None) -> None:
    metrics.in_flight.set(len(plane.in_flight))
    metrics.reviews_held.set(len(plane.reviews))
    metrics.audit_lag.set(audit.waiting)
    metrics.audit_lost.reach(audit.lost)
    metrics.audit_healthy.set(1 if audit.healthy else 0)
    metrics.log_lost.reach(lost_lines())
    if plane.keeping is not None:
        metrics.content_queue.set(plane.keeping.used)
        metrics.content_kept.reach(plane.keeping.kept)
        for reason, count in plane.keeping.lost.items():
            metrics.content_lost.reach(count, reason)
    for fate, count in asdict(panel.counts).items():
        metrics.judged.reach(count, fate)
    metrics.breakers.reach(panel.breakers.opened)
    if elsewhere is not None:
        metrics.encoder_fallbacks.reach(elsewhere.fell_back)

"""The checks, in the order in which they are made, and those that need no file of their own."""

from __future__ import annotations

import errno
import http.client
import re
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from classifiers.catalog import OptionError
from policies.check import CheckResult, check

from ..config import Settings, is_url
from ..files import needed as files_needed
from ..policy_store import FetchError
from ..workers.cores import cores
from .base import Check, Finding, Place, State
from .callers import check_callers
from .contents import check_content
from .database import check_database
from .disk import check_chain, check_disk
from .encoder import check_encoder
from .memory import check_memory
from .remembered import check_state
from .upstreams import check_upstreams

OURS = ("classifiers", "policies", "proxy")
JUMP = 0.25
"""Seconds by which the clocks may part while the doctor looks."""
SKEW, WRONG_SKEW = 5.0, 300.0
FIRST_DAY = 1_767_225_600.0
"""2026-01-01: a clock that says less was never set."""
FILE_MAX = Path("/proc/sys/fs/file-max")


def check_our_packages(place: Place) -> Iterator[Finding]:
    """`proxy` is also the import name of another distribution."""
    from ..server import CannotServe, check_packages

    mend = "install Penstock into an environment of its own"
    try:
        check_packages()
    except CannotServe as error:
        yield Finding("packages", State.WRONG, str(error).partition(":")[0], mend)
        return
    owners = packages_distributions()
    strangers = {owner for name in OURS for owner in owners.get(name, []) if owner != "penstock"}
    if strangers:
        detail = f"{', '.join(sorted(strangers))} installs a package of the same name as ours ({', '.join(OURS)})"
        yield Finding("packages", State.WRONG, detail, mend)
        return
    yield Finding("packages", State.WELL, f"{', '.join(OURS)} are ours")


def check_policy(place: Place) -> Iterator[Finding]:
    """Each policy, its cases with every classifier asked, and whether the heartbeat can probe those of the default."""
    for name, path in place.settings.all_policies.items():
        try:
            result = _fetched(path, place.settings) if is_url(path) else check(path, live=True)
        except FetchError as error:
            yield Finding("policy", State.WRONG, str(error), "without it only the last good one is served, if any")
            continue
        if not name:
            place.policy = result
        *problems, summary = result.lines()
        for problem in problems:
            yield Finding("policy", State.WRONG, problem, f"`penstock check {path}` says the same")
        if result.ok:
            yield Finding("policy", State.WELL, f"{name}: {summary}" if name else summary)
    default = place.policy
    if default is None or not default.ok or default.policy is None:
        return
    from ..heartbeat import caught_by, uncovered

    missing = uncovered(default.policy, caught_by(default.policy))
    if missing:
        detail = f"no case shows that {', '.join(missing)} finds anything: the heartbeat cannot probe it"
        yield Finding("policy", State.WARNING, detail, "add a case that only it can catch, without 'scores'")


def _fetched(url: str, settings: Settings) -> CheckResult:
    """The check of a policy from a URL. Raises FetchError."""
    from ..policy_fetch import Fetched

    with tempfile.TemporaryDirectory() as home:
        fetched = Fetched(Path(home), url, settings.policy_public_key)
        fetched.refresh()
        return check(str(fetched.newest), live=True)


def check_models(place: Place) -> Iterator[Finding]:
    """Every model that is shipped, file by file, and what the policy's classifiers are."""
    from classifiers.encoder import MODELS, Encoder

    for folder in sorted(path.parent for path in MODELS.glob("*/card.json")):
        try:
            card = Encoder.open(folder).card
        except OptionError as error:
            yield Finding("models", State.WRONG, error.problem, error.mend)
        else:
            yield Finding("models", State.WELL, f"{folder.name}: files are those of its card, {card.digest[:12]}")
    policy = place.policy.policy if place.policy is not None else None
    if policy is not None:
        told = ", ".join(f"{name} {item.digest[:12]}" for name, item in sorted(policy.classifiers.items()))
        yield Finding("models", State.WELL, f"classifiers in use: {told or 'none'}")


def check_ports(place: Place) -> Iterator[Finding]:
    settings = place.settings
    for host, port, option in (
        (settings.host, settings.port, "port"),
        (settings.admin_host, settings.admin_port, "admin-port"),
    ):
        if not port:
            yield Finding("ports", State.WELL, f"{host}: any free port will be taken (--{option} 0)")
            continue
        yield _port(host, port, option)


def _port(host: str, port: int, option: str) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            return Finding("ports", State.WELL, f"{host}:{port} is free")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            if _ours(host, port):
                detail = f"{host}:{port} is taken by a Penstock that serves: this machine is in use"
                return Finding("ports", State.WARNING, detail, f"for a second one choose another --{option}")
            mend = f"end what listens there (ss -ltnp 'sport = :{port}'), or choose another --{option}"
            return Finding("ports", State.WRONG, f"{host}:{port} is taken", mend)
        mend = f"choose an address of this machine and a port above 1023, with --{option} and its host"
        return Finding("ports", State.WRONG, f"{host}:{port}: {error.strerror or error}", mend)


def _ours(host: str, port: int) -> bool:
    """Whether what listens there speaks as our listeners do: an unknown path gets an error with our code."""
    there = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    connection = http.client.HTTPConnection(there, port, timeout=2)
    try:
        connection.request("GET", "/penstock-doctor")
        return b'"unknown_url"' in connection.getresponse().read(4096)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def check_files(place: Place) -> Iterator[Finding]:
    """Each exchange holds two connections, each a file; the limits are those of a process, and of the machine."""
    settings = place.settings
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    workers = settings.all_workers
    needed = files_needed(settings)
    of = f" in each of {workers} workers" if workers > 1 else ""
    if hard != resource.RLIM_INFINITY and hard < needed:
        mend = f"raise it (ulimit -Hn {needed}, or LimitNOFILE={needed}), or lower max_in_flight"
        detail = f"{hard} files may be open{of}, {needed} are needed for max_in_flight {settings.max_in_flight}"
        yield Finding("files", State.WARNING, detail, mend)
        return
    most = _most_files()
    if most < workers * needed:
        mend = f"raise it (sysctl fs.file-max={2 * workers * needed}), or lower max_in_flight or workers"
        detail = f"{most:,} files may be open on this machine, {workers * needed:,} are needed by {workers} workers"
        yield Finding("files", State.WARNING, detail, mend)
        return
    allowed = "any number of" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    yield Finding("files", State.WELL, f"{allowed} files may be open{of}, {needed:,} are needed at most")


def _most_files() -> int:
    """How many files all processes of this machine may have open."""
    try:
        return int(FILE_MAX.read_text("ascii"))
    except (OSError, ValueError):
        return 1 << 62


def check_workers(place: Place) -> Iterator[Finding]:
    """More processes than cores take turns, and each of them costs memory."""
    workers, may = place.settings.all_workers, cores()
    told = f"{workers} worker{'s' if workers > 1 else ''} on {may} core{'s' if may > 1 else ''}"
    if workers > may:
        mend = f"set workers: {may}, or 0 for as many as there are cores"
        yield Finding("workers", State.WARNING, f"{told}: they take turns", mend)
    elif workers == 1 and may > 1:
        yield Finding("workers", State.WELL, f"{told} (`workers: 0` uses all)")
    else:
        yield Finding("workers", State.WELL, told)


def check_clock(place: Place) -> Iterator[Finding]:
    """Made last: the longer it looks, the more it sees."""
    wall, steady = place.began
    now = time.time()
    apart = (now - wall) - (time.monotonic() - steady)
    mend = "run one service that keeps time (chrony, systemd-timesyncd), and let it slew"
    if now < FIRST_DAY:
        yield Finding("clock", State.WRONG, f"it is not {time.strftime('%Y-%m-%d', time.gmtime(now))}", mend)
        return
    if abs(apart) > JUMP:
        yield Finding("clock", State.WARNING, f"it jumped by {apart:+.2f} s while it was looked at", mend)
    for url, skew in place.skews:
        if abs(skew) > SKEW:
            state = State.WRONG if abs(skew) > WRONG_SKEW else State.WARNING
            yield Finding("clock", state, f"{skew:+.0f} s from that of {url}", mend)
    if abs(apart) <= JUMP and all(abs(skew) <= SKEW for _, skew in place.skews):
        agrees = " and agrees with the upstream's" if place.skews else ""
        yield Finding("clock", State.WELL, f"it is steady{agrees}")


CHECKS: dict[str, tuple[Check, ...]] = {
    "packages": (check_our_packages,),
    "policy": (check_policy,),
    "models": (check_models,),
    "encoder": (check_encoder,),
    "upstream": (check_upstreams,),
    "callers": (check_callers,),
    "state": (check_state,),
    "content": (check_content,),
    "audit": (check_disk, check_chain, check_database),
    "ports": (check_ports,),
    "files": (check_files,),
    "memory": (check_memory,),
    "workers": (check_workers,),
    "clock": (check_clock,),
}
"""What `--only` takes, in the order in which it is looked at."""


def kubernetes_mend(problem: str) -> str:
    """What is behind a setting that nobody set: Kubernetes puts the addresses of services into the environment."""
    if re.search(r"PENSTOCK_\w*(SERVICE_HOST|SERVICE_PORT|PORT_\d+_TCP)|setting (admin_)?port: .*integer", problem):
        return "Kubernetes sets it for a service named penstock: set enableServiceLinks: false in the pod"
    return "`penstock config` lists the settings"

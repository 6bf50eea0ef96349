"""What lies outside of this process and does not tell how it is: looked at each second, and told as a part (`parts`).

Open files by the number of the next, the clock by the steady one, upstreams by the faults that exchanges met,
classifiers by their breakers, policies and keys by what could not be loaded. Redis, the audit, the encoder's server
and the collector of traces are told of by those who use them.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from classifiers.base import Classifier, Silence
from classifiers.panel import Panel

from .app import DataPlane
from .audit.steady import SLACK, Steady
from .keeper import Keeper
from .logs import get_logger
from .metrics import Metrics
from .parts import Parts
from .routing import REFUSED, Routing

if TYPE_CHECKING:
    from .accounts.keys import Keys

log = get_logger("penstock.outside")

LOOK = 1.0
"""Seconds between two looks."""
ALMOST = 0.95
"""Of the files that may be open, when it is said that hardly one is left."""
QUIET = 10.0
"""Seconds without a fault after which an upstream that answers is well again."""
UPSTREAM = {
    "connect": "does it run, are its name and certificate right? `penstock doctor --only upstream` asks it",
    "timeout": "it hangs or is too slow for its timeouts, or a firewall drops packets",
    "reset": "it breaks connections off: see its log, or that of what stands between",
    "protocol": "it does not speak HTTP/1.1: is it https, or another service's port?",
    "saturated": "raise max_connections, or the limit of open files where none was left; or give it more machines",
    "unreadable": "what answers there is not this API: see what stands between",
}
CLASSIFIER = {
    Silence.TIMEOUT: "it is too slow: raise its deadline_ms or timeout_ms, or give it more machines",
    Silence.UNAVAILABLE: "does its server run, and does it take our key? `penstock doctor --only policy` asks it",
    Silence.BAD_ANSWER: "its answers do not count: is it the model and the format that the policy names?",
    Silence.QUEUE_FULL: "more texts wait than it can read: give it more machines",
    Silence.CRASH: "it fails by itself: `penstock doctor --only models`, or tell us",
}


class Outside:
    """The upstreams, classifiers, policies, keys and files of one process. For its event loop."""

    def __init__(
        self,
        plane: DataPlane,
        panel: Panel,
        routing: Routing,
        keepers: Mapping[str, Keeper],
        parts: Parts,
        metrics: Metrics,
        keys: Keys | None = None,
    ) -> None:
        self._keys = keys
        self._plane, self._panel, self._routing, self._keepers = plane, panel, routing, keepers
        self._parts, self._metrics = parts, metrics
        self._faults: dict[tuple[str, ...], float] = {}
        self._failed: dict[str, float] = {}
        self._clock = Steady()

    async def run(self) -> None:
        """Look each second, until this is cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                self.look()
            except Exception:  # a fault of ours must not end the watch
                log.exception("parts not looked at")

    def look(self) -> None:
        """Tell how it stands with each."""
        self._files()
        self._time()
        self._callers()
        self._upstreams()
        self._classifiers()
        for name, keeper in self._keepers.items():
            part, failure = f"policy {name}".strip(), keeper.state["last_failure"]
            if failure is None:
                self._parts.well(part)
            else:
                self._parts.ill(
                    part, "refused", str(failure["problem"]).partition("\n")[0][:300],
                    mend="`penstock check` says where it is wrong, `penstock doctor` whether it can be fetched",
                    meanwhile="the one before stays in force",
                )  # fmt: skip

    def _files(self) -> None:
        """Who has no file left accepts nobody, and the loop says nothing of it."""
        most, used = resource.getrlimit(resource.RLIMIT_NOFILE)[0], _open_files()
        if used > ALMOST * most:
            self._parts.ill(
                "files", "full", f"{min(used, most)} of {most} files are open",
                mend="raise the limit of open files (LimitNOFILE, ulimit -Hn), lower max_in_flight, or add machines",
                meanwhile="clients are not accepted or cut off where none is left",
            )  # fmt: skip
        elif "files" in self._parts:
            self._parts.well("files")

    def _time(self) -> None:
        """A clock that ran ahead is not believed at once; one that goes back is."""
        ahead = time.time() - self._clock.now()
        if ahead > SLACK:
            self._parts.ill(
                "clock", "ahead", f"it jumped ahead by {ahead:.0f} s, and is believed when that has lasted an hour",
                mend="set it right (`timedatectl`, `chronyc tracking`); where it was behind before, wait",
                meanwhile="nothing is pruned, and bans and content end by the time that has passed; keys expire by it",
            )  # fmt: skip
        elif "clock" in self._parts:
            self._parts.well("clock")

    def _callers(self) -> None:
        if self._keys is None:
            return
        if self._keys.fault:
            self._parts.ill(
                "keys", "unreadable", self._keys.fault,
                mend="put the last good copy back; to end a key meanwhile: `penstock keys revoke ID`",
                meanwhile="the keys that were read last stay in force, but for those that are revoked or expire",
            )  # fmt: skip
        elif self._keys.late:
            self._parts.ill(
                "keys", "slow", f"their files have not answered for {self._keys.late:.0f} s",
                mend="see to the file system of keys_dir, or restart where it will not come back",
                meanwhile="the keys that were read last stay in force, and no new revocation is heard of",
            )  # fmt: skip
        elif self._keys.missing:
            self._parts.ill(
                "keys", "missing", "there is no file of keys",
                mend="put it back, or make a key: `penstock keys create NAME`", meanwhile="nobody can ask",
            )  # fmt: skip
        else:
            self._parts.well("keys")

    def _upstreams(self) -> None:
        now, seen = time.monotonic(), self._metrics.faults.counts()
        fresh = {labels: count for labels, count in seen.items() if count != self._faults.get(labels)}
        self._faults = seen
        said = {backend.name: backend.problem for backend in self._routing.backends if backend.state != "answers"}
        for name, fault in fresh:
            self._failed[name] = now
            meanwhile = "exchanges that need it end with 502, 503 or 504; none is asked twice"
            part, detail = f"upstream {name}", said.get(name, "")
            self._parts.ill(part, fault, detail, mend=UPSTREAM[fault], meanwhile=meanwhile)
        for backend in self._routing.backends:
            if backend.state == REFUSED:
                mend = "put in a key that is valid (upstream_key, or key_env), and start again"
                meanwhile = "callers get its refusals"
                self._parts.ill(f"upstream {backend.name}", REFUSED, backend.problem, mend=mend, meanwhile=meanwhile)
            elif backend.state == "answers" and now - self._failed.get(backend.name, -QUIET) >= QUIET:
                self._parts.well(f"upstream {backend.name}")

    def _classifiers(self) -> None:
        known = set()
        for name, classifier in self._in_force():
            failure = self._panel.breakers.why(classifier)
            if failure is not None:
                meanwhile = "it is not asked but by us, and its rules do what their on_error says"
                mend = CLASSIFIER[failure.reason]
                self._parts.ill(f"classifier {name}", failure.reason, failure.detail, mend=mend, meanwhile=meanwhile)
            elif getattr(classifier, "waits", False) or f"classifier {name}" in self._parts:
                self._parts.well(f"classifier {name}")
            known.add(f"classifier {name}")
        for part in [part for part in self._parts.states() if part.startswith("classifier ") and part not in known]:
            self._parts.forget(part)

    def _in_force(self) -> Iterator[tuple[str, Classifier]]:
        for guard in self._plane.guards.values():
            for name, classifier in guard.classifiers.items():
                if not classifier.inline:
                    yield name, classifier


def _open_files() -> int:
    """How many are open, at least: the kernel gives the lowest number that is free."""
    try:
        number = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 1 << 62
    os.close(number)
    return number

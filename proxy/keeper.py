"""Which policy is in force, from the first load to the last: pinned or from its source, kept, watched, told of.

INVARIANT: what is in force changes only as a whole, only to a set whose own cases passed, and never because something
could not be loaded. What is loaded is what is kept: files that change while they are read are read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.check import check
from policies.document import PolicyError
from policies.load import sources
from policies.ready import PolicySet

from .logs import get_logger
from .policy_store import FetchError, Files, Store, StoreError, referred

if TYPE_CHECKING:
    from .policy_fetch import Fetched

log = get_logger("penstock.policy")

LOOK = 1.0
"""Seconds between two looks at the files. A change is loaded once two looks agree: an editor may save in steps."""
ATTEMPTS = 3
"""How often files that change meanwhile are read."""
AGAIN = 60.0
"""Seconds after which what could not be loaded is tried again, though no file changed: a judge may be back."""
MEND = "mend what cannot be loaded"
UNPIN = "`penstock policy activate` another revision, or `penstock policy unpin`"


class Refused(Exception):
    """A policy cannot be put in force. The message has a line for each problem, with its place and mend."""


class Keeper:
    """One policy of this process. `source` is what the settings name: a directory, a file, a pack or a URL; `watch`
    whether its files are looked at, `fetched` what fetches it where it is a URL. With `last_good` a start that cannot
    load them begins with the last revision that was loaded from there, and looks at them until they are whole."""

    def __init__(
        self,
        store: Store,
        source: str,
        watch: bool = False,
        fetched: Fetched | None = None,
        *,
        last_good: bool = False,
    ) -> None:
        self.store, self.source, self._may_stand_in = store, source, last_good or fetched is not None
        self._watch = watch and fetched is None
        self._fetched = fetched
        self._entry = ""  # where it was loaded from last
        self._beside: tuple[Path, ...] = ()
        self._loaded: dict[str, object] = {}  # how the files looked before they were loaded last
        self._files: Files | None = None  # of what was loaded last, where it is not kept yet
        self._failure: dict[str, Any] | None = None
        self._instead = ""  # of what: why the last good one stands in
        self._again = 0.0
        self._since = 0.0
        self.revision = ""
        self.lock = asyncio.Lock()
        """Held while it is loaded again: one after the other."""

    async def load(self, at: str = "") -> PolicySet:
        """The set that is to be in force, its cases passed, kept; with `at` that revision and no other, from where it
        was kept if its source is another by now. Raises Refused."""
        try:
            return await asyncio.to_thread(self._load_at, at) if at else await asyncio.to_thread(self._load)
        except StoreError as error:
            raise Refused(str(error)) from None
        except Refused:
            raise
        except Exception as error:  # it is as good as broken, and what is in force stays
            log.exception("policy not loaded")
            problem = f"{self.source}: a fault of ours while it was loaded: {type(error).__name__} (the log has more)"
            raise Refused(problem) from None

    def likely(self) -> str:
        """Where the set that is to be in force will probably be loaded from. Asks no server."""
        with contextlib.suppress(StoreError):
            pinned = self.store.pinned()
            if pinned is not None:
                return self.store.get(pinned).entry
        return (self._fetched.newest or "") if self._fetched is not None else self.source

    def _load_at(self, at: str) -> PolicySet:
        with contextlib.suppress(Refused, StoreError):
            found = self._load()
            if found.revision == at:
                return found
        self._instead = ""
        return self._pinned(at, "in force in other workers", "load the policy again in all of them: SIGHUP")

    def _load(self) -> PolicySet:
        looked = self._look(files=True)
        try:
            pinned = self.store.pinned()
            try:
                found = self._pinned(pinned) if pinned is not None else self._newest()
            except Refused as error:
                if self.revision or pinned is not None:
                    raise
                return self._last_good(str(error))
            self._instead = ""
            return found
        finally:
            beside = {str(path): _stamp(path) for path in self._beside}
            self._loaded = looked | beside | self._fetch_state()
            self._again = time.monotonic() + AGAIN

    def _newest(self) -> PolicySet:
        if self._fetched is None:
            return self._load_from(self.source)
        try:
            self._fetched.refresh()
        except FetchError as error:
            raise Refused(str(error)) from None
        assert self._fetched.newest is not None  # it was fetched, now or before
        return self._load_from(self._fetched.newest)

    def _last_good(self, problem: str) -> PolicySet:
        """What was in force before this start, where `problem` keeps the newest from it. Raises Refused."""
        kept = None
        if self._fetched is None:
            with contextlib.suppress(StoreError):
                kept = self.store.last_good(self.source)
        place = kept.entry if kept is not None else self._fetched.accepted if self._fetched is not None else None
        if place is None:
            raise Refused(problem)
        if kept is not None and not self._may_stand_in:
            raise Refused(
                f"{problem}\nthe last good one, revision {kept.revision}, is kept: on_broken_policy: last_good starts "
                f"with it, and `penstock policy activate {kept.revision}` pins it"
            )
        try:
            found = self._load_from(place) if kept is None else self._pinned(kept.revision, "the last good one", MEND)
        except Refused as error:
            raise Refused(problem if str(error) == problem else f"{problem}\n{error}") from None
        log.error("policy not loaded, the last good one is used", revision=found.revision, problem=problem)
        self._instead = problem
        return found

    def _pinned(self, revision: str, why: str = "pinned", mend: str = UNPIN) -> PolicySet:
        policies = self._load_from(self.store.get(revision).entry)
        self._files = None  # kept already
        if policies.revision != revision:
            raise Refused(
                f"revision {revision} is {why}, and decides otherwise now: a model or file that it names has changed "
                f"({mend})"
            )
        return policies

    def _load_from(self, source: str) -> PolicySet:
        for _ in range(ATTEMPTS):
            before = _contents(source)
            result = check(source, live=True)
            if before == _contents(source):
                break
        else:
            raise Refused(f"{source}: its files change while they are read; load it again when they are at rest")
        if result.policy is None or not result.ok:
            raise Refused("\n".join(result.lines()[:-1]))
        self._entry, self._beside = source, referred(result.policy)
        self._files = Files(before, self._beside)
        return result.policy

    # ---- what is told

    async def enforced(self, policies: PolicySet) -> None:
        """What was loaded is in force now."""
        self._failure = {"at": time.time(), "problem": self._instead} if self._instead else None
        events: list[tuple[str, ...]] = []
        if policies.revision != self.revision:
            self._since = time.time()
            self.revision = policies.revision
            events.append(("loaded", policies.revision, policies.source))
        if self._instead:
            events.append(("refused", self.revision, self.source, self._instead))
        await asyncio.to_thread(self._tell, policies, events)

    async def refused(self, problem: str) -> None:
        """It could not be loaded; what was in force still is."""
        again = self._failure is not None and self._failure["problem"] == problem
        self._failure = {"at": time.time(), "problem": problem}
        events = [] if again else [("refused", self.revision, self.source, problem)]
        await asyncio.to_thread(self._tell, None, events)

    @property
    def state(self) -> dict[str, Any]:
        """For operators, JSON-able: what is in force and since when, and what went wrong last."""
        return {
            "revision": self.revision,
            "since": self._since,
            "source": self.source,
            "last_failure": self._failure,
        }

    def _tell(self, policies: PolicySet | None, events: Sequence[tuple[str, ...]]) -> None:
        """Into the store. A disk that fails leaves nothing to go back to later, and is no reason to stop now."""
        try:
            if policies is not None and self._files is not None:
                self.store.keep(policies, self._files)
            if policies is not None and self._fetched is not None:
                self._fetched.accept(self._entry)
            for event in events:
                self.store.note(*event)
            self.store.serving(self.state)
        except (StoreError, OSError) as error:
            log.warning("policy not kept", revision=self.revision, problem=str(error))

    # ---- watching

    async def watch(self, changed: Callable[[], Awaitable[object]]) -> None:
        """Calls `changed` whenever the pin changes, or the files where they are watched, until it is cancelled."""
        seen: dict[str, object] | None = None
        while True:
            await asyncio.sleep(LOOK)
            try:
                now = await asyncio.to_thread(self._look)
                changes = now == seen and not now.items() <= self._loaded.items()
                seen = now
                if changes or (self._missing and time.monotonic() >= self._again):
                    await changed()
            except Exception:  # a fault of ours must not end the watch
                log.exception("policy not looked at, or not loaded")

    @property
    def _missing(self) -> bool:
        """Whether something could not be loaded that nobody but us will try again."""
        looked_after = self._watch or self._fetched is not None
        return bool(self._instead) or (self._failure is not None and looked_after)

    def _look(self, *, files: bool = False) -> dict[str, object]:
        """What would show that something was written: sizes, times and inodes. With `files`, whether watched or not."""
        paths = [self.store.pin_path]
        if self._fetched is None and (self._watch or self._instead or files):
            paths += [*_files(self.source), *self._beside]
        if self._fetched is not None:
            self._fetched.poll()
        return {str(path): _stamp(path) for path in paths} | self._fetch_state()

    def _fetch_state(self) -> dict[str, object]:
        """A server that cannot be reached any more is a change, too: the load then says so."""
        return {} if self._fetched is None else {self.source: (self._fetched.newest, self._fetched.problem)}


def _contents(source: str) -> tuple[tuple[str, bytes], ...]:
    """The files of a source; nothing where they cannot be read, which the load then says."""
    try:
        return tuple(sources(source))
    except PolicyError:
        return ()


def _files(source: str) -> list[Path]:
    path = Path(source)
    try:
        return [path, *(Path(entry.path) for entry in os.scandir(path) if entry.name.endswith((".yaml", ".yml")))]
    except OSError:
        return [path]


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

"""A policy from a web server, for fleets: fetched, verified, and kept, so that a restart does not need the server.

INVARIANT: nothing that is not signed with the operator's key is written below `home`, and no bundle that was packed
before the newest one that was in force: who replays an old one gains nothing. A bundle becomes the one to start with
only after it was in force.

Decision: a bundle that says that it was packed later than now, by more than AHEAD seconds, is not taken. Why: one
packed by a clock that is years ahead would keep every later one out for years. Cost: a machine whose clock is behind
takes no new policy until it is set; both times are told.

Decision: it is looked for in a thread of its own, and the server has WHOLE seconds for all of it. Why: whoever looks at
files and pins each second, and the end of the process, must not wait for a name that hangs or a server that drips.
Cost: what was fetched is seen with the next look.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import shutil
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from classifiers.service import beside

from .bundle import LARGEST, BundleError, opened, unpack, verify
from .logs import get_logger
from .policy_store import FetchError, settle

log = get_logger("penstock.policy")

TIMEOUT = 10.0
"""Seconds for each step of a fetch, the lookup of the server's name among them."""
WHOLE = 60.0
"""Seconds for all of it."""
SUFFIX = ".sig"
LONGEST_TAG = 200
AHEAD = 300.0
"""Seconds by which the packer's clock may be ahead of the one here."""


class Fetched:
    """The bundle at `url`, and its signature at the same with .sig; kept below `home`, and asked for again every
    `every` seconds. `problem` says why the last attempt failed, empty where it did not. Thread-safe."""

    def __init__(self, home: Path, url: str, public_key: str, every: float = 60.0) -> None:
        self.home, self.url, self._key, self._every = home, url, public_key, every
        self.problem = ""
        self._asked = 0.0
        self._looking: threading.Thread | None = None
        self._lock = threading.Lock()
        self._etag = ""
        self._newest: dict[str, Any] | None = None

    def refresh(self) -> None:
        """Ask the server; `newest` is another afterwards where there is one. Raises FetchError."""
        with self._lock:
            self._asked = time.monotonic()
            try:
                raw = self._get()
                if raw is not None:
                    self._take(*raw)
                self.problem = ""
            except FetchError as error:
                self.problem = str(error)
                raise
            except BundleError as error:
                self.problem = f"{self.url}: {error}"
                raise FetchError(self.problem) from None
            except OSError as error:
                self.problem = f"{self.home}: {error.strerror}"
                raise FetchError(self.problem) from None
            except Exception as error:  # whatever a server may make of our client: it is asked again
                log.exception("policy not fetched")
                self.problem = f"{self.url}: what it answers cannot be read: {type(error).__name__}"
                raise FetchError(self.problem) from None

    def poll(self) -> None:
        """Have the server asked where it is time to; what goes wrong is in `problem`. Waits for nobody."""
        due = time.monotonic() - self._asked >= self._every
        if due and (self._looking is None or not self._looking.is_alive()):
            self._looking = threading.Thread(target=self._poll, name="policy", daemon=True)
            self._looking.start()

    def _poll(self) -> None:
        with contextlib.suppress(FetchError):
            self.refresh()

    @property
    def newest(self) -> str | None:
        """Where the newest verified policy lies, else the accepted one."""
        found = self._newest or self._accepted()
        return None if found is None else self._place(found)

    @property
    def accepted(self) -> str | None:
        """Where the one lies that was in force last."""
        found = self._accepted()
        return None if found is None else self._place(found)

    def accept(self, place: str) -> None:
        """What lies there is in force: a restart begins with it, and nothing older is taken any more."""
        if self._newest is not None and self._place(self._newest) == place and self._newest != self._accepted():
            aside = self.home / f".accepted.{secrets.token_hex(4)}"
            aside.write_text(json.dumps(self._newest))
            aside.replace(self.home / "accepted.json")

    def _place(self, found: dict[str, Any]) -> str:
        return str(self.home / found["sha256"] / found["entry"])

    def _accepted(self) -> dict[str, Any] | None:
        try:
            found = json.loads((self.home / "accepted.json").read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and {"sha256", "entry", "created"} <= found.keys() else None

    def _take(self, raw: bytes, signature: str, etag: str) -> None:
        verify(raw, signature, self._key)
        bundle, sha256 = opened(raw), hashlib.sha256(raw).hexdigest()
        self._in_turn(bundle.created)
        home = self.home / sha256
        if not home.exists():
            aside = self.home / f".{secrets.token_hex(8)}"
            try:
                unpack(bundle, aside)
                settle(aside, home)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        self._newest = {"sha256": sha256, "entry": bundle.entry, "created": bundle.created}
        self._etag = etag

    def _in_turn(self, created: float) -> None:
        """Raises BundleError for a bundle packed at `created` that is not to follow the one in force."""
        accepted, now = self._accepted(), time.time()
        if not created <= now + AHEAD:  # so that what is no number is not taken either
            raise BundleError(
                f"it says that it was packed at {_told(created)}, and here it is {_told(now)}: set the clock that is "
                "wrong, and where that was the packer's, pack it again"
            )
        last = created if accepted is None else float(accepted["created"])
        if created >= last:
            return
        what = f"it was packed before the one in force ({_told(created)}, that one {_told(last)})"
        if last <= now + AHEAD:
            raise BundleError(f"{what}: pack it again to go back to it")
        raise BundleError(
            f"{what}, and here it is {_told(now)}: set the clock of this machine where it is behind; else that of the "
            f"other one's packer was ahead: remove {self.home / 'accepted.json'}, and this one is taken"
        )

    def _get(self) -> tuple[bytes, str, str] | None:
        """Bundle, signature and ETag; None where nothing has changed."""
        import httpx2

        try:
            return beside(self._fetched()).result()
        except TimeoutError:
            raise FetchError(f"{self.url}: it is not there after {WHOLE:.0f} seconds") from None
        except httpx2.HTTPError as error:
            raise FetchError(f"{self.url}: {type(error).__name__}: it cannot be reached") from None

    async def _fetched(self) -> tuple[bytes, str, str] | None:
        import httpx2

        headers = {"if-none-match": self._etag} if self._etag else {}
        async with asyncio.timeout(WHOLE), httpx2.AsyncClient(trust_env=False, timeout=TIMEOUT) as client:
            async with client.stream("GET", self.url, headers=headers) as response:
                if response.status_code == 304:
                    return None
                raw = await _whole(response, self.url, LARGEST)
                etag = response.headers.get("etag", "")
                etag = etag if etag.isascii() and len(etag) <= LONGEST_TAG else ""  # it is sent back as it came
            async with client.stream("GET", self.url + SUFFIX) as response:
                signature = (await _whole(response, self.url + SUFFIX, 1024)).decode("ascii", "replace")
        return raw, signature, etag


async def _whole(response: Any, url: str, most: int) -> bytes:
    if response.status_code != 200:
        raise FetchError(f"{url}: the server answered {response.status_code}")
    raw = b""
    async for chunk in response.aiter_bytes():
        raw += chunk
        if len(raw) > most:
            raise FetchError(f"{url}: larger than {most:,} bytes")
    return raw


def _told(at: float) -> str:
    """A time (unix seconds) for people."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="seconds")
    except (ValueError, OverflowError, OSError):  # of no calendar
        return f"{at:g} seconds after 1970"


def problem_with(url: str) -> str:
    """Why no policy is fetched from there; nothing where one may be."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        return "names more than a file: leave out user, password, ? and #"
    if parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "::1", "localhost"}:
        return "is fetched in the clear: use https"
    return ""

"""Other services asked over HTTP: JSON out, JSON in, and an end to each question whatever the other side does.

Decision: the questions run on one event loop in a thread of its own, and whoever asks waits in a worker thread. Why:
a deadline then holds over the name's lookup, the connection and a header that comes byte by byte, which the time
limits of single reads do not, and many pieces of a long text are asked at once. Cost: two hops between threads,
tens of microseconds.

No redirect is followed, no proxy of the environment used, certificates are always verified. An answer is plain JSON
with one reading, of bounded size; everything else is no answer. No error holds what was sent or what came.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ipaddress
import json
import os
import ssl
import threading
import time
import weakref
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import certifi
import httpx2

from . import option_forms as form
from .base import NoAnswer, Silence
from .catalog import OptionError
from .lookup import Found, Lookup
from .options import Options

LARGEST = 4_000_000
"""Bytes of an answer."""
CONNECTIONS = 8
_T = TypeVar("_T")
_GRACE = 0.25  # seconds that the loop may need to hand over what it has
_STARTING = threading.Lock()
_PRIVATE = (".svc", ".local", ".internal", ".localhost")
OPTIONS: form.Declared = {
    "url": form.shaped(
        "Where it answers, like https://judge.example/v1.",
        "^[Hh][Tt][Tt][Pp][Ss]?://",
        "an http or https URL",
        needed=True,
    ),
    "key_env": form.text("The name of the environment variable that holds the key."),
    "ca_file": form.text("A file of certificates (PEM) to trust instead of the public ones."),
    "timeout_ms": form.whole("For all questions of one call together; let deadline_ms be no shorter.", 5000, 1, 60_000),
}
"""The options that `from_options` reads."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request: a path below the service's URL, and a JSON body to POST, or None to GET."""

    path: str
    body: Any = None


class Service:
    """One base URL, with connections that are kept. Thread-safe; its connections close when it is forgotten."""

    def __init__(
        self, url: str, seconds: float, key: str = "", ca_file: str | None = None, connections: int = CONNECTIONS
    ) -> None:
        """`seconds` bounds each call of `ask`. `key` goes out as a bearer token. Raises OSError and ssl.SSLError for a
        `ca_file` without certificates."""
        self.url, self.seconds = url, seconds
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "penstock"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        verify: ssl.SSLContext | bool = True
        if url.startswith("https:"):
            verify = ssl.create_default_context(cafile=ca_file or certifi.where())
        self._client = httpx2.AsyncClient(
            headers=headers,
            verify=verify,
            timeout=None,  # the deadline of the whole question is ours
            trust_env=False,
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        )
        weakref.finalize(self, _close, self._client).atexit = False

    @classmethod
    def from_options(cls, options: Options, suffix: str = "") -> Service:
        """Options: `url`, `key_env` (the variable that holds the key), `ca_file` (certificates to trust instead of
        the public ones), `timeout_ms`. `suffix` is what authors may have left at the end of the URL. Raises
        OptionError."""
        url = checked_url(options.text("url", mend="where the service answers, for example https://judge.example/v1"))
        key_env = options.maybe_text("key_env", "the name of an environment variable that holds the key")
        key = "" if key_env is None else _key(key_env, url)
        ca_file = options.maybe_text("ca_file", "the path of a file of certificates")
        seconds = options.whole("timeout_ms") / 1000
        try:
            return cls(url.removesuffix(suffix), seconds, key, ca_file)
        except (OSError, ssl.SSLError) as error:
            raise OptionError("ca_file", f"no certificates there: {error.strerror}", "a file in PEM form") from None

    def ask(self, questions: Sequence[Question]) -> list[Any]:
        """The JSON value of each answer, or a NoAnswer in its place. Takes no longer than `seconds`."""
        if not questions:
            return []
        end = time.monotonic() + self.seconds
        requests = [
            (q.path, None if q.body is None else json.dumps(q.body, ensure_ascii=False).encode("utf-8", "replace"))
            for q in questions
        ]
        job = asyncio.run_coroutine_threadsafe(self._all(requests, end), _loop(os.getpid()))
        try:
            answers = job.result(max(end + _GRACE - time.monotonic(), 0))
        except concurrent.futures.TimeoutError:
            job.cancel()
            return [self._late()] * len(questions)
        return [_read(answer) if isinstance(answer, bytes) else answer for answer in answers]

    async def _all(self, requests: Sequence[tuple[str, bytes | None]], end: float) -> list[bytes | NoAnswer]:
        return await asyncio.gather(*[self._one(path, body, end) for path, body in requests])

    async def _one(self, path: str, body: bytes | None, end: float) -> bytes | NoAnswer:
        try:
            async with asyncio.timeout(max(end - time.monotonic(), 0)):
                try:
                    return await self._exchange(path, body)
                except _Unanswered:
                    # Most often a kept connection that the other side closed in the same moment.
                    return await self._exchange(path, body)
        except TimeoutError:
            return self._late()
        except NoAnswer as silence:
            return silence
        except _Unanswered:
            return NoAnswer(Silence.UNAVAILABLE, "the connection broke before an answer")
        except (httpx2.HTTPError, OSError) as error:
            return NoAnswer(Silence.UNAVAILABLE, type(error).__name__)

    async def _exchange(self, path: str, body: bytes | None) -> bytes:
        url = self.url + path
        headers = {} if body is None else {"Content-Type": "application/json"}
        begun = False
        try:
            async with self._client.stream(
                "GET" if body is None else "POST", url, content=body, headers=headers
            ) as response:
                begun = True
                _check_head(response)
                parts: list[bytes] = []
                size = 0
                async for part in response.aiter_raw():
                    size += len(part)
                    if size > LARGEST:
                        raise NoAnswer(Silence.BAD_ANSWER, f"an answer of more than {LARGEST} bytes")
                    parts.append(part)
                return b"".join(parts)
        except (httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
            if begun:
                raise NoAnswer(Silence.BAD_ANSWER, "an answer that was cut short") from None
            if isinstance(error, httpx2.ConnectError):
                raise NoAnswer(Silence.UNAVAILABLE, "no connection") from None
            raise _Unanswered from None

    def _late(self) -> NoAnswer:
        return NoAnswer(Silence.TIMEOUT, f"no answer within {self.seconds:g} s")


class _Unanswered(Exception):
    """The connection broke before the first byte of an answer."""


def together(silences: Sequence[NoAnswer], asked: int) -> NoAnswer:
    """One NoAnswer for some of `asked` questions: the first, and how many there are."""
    first = silences[0]
    return first if asked == 1 else NoAnswer(first.reason, f"{len(silences)} of {asked} parts: {first.detail}")


def _check_head(response: httpx2.Response) -> None:
    if response.status_code != httpx2.codes.OK:
        redirect = " (redirects are not followed)" if response.is_redirect else ""
        raise NoAnswer(Silence.UNAVAILABLE, f"HTTP {response.status_code}{redirect}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise NoAnswer(Silence.BAD_ANSWER, "a compressed answer, which was not asked for")


def _read(raw: bytes) -> Any:
    """A JSON value with one reading, or NoAnswer."""
    try:
        return parse(raw.decode())
    except ValueError:
        return NoAnswer(Silence.BAD_ANSWER, "an answer that is not JSON")


def parse(text: str) -> Any:
    """Strict JSON: no NaN, no key twice. Raises ValueError."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("the same key twice")
    return members


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def checked_url(url: str) -> str:
    """`url`, a base URL, without the slashes at its end. Raises OptionError (for `url`)."""
    mend = "for example https://judge.example/v1"
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        raise OptionError("url", "is no URL", mend) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine or not url.isascii():
        raise OptionError("url", "must be an http or https URL", mend)
    if parts.username is not None or parts.password is not None:
        raise OptionError("url", "holds a name or a password", "leave them out, and name a key with key_env")
    if parts.query or parts.fragment or any(sign in url for sign in "?# \t\r\n\\"):
        raise OptionError("url", "must end with its path", mend)
    return url.rstrip("/")


def _key(variable: str, url: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise OptionError("key_env", f"the environment has no {variable}", "set it to the service's key")
    check_key(key, url, variable)
    return key


def check_key(key: str, url: str, variable: str) -> None:
    """Raises OptionError where `key`, of that variable, is none or must not go to `url`."""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise OptionError("key_env", f"{variable} holds what no key is", "one line of printable ASCII, without blanks")
    if url.startswith("http:") and not is_near(urlsplit(url).hostname or ""):
        raise OptionError("key_env", "the key would travel unencrypted", "write https:// in url")


def is_near(host: str) -> bool:
    """Whether a host is this machine or, by its name or address, in a private network."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE)


def beside(work: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
    """Have this done on the loop of the services, where a name that hangs holds up nothing else."""
    return asyncio.run_coroutine_threadsafe(work, _loop(os.getpid()))


def _loop(process: int) -> asyncio.AbstractEventLoop:
    with _STARTING:
        return _start(process)


class _Loop(asyncio.SelectorEventLoop):
    """Where the name of one service hangs, the others are asked, and the process ends."""

    def __init__(self) -> None:
        super().__init__()
        self._lookup = Lookup()

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Found:
        return await self._lookup.ask(host, port, family, type, proto, flags)


@lru_cache(1)  # a forked process starts its own: threads are not inherited
def _start(process: int) -> asyncio.AbstractEventLoop:
    loop = _Loop()
    threading.Thread(target=loop.run_forever, name=f"services-{process}", daemon=True).start()
    return loop


def _close(client: httpx2.AsyncClient) -> None:
    asyncio.run_coroutine_threadsafe(client.aclose(), _loop(os.getpid()))

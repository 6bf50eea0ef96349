"""The only place that talks to the model: a small pool of HTTP/1.1 connections on httptools and asyncio.

It sends each request once. Nothing is retried, no redirect is followed, no environment variable names a proxy,
certificates are always verified.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import ssl
from collections import deque
from collections.abc import Iterable
from urllib.parse import urlsplit

import certifi

from classifiers.lookup import Lookup

from .connection import WAKE, Connection, Fault, Headers, Response, UpstreamError
from .gathering import Beat

__all__ = ["WAKE", "Fault", "Headers", "Response", "Upstream", "UpstreamError"]

LOOK = 0.25
"""Seconds between two looks at who is late."""
SETTLE = 0.05
"""Seconds in which an upstream that closes behind its answers has done so."""


class Upstream:
    """One named upstream. `url` is its base, with or without a trailing ``/v1``: the caller's path follows it.

    Times are in seconds. `first_byte` bounds connection and head together, `gap` the silence between two pieces of a
    body, and `keep` the age of an idle connection: below the idle limits that servers commonly have, and below what
    the upstream itself says (`Keep-Alive: timeout=`), so that a request is hardly ever written to a connection that is
    being closed. Where an upstream was seen to close behind an answer (llama.cpp does behind each stream), such a
    connection is not used again before SETTLE. `ca_file` holds authorities (PEM) that are
    trusted beside the public ones. Raises ValueError for a URL that is none, OSError and ssl.SSLError for a bad file.
    """

    def __init__(
        self,
        url: str,
        *,
        max_connections: int = 2048,
        connect: float = 10.0,
        first_byte: float = 600.0,
        gap: float = 120.0,
        keep: float = 4.0,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self._host, self._port, self._tls, self._prefix, self._authority = _address(url)
        self._connect, self._first_byte, self._gap, self._keep = connect, first_byte, gap, keep
        self._max = max_connections
        self._lookup = Lookup()
        self._idle: deque[Connection] = deque()
        self._closes: set[bool] = set()  # it closed soon after its last answer that was chunked, or was not
        self._busy: set[Connection] = set()
        self._opening = 0
        self._sweep: asyncio.TimerHandle | None = None
        self.beat = Beat()
        self._context = _tls_context(ca_file) if self._tls else None

    def head(self, method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """A request's head for `send`, without its end. `target` is path and query as the caller wrote them."""
        lines = [b"%b %b%b HTTP/1.1\r\nHost: %b\r\n" % (method, self._prefix, target, self._authority)]
        lines.extend(b"%b: %b\r\n" % pair for pair in headers)
        return b"".join(lines)

    async def send(self, head: bytes, body: bytes | None) -> Response:
        """Send one request; return when the answer's head is in. None is no body at all.

        Raises UpstreamError. Cancelling closes the connection.
        """
        end = b"\r\n" if body is None else b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        connection = self._rested() or await self._open()
        try:
            return await connection.ask(head + end, asyncio.get_running_loop().time() + self._first_byte)
        except BaseException:
            connection.abandon()
            raise

    async def close(self) -> None:
        """Close every connection."""
        for connection in [*self._idle, *self._busy]:
            connection.abandon()
        self._idle.clear()
        self.beat.close()
        if self._sweep is not None:
            self._sweep.cancel()

    def _rested(self) -> Connection | None:
        """The connection that was used last, if it may be used again."""
        idle, now = self._idle, asyncio.get_running_loop().time()
        unsettled: list[Connection] = []
        found = None
        while idle and found is None:
            connection = idle.pop()
            age = now - connection.rested
            if connection.stale:
                self.lost(connection)
                connection.abandon()
            elif age < SETTLE and connection.chunked in self._closes:
                unsettled.append(connection)
            elif connection.usable and age < min(self._keep, connection.kept):
                found = connection
            else:
                connection.abandon()
        idle.extend(reversed(unsettled))
        if found is not None:
            if self._closes and now - found.rested >= SETTLE:
                self._closes.discard(found.chunked)
            self._engage(found)
        return found

    async def _open(self) -> Connection:
        if len(self._busy) + self._opening >= self._max:
            raise UpstreamError(Fault.SATURATED, f"all {self._max} connections to the upstream are in use")
        self._opening += 1
        try:
            async with asyncio.timeout(self._connect):
                connection = await self._reach()
        except TimeoutError:
            raise UpstreamError(Fault.CONNECT, f"no connection to the upstream within {self._connect:g} s") from None
        except ssl.SSLError as error:
            raise UpstreamError(Fault.CONNECT, f"no trusted connection to the upstream: {_distrust(error)}") from None
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                raise UpstreamError(Fault.SATURATED, "no file is left for a connection to the upstream") from None
            raise UpstreamError(Fault.CONNECT, f"no connection to the upstream: {_obstacle(error)}") from None
        finally:
            self._opening -= 1
        self._engage(connection)
        return connection

    async def _reach(self) -> Connection:
        """A connection to the first address that answers. Raises OSError and ssl.SSLError."""
        loop, faults = asyncio.get_running_loop(), list[OSError]()
        for address in await self._addresses():
            try:
                _, connection = await loop.create_connection(
                    lambda: Connection(self, loop, self._gap),
                    address,
                    self._port,
                    ssl=self._context,
                    server_hostname=self._host if self._tls else None,
                )
            except ssl.SSLError:
                raise
            except OSError as error:
                faults.append(error)
            else:
                return connection
        raise faults[0] if len({fault.errno for fault in faults}) == 1 else OSError("no address answers")

    async def _addresses(self) -> list[str]:
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(self._host)
            return [self._host]
        found = await self._lookup.ask(self._host, self._port, 0, socket.SOCK_STREAM)
        return [_numeric(*entry[4]) for entry in found]

    def _engage(self, connection: Connection) -> None:
        self._busy.add(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        """One timer for all connections: a timer for each would cost as much as the parsing."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._busy):
            connection.look(now)
        for connection in [c for c in self._idle if now - c.rested > min(self._keep, c.kept)]:
            connection.abandon()
        self._sweep = loop.call_later(LOOK, self._look) if self._busy or self._idle else None

    def release(self, connection: Connection) -> None:
        """A connection has finished its exchange, and rests."""
        self._busy.discard(connection)
        self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """The upstream has closed a connection."""
        if asyncio.get_running_loop().time() - connection.rested < SETTLE:
            self._closes.add(connection.chunked)
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """A connection is not used any more."""
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


_ENDPOINTS = ("/completions", "/responses", "/messages", "/embeddings", "/moderations", "/models")


def _address(url: str) -> tuple[str, int, bool, bytes, bytes]:
    """Host, port, whether with TLS, the path before /v1, and what the Host header says. Raises ValueError, whose
    message never quotes the URL: it may hold a credential."""
    parts = urlsplit(url)
    if any(letter.isspace() or not letter.isprintable() for letter in url) or not parts.path.isascii():
        raise ValueError("the upstream's URL holds a blank or a letter that must be percent-encoded")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the upstream's URL may not hold credentials, a query or a fragment")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("this is no upstream: write it like https://api.example.com/v1")
    if parts.path.rstrip("/").endswith(_ENDPOINTS):
        raise ValueError("the upstream's URL names one endpoint: leave that out, like https://api.example.com/v1")
    name, tls = parts.hostname, parts.scheme == "https"
    default = 443 if tls else 80
    port = parts.port or default
    try:
        host = f"[{name}]".encode("ascii") if ":" in name else name.encode("idna")
    except UnicodeError:
        raise ValueError("the upstream's URL holds no valid host name") from None
    prefix = parts.path.rstrip("/").removesuffix("/v1").encode("ascii")
    return name, port, tls, prefix, host if port == default else host + b":%d" % port


def _numeric(address: str, port: int, flow: int = 0, scope: int = 0) -> str:
    """An address as getaddrinfo gives it, as it is written: where it counts for one interface only, with that."""
    return f"{address}%{scope}" if scope else address


def _obstacle(error: OSError) -> str:
    """Why no connection came about. asyncio writes the address into the error's text, and callers read ours."""
    if isinstance(error, socket.gaierror):
        return "its name is not known (DNS)"
    return os.strerror(error.errno) if error.errno and error.errno > 0 else "no address answers"


def _distrust(error: ssl.SSLError) -> str:
    """What is wrong with a certificate, without the name that it should be for."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return (error.reason or "no TLS").replace("_", " ").lower()
    return "its certificate is for another name" if error.verify_code in _ANOTHER_NAME else error.verify_message


_ANOTHER_NAME = frozenset({62, 64})
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and IP_ADDRESS_MISMATCH."""


def _tls_context(ca_file: str | os.PathLike[str] | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context

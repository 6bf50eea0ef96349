"""Who may see the console, and what a browser may do with its pages.

Decision: where it listens at every address, a browser that asks for an address is let in, and names are only those that
the operator gave. Why: a page elsewhere can have a name of its own point here, and cannot do that with an address.
Cost: behind a proxy or a Service its name has to be said (`--name`).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""On every answer: nothing is run, nothing is fetched from elsewhere, nothing is kept."""
LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
UNNAMED = (
    "This console is not served under that name. If that name is right, let it be started with --name and the name.\n"
)


def spelled(name: str) -> str:
    """A name or an address in the one spelling that browsers use."""
    name = name.strip("[]").rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        return name


def is_address(name: str) -> bool:
    """Whether it is no name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Doorman:
    """Lets in who asks for one of `hosts` (as `spelled`), or with `addresses` for any address, and with a `token` who
    brings it as a password (HTTP Basic; the user is whoever they say they are). A form is taken only from our own
    pages."""

    def __init__(self, hosts: frozenset[str], token: str | None, *, addresses: bool = False) -> None:
        self._hosts, self._token, self._addresses = hosts, token, addresses

    async def __call__(self, request: Request, further: Callable[[Request], Awaitable[Response]]) -> Response:
        response = self._refused(request) or await further(request)
        response.headers.update(HEADERS)
        return response

    def _refused(self, request: Request) -> Response | None:
        # A page elsewhere may have its own name point at this machine: it asks for that name.
        host = _named(request.headers.get("host", ""))
        if host not in self._hosts and not (self._addresses and is_address(host)):
            return PlainTextResponse(UNNAMED, 421)
        if request.method not in {"GET", "HEAD"}:
            origin = urlsplit(request.headers.get("origin", ""))
            # Who ends TLS before us may ask in plain words.
            schemes = {request.url.scheme, "https"}
            if origin.scheme not in schemes or origin.netloc.lower() != request.headers["host"].lower():
                return PlainTextResponse("This was not sent by a page of this console.\n", 403)
        if self._token is not None and self._password(request) is None:
            challenge = {"www-authenticate": 'Basic realm="Penstock", charset="UTF-8"'}
            return PlainTextResponse("Your name, and the admin token as the password.\n", 401, challenge)
        return None

    def _password(self, request: Request) -> str | None:
        """Who asks, where the password is right."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        try:
            told = base64.b64decode(value, validate=True).decode() if scheme.lower() == "basic" else ""
        except (binascii.Error, UnicodeDecodeError):
            return None
        user, _, password = told.partition(":")
        right = hmac.compare_digest(password.encode(), (self._token or "").encode())
        return user if right and told else None

    def user(self, request: Request) -> str | None:
        """The name that somebody gave with the right password."""
        return self._password(request) if self._token is not None else None


def _named(host: str) -> str:
    """The name in a Host header; nothing where none can be read."""
    try:
        parts = urlsplit(f"//{host}")
        plain = parts.netloc == host and "@" not in host and parts.port != 0
        return spelled(parts.hostname or "") if plain else ""
    except ValueError:
        return ""

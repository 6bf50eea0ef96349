"""Who may see the console, and what a browser may do with its pages."""

from __future__ import annotations

import base64
import binascii
import hmac
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


class Doorman:
    """Lets in who asks for one of `hosts` by name, and with a `token` who brings it as a password (HTTP Basic; the user
    is whoever they say they are). A form is taken only from our own pages."""

    def __init__(self, hosts: frozenset[str], token: str | None) -> None:
        self._hosts, self._token = hosts, token

    async def __call__(self, request: Request, further: Callable[[Request], Awaitable[Response]]) -> Response:
        response = self._refused(request) or await further(request)
        response.headers.update(HEADERS)
        return response

    def _refused(self, request: Request) -> Response | None:
        # A page elsewhere may have its own name point at this machine: it asks for that name.
        if (request.url.hostname or "") not in self._hosts:
            return PlainTextResponse("This console is not served under that name: see --host.\n", 421)
        if request.method not in {"GET", "HEAD"}:
            origin = urlsplit(request.headers.get("origin", ""))
            if (origin.scheme, origin.netloc) != (request.url.scheme, request.url.netloc):
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

"""An answer in one piece, errors in the caller's dialect, and the headers that may travel either way."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

from .accounts.secret import PREFIX as KEY_PREFIX
from .dialects.base import Speaker
from .headers import HOP_BY_HOP, nominated
from .problems import unavailable
from .upstream import Headers, Response

PREFIX = KEY_PREFIX.encode()
# What Penstock sets itself, what would let a caller speak for a proxy in front of it, and what some servers take for
# another method or path than the one that was judged.
_NOT_FORWARDED = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"forwarded",
    b"via",
    b"x-http-method",
    b"x-http-method-override",
    b"x-method-override",
    b"x-original-url",
    b"x-rewrite-url",
}


# Who asks, from where and on whose account: the caller's own words for it mean nothing beside the operator's key, or
# would choose among the operator's projects, workspaces, customers and, where the upstream is a gateway, providers.
_CREDENTIALS = frozenset(
    {
        b"authorization",
        b"x-api-key",
        b"api-key",
        b"x-goog-api-key",
        b"ocp-apim-subscription-key",
        b"cookie",
        b"openai-organization",
        b"openai-project",
        b"anthropic-organization-id",
        b"anthropic-workspace-id",
        b"anthropic-user-profile-id",
        b"x-goog-user-project",
        b"cf-aig-authorization",
        b"helicone-auth",
        b"helicone-target-provider",
        b"helicone-target-url",
        b"x-litellm-api-key",
        b"x-portkey-api-key",
        b"x-portkey-config",
        b"x-portkey-custom-host",
        b"x-portkey-provider",
        b"x-portkey-virtual-key",
        b"cf-connecting-ip",
        b"true-client-ip",
        b"x-client-ip",
        b"x-real-ip",
        b"remote-user",
        b"x-remote-user",
    }
)


class Answer(NamedTuple):
    """A whole answer. Header names are in any case; `reason` are the words of its status line, None the usual ones."""

    status: int
    headers: Headers
    body: bytes
    reason: bytes | None = None


_LINES: dict[tuple[int, bytes | None], bytes] = {
    (known.value, reason): f"HTTP/1.1 {known.value} {known.phrase}\r\n".encode("ascii")
    for known in HTTPStatus
    for reason in (known.phrase.encode("ascii"), None)
}
_CONTROLS = bytes({*range(32), 127} - {9})


def status_line(status: int, reason: bytes | None) -> bytes:
    """The first line of an answer, in the upstream's own words where there are any and all of them are printable."""
    line = _LINES.get((status, reason))
    if line is not None:
        return line
    if reason is None or reason.translate(None, _CONTROLS) != reason:
        return _LINES.get((status, None)) or b"HTTP/1.1 %d \r\n" % status
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


def problem(
    dialect: Speaker,
    status: int,
    code: str,
    message: str,
    decision: str,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    param: str | None = None,
) -> Answer:
    """An error in the caller's dialect. Where there is no room, clients are told when to try again."""
    kept = [(name, value) for name, value in headers if name.lower() not in _OF_THE_BODY]
    kept.append((b"content-type", b"application/json"))
    if decision and not any(name.lower() in _IDS for name, _ in kept):
        kept.extend(ids(decision))
    if code in _NO_ROOM:
        kept.append((b"retry-after", b"1"))
    return Answer(status, kept, dialect.error(status, code, message, param))


def unchecked(dialect: Speaker, decision: str) -> Answer:
    """Where a classifier gave no answer and the rule says block: whoever is told of it finds it by the id, and the
    official clients do not try again."""
    headers = [(b"content-type", b"application/json"), *ids(decision), (b"x-should-retry", b"false")]
    body = dialect.error(503, "guard_unavailable", unavailable(decision), decision=decision)
    return Answer(503, headers, body)


def ids(decision: str) -> Headers:
    """The exchange's id under the names that clients look for: OpenAI's and Anthropic's."""
    return [(name, decision.encode()) for name in _IDS]


UPSTREAM_STATUS = {"timeout": 504, "saturated": 503}
"""What a caller gets for a fault of the upstream; 502 for the others."""
_NO_ROOM = frozenset({"overloaded", "upstream_saturated"})
_IDS = (b"x-request-id", b"request-id")
_OF_THE_BODY = frozenset({b"content-type", b"content-encoding", b"content-length", b"etag"})


def called(response: Response) -> bytes | None:
    """What the upstream calls the request, where it says so."""
    return response.header(b"x-request-id") or response.header(b"request-id")


def relayed(response: Response, *, keep_length: bool = False) -> Headers:
    """The answer's headers that the client may see, as they came: none that Penstock alone says. `keep_length` keeps
    the body's length."""
    came, values = response.names.came, response.values
    kept = [(came[place], values[place]) for place in response.names.kept[keep_length]]
    if b"connection" in response.names.at and (hop := nominated(response.all(b"connection"))):
        return [pair for pair in kept if pair[0].lower() not in hop]
    return kept


def forwarded(headers: Iterable[tuple[bytes, bytes]], credentials: Headers | None) -> Headers:
    """The request's headers that the upstream may see, names in the case and the order that they came in.
    `credentials`, if given, replace the caller's own.

    An underscore in a name reads as a hyphen to some servers: such headers are dropped."""
    received = [(came, came.lower(), value) for came, value in headers]
    dropped = _NOT_FORWARDED | nominated([value for _, name, value in received if name == b"connection"])
    if credentials is not None:
        dropped = dropped | _CREDENTIALS
    kept: Headers = []
    coded = False
    for came, name, value in received:
        if name == b"accept-encoding":
            if not coded:
                kept.append((came, b"identity"))
            coded = True
        elif name in dropped or b"_" in name or name.startswith((b"x-penstock-", b"x-forwarded-")):
            continue
        elif credentials is None or PREFIX not in value:  # some clients say their key in a header of their own, too
            kept.append((came, value))
    if not coded:
        kept.append((b"Accept-Encoding", b"identity"))
    kept.extend(credentials or ())
    return kept

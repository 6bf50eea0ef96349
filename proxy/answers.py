"""An answer in one piece, errors in the caller's dialect, and the headers that may travel either way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .accounts.secret import PREFIX as KEY_PREFIX
from .dialects.base import Speaker
from .upstream import Headers, Response

PREFIX = KEY_PREFIX.encode()
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# An alternative service would lead the client past Penstock.
_NOT_RELAYED = HOP_BY_HOP | {b"alt-svc", b"content-length"}
# What Penstock sets itself, what would let a caller speak for a proxy in front of it, and what some servers take for
# another method or path than the one that was judged.
_NOT_FORWARDED = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"accept-encoding",
    b"expect",
    b"forwarded",
    b"via",
    b"x-http-method",
    b"x-http-method-override",
    b"x-method-override",
    b"x-original-url",
    b"x-rewrite-url",
}


# Who asks, and on whose account: the caller's own words for it mean nothing beside the operator's key, or would choose
# among the operator's projects, workspaces and customers.
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
    }
)


class Answer(NamedTuple):
    """A whole answer. Header names are lower case."""

    status: int
    headers: Headers
    body: bytes


def problem(
    dialect: Speaker,
    status: int,
    code: str,
    message: str,
    decision: str,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    param: str | None = None,
    retry: bool | None = None,
) -> Answer:
    """An error in the caller's dialect. `retry` False tells the official clients not to try again."""
    kept = [(name, value) for name, value in headers if name not in {b"content-type", b"content-length", b"etag"}]
    kept.append((b"content-type", b"application/json"))
    if decision and not any(name in _IDS for name, _ in kept):
        kept.extend(ids(decision))
    if retry is False:
        kept.append((b"x-should-retry", b"false"))
    return Answer(status, kept, dialect.error(status, code, message, param))


def ids(decision: str) -> Headers:
    """The exchange's id under the names that clients look for: OpenAI's and Anthropic's."""
    return [(name, decision.encode()) for name in _IDS]


_IDS = (b"x-request-id", b"request-id")


def called(response: Response) -> bytes | None:
    """What the upstream calls the request, where it says so."""
    for name, value in response.headers:
        if name in _IDS:
            return value
    return None


def relayed(response: Response, *, keep_length: bool = False) -> Headers:
    """The answer's headers that the client may see: none that Penstock alone says. `keep_length` keeps the body's
    length."""
    dropped = _NOT_RELAYED | _nominated(response.headers)
    return [
        pair
        for pair in response.headers
        if (pair[0] not in dropped and not pair[0].startswith(b"x-penstock-"))
        or (keep_length and pair[0] == b"content-length")
    ]


def forwarded(headers: Iterable[tuple[bytes, bytes]], credentials: Headers | None) -> Headers:
    """The request's headers that the upstream may see. `credentials`, if given, replace the caller's own.

    An underscore in a name reads as a hyphen to some servers: such headers are dropped."""
    received = list(headers)
    dropped = _NOT_FORWARDED | _nominated(received)
    if credentials is not None:
        dropped = dropped | _CREDENTIALS
    kept = [
        (name, value)
        for name, value in received
        if name not in dropped and b"_" not in name and not name.startswith((b"x-penstock-", b"x-forwarded-"))
    ]
    if credentials is not None:  # some clients say their key in a header of their own, too
        kept = [pair for pair in kept if PREFIX not in pair[1]]
    kept.append((b"accept-encoding", b"identity"))
    kept.extend(credentials or ())
    return kept


def _nominated(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The headers that `Connection` declares to be of this hop only."""
    named = [value.lower() for name, value in headers if name == b"connection"]
    if not named or named in ([b"keep-alive"], [b"close"]):
        return frozenset()
    return frozenset(token.strip() for value in named for token in value.split(b","))

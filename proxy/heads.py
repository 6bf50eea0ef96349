"""Why the head of a request is refused: what leads nowhere, and what a served path does not take."""

from __future__ import annotations

from .batches.table import kind_of
from .listener import Incoming
from .surface import METHODS, Family, Opened, closed, family_of, plain
from .upstream import Headers

_SINGLE = frozenset({b"authorization", b"content-encoding", b"content-type", b"host", b"x-api-key", b"api-key"})


def unserved(
    incoming: Incoming, family: Family | None, opened: Opened, allowed: tuple[bytes, ...]
) -> tuple[int, str, str, Headers]:
    """What is said to a request that leads nowhere: status, code, message, headers."""
    if family is not None and family in opened:
        methods = b", ".join(sorted(METHODS))
        return 405, "method_not_allowed", f"This path takes {methods.decode()} only.", [(b"allow", methods)]
    if allowed:
        text = f"This path takes {allowed[0].decode()} only."
        if family is not None and incoming.method in METHODS:
            text += " " + closed(family)
        return 405, "method_not_allowed", text, [(b"allow", b", ".join(allowed))]
    if family is not None:
        place = plain(incoming.path)
        judged = kind_of(incoming.method, place) if place is not None else None
        return 404, "route_closed", closed(family, str(judged) if judged else ""), []
    text = "Penstock does not serve this path: it is not on the list of judged endpoints."
    if family_of(b"/v1" + incoming.path) is not None:
        text += " Does the base URL of your client end in /v1?"
    elif incoming.path.startswith(b"/v1/v1/") and family_of(incoming.path[3:]) is not None:
        text += (
            " It begins with /v1 twice: your client adds that itself, as Anthropic's do. Leave it out of its base URL."
        )
    return 404, "unknown_url", text, []


def unfit(incoming: Incoming, *, judged: bool, json: bool) -> tuple[int, str, str, Headers] | None:
    """Why the head of a request to a served path is refused, or None where it is not. `judged`: its body is read;
    `json`: as JSON."""
    seen: dict[bytes, bytes] = {}
    for name, value in incoming.headers:
        if name in _SINGLE and name in seen:
            return 400, "duplicate_header", f"The header {name.decode()} is there twice.", []
        seen[name] = value
    if json and not _is_json(seen.get(b"content-type", b"")):
        return 415, "unsupported_media_type", "Send the body as application/json in UTF-8.", []
    if judged and seen.get(b"content-encoding", b"identity").strip().lower() not in {b"identity", b""}:
        return 415, "unsupported_encoding", "Send the body uncompressed: a compressed body cannot be judged.", []
    return None


def _is_json(value: bytes) -> bool:
    kind, _, rest = value.partition(b";")
    if kind.strip().lower() != b"application/json":
        return False
    charset = rest.strip().lower().replace(b'"', b"")
    return charset in {b"", b"charset=utf-8", b"charset=utf8"}

"""Pages in a browser: which may call, and how the browser is told (the Fetch standard's CORS protocol).

A browser asks before a page may send JSON or a key (a preflight, without the key), and shows the page an answer only
where that says it may. Penstock says so itself, for the origins of `cors_origins` alone: what an upstream says of
origins is meant for its own callers, and is dropped. Cookies are for nobody: `access-control-allow-credentials` is
never said, so a page must bring its key itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .answers import Answer
from .listener import Application, Caller, Incoming
from .surface import METHODS
from .upstream import Headers

REMEMBERED = b"600"
"""Seconds for which a browser remembers the answer to a preflight."""
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]*")


def problem_with(origin: str) -> str:
    """What is wrong with an origin in the settings; nothing where it is one."""
    if origin == "*":
        return "lets every page call: name each origin, like https://app.example.com"
    if not _ORIGIN.fullmatch(origin):
        return "is no origin as browsers send it: write it like https://app.example.com, without a path"
    scheme, _, host = origin.partition("://")
    if host.endswith({"https": ":443", "http": ":80"}.get(scheme, "/")):
        return "names the port that browsers leave out: leave it out, too"
    return ""


class Pages:
    """`served`, for pages of these origins, too."""

    def __init__(self, served: Application, origins: Iterable[str]) -> None:
        self._served = served
        self._allowed = frozenset(origin.encode("ascii") for origin in origins)

    def opened(self, incoming: Incoming) -> Answer | None:
        if incoming.method != b"OPTIONS" or not _only(incoming, b"access-control-request-method"):
            answer = self._served.opened(incoming)
            return None if answer is None else self._said(answer, incoming)
        incoming.memo = self._granted(incoming)
        if incoming.memo is not None:
            return None
        text = "Pages of this origin may not call from a browser: the operator can name it in `cors_origins`."
        return self.refused(incoming, 403, "origin_not_allowed", text)

    def refused(self, incoming: Incoming | None, status: int, code: str, message: str) -> Answer:
        answer = self._served.refused(incoming, status, code, message)
        return answer if incoming is None else self._said(answer, incoming)

    async def serve(self, incoming: Incoming, body: bytes, caller: Caller) -> None:
        if isinstance(incoming.memo, Answer):
            caller.answer(incoming.memo)
            caller.over()
        else:
            caller.origins = self._told(incoming)
            await self._served.serve(incoming, body, caller)

    def _granted(self, incoming: Incoming) -> Answer | None:
        """The answer to a page that may call and asks first; None for all others."""
        asked = _only(incoming, b"access-control-request-headers")
        if _only(incoming, b"origin") not in self._allowed or not _NAMES.fullmatch(asked):
            return None
        methods = b", ".join(sorted(METHODS | {b"HEAD"}))
        said = [(b"access-control-allow-methods", methods), (b"access-control-max-age", REMEMBERED)]
        if asked:
            said.append((b"access-control-allow-headers", asked))
        return self._said(Answer(204, said, b""), incoming)

    def _told(self, incoming: Incoming) -> Headers:
        """What every answer to this request says of origins."""
        origin = _only(incoming, b"origin")
        told = [(b"vary", b"Origin")]
        if origin in self._allowed:
            told += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", b"*")]
        return told

    def _said(self, answer: Answer, incoming: Incoming) -> Answer:
        answer.headers.extend(self._told(incoming))
        return answer


def _only(incoming: Incoming, wanted: bytes) -> bytes:
    """The value of a header that is there once; else nothing."""
    found = [value for name, value in incoming.headers if name == wanted]
    return found[0] if len(found) == 1 else b""

"""The pages of a list of which each account sees its own things only.

Decision: a page on which nothing is one's own is passed over, and the next one asked for, up to PAGES of them. Why:
official clients stop at a page without items, whatever it says of more behind it; what lay there was lost to its owner.
Cost: requests upstream that nobody sent, each for LIMIT things; who has nothing among the newest PAGES pages is told of
nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from .accounts.holder import LISTED, noted
from .accounts.mentioned import pairs
from .routing import Backend
from .strict import Malformed, parse

PAGES = 50
"""Pages that are passed over for one request."""
LIMIT = 100
"""Things on each of them, which all providers give, unless the first page had more."""

Page = Callable[[bytes], Awaitable[bytes]]
"""The body of what a GET of a target answers. Raises UpstreamError and Malformed."""
Own = tuple[bytes | None, Any]
"""What a caller gets of an answer: its bytes, None where it is not as it came, and its tree."""
_BACK = ("before_id", "before")


async def page_of(backend: Backend, head: bytes, most: int) -> bytes:
    """A further page. Raises UpstreamError and Malformed."""
    response = await backend.send(head, None)
    body = await response.read(most)
    if response.status != 200:
        raise Malformed(f"a further page of the list has the status {response.status}")
    return body


async def own_page(own: Callable[[Any], bool], raw: bytes, target: bytes, family: str, page: Page) -> Own:
    """The page of a list that a caller gets of `raw`, which a GET of `target` answered. Raises Malformed, Unwritten and
    UpstreamError."""
    tree, changed = parse(raw), False
    first = len(_items(tree))
    for _ in range(PAGES):
        following = onward(target, family, tree)
        changed = await noted(own, tree) or changed
        if _items(tree) or following is None or following == target:
            break
        target, changed = following, True
        tree = parse(await page(target))
    else:
        await noted(own, tree)
    if changed and not _backwards(target):
        _shorten(tree, first)
    return (None if changed else raw), tree


def onward(target: bytes, family: str, tree: Any) -> bytes | None:
    """The target of the page behind the page `tree`; None where there is none, or nobody says where it begins."""
    if not isinstance(tree, dict):
        return None
    token, items = tree.get("next_page"), _items(tree)
    if isinstance(token, str) and token:
        return _asking(target, {"page": token})
    at = items[0 if _backwards(target) else -1] if tree.get("has_more") is True and items else None
    name = at.get("id") if isinstance(at, dict) else None
    if not isinstance(name, str):
        return None
    if back := _backwards(target):
        return _asking(target, {back: name})
    given = {key for key, _ in pairs(target.partition(b"?")[2])}
    cursor = "after_id" if "after_id" in given or (family == "anthropic" and "after" not in given) else "after"
    return _asking(target, {cursor: name} | ({"limit": str(LIMIT)} if len(items) < LIMIT else {}))


def _asking(target: bytes, asked: dict[str, str]) -> bytes:
    """`target` with these values in its query, in the place of others by their names."""
    path, _, query = target.partition(b"?")
    kept = [pair for pair in query.split(b"&") if pair and all(name not in asked for name, _ in pairs(pair))]
    return (
        path + b"?" + b"&".join([*kept, *(f"{name}={quote(value, safe='')}".encode() for name, value in asked.items())])
    )


def _backwards(target: bytes) -> str:
    """The name by which a query asks for what stands before something, if it does."""
    given = {key for key, _ in pairs(target.partition(b"?")[2])}
    return next((name for name in _BACK if name in given), "")


def _items(tree: Any) -> list[Any]:
    """What a page lists."""
    lists = [tree.get(name) for name in LISTED] if isinstance(tree, dict) else []
    return next((found for found in lists if isinstance(found, list)), [])


def _shorten(tree: Any, most: int) -> None:
    """No more things than were asked for: further pages may be longer than the first."""
    items = _items(tree)
    if isinstance(tree.get("has_more"), bool) and len(items) > most > 0:
        del items[most:]
        tree["has_more"] = True
        if "last_id" in tree:
            tree["last_id"] = items[-1]["id"]

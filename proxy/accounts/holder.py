"""One account's view of what is stored at the provider: its own things, and nothing of anybody else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..dialects.base import NotFound, TooMany
from .stored import minted, referred, shaped

if TYPE_CHECKING:
    from .owned import Owned

MOST = 16_384
"""Words of one request that are looked up, for it keeps everybody waiting."""
AGAIN = 0.5
"""Seconds after which what could not be noted is tried a second time."""
LONGEST = 512
"""Letters of an id, and the blanks around it."""
_WORD = re.compile(r"\s*\S+\s*")
_FIELD = re.compile(r"[a-z_]{1,40}")
_NOT_YOURS = (
    "The request refers to an object that does not exist, or is not yours. (What only looks like the id of one needs "
    "another name.)"
)
_LISTED = ("data", "items")


class Holder:
    """What `account` may name. `thing` is the id in the path that it asks for, if there is one. Methods raise NotFound
    for what is not its own."""

    def __init__(self, owned: Owned, account: str, thing: str | None = None) -> None:
        self._owned, self._account, self._thing = owned, account, thing

    def named(self) -> bool:
        """Whether the path names a thing; one of somebody else's is not found."""
        if self._thing is None:
            return False
        if not self._owned.owns(self._account, self._thing):
            raise NotFound("There is no such object, or it is not yours.")
        return True

    def request(self, tree: Any) -> None:
        """What a judged request refers to."""
        if not isinstance(tree, dict):
            return
        known: set[str] = set()
        for name, field in referred(tree):
            if name in known:
                continue
            known.add(name)
            if not self._owned.owns(self._account, name):
                if field == "previous_response_id":
                    # As OpenAI says it: its clients know the code.
                    raise Unanswered("There is no such previous response, or it is not yours.", field)
                raise NotFound("There is no such object, or it is not yours.", field)

    def body(self, tree: Any, *, strict: bool = True) -> None:
        """What a request refers to that nobody judges: no string in it may be the id of somebody else's thing, nor,
        where `strict`, look like an id and not be one's own."""
        words: dict[str, str] = {}  # word -> where it stands
        whole: set[str] = set()  # messages that are sent whole: their ids lead nowhere
        stack: list[tuple[str, Any]] = [("", tree)]
        while stack:
            place, value = stack.pop()
            if isinstance(value, dict):
                told = str(value.get("id")) if value.get("type") == "message" and "content" in value else ""
                if told.startswith("msg_"):
                    whole.add(told)
                    value = {name: inner for name, inner in value.items() if name != "id"}
                stack.extend(value.items())
            elif isinstance(value, list):
                stack.extend([(place, inner) for inner in value])
            elif isinstance(value, str) and len(value) <= LONGEST and _WORD.fullmatch(value):
                words[value.strip()] = place
        if len(words) + len(whole) > MOST:
            raise TooMany(MOST, "words that could name what is stored")
        ids = [word for word in words if shaped(word)] if strict else []
        if self._owned.lacks(self._account, ids):
            lost = next((word for word in ids if not self._owned.owns(self._account, word)), ids[0])
            raise NotFound(_NOT_YOURS, words[lost] if _FIELD.fullmatch(words[lost]) else None)
        if self._owned.foreign(self._account, words.keys() | whole):
            raise NotFound(_NOT_YOURS)

    def answered(self, tree: Any, *, kept: bool, all_of_them: bool = False, must: bool = False) -> bool:
        """Note the ids that an answer gives away; `kept`: its own, too. `all_of_them`: it may list what belongs to
        others, which is taken out. Returns whether `tree` was changed. Raises Unwritten where they `must` be noted, and
        were not."""
        if not self._owned.mint(self._account, minted(tree, kept=kept)) and must:
            raise Unwritten
        return all_of_them and self._without_others(tree)

    def _without_others(self, tree: Any) -> bool:
        changed = False
        for name in _LISTED if isinstance(tree, dict) else ():
            items = tree.get(name)
            if not isinstance(items, list):
                continue
            own = [item for item in items if self._is_own(item)]
            if len(own) != len(items):
                tree[name], changed = own, True
                for key, at in (("first_id", 0), ("last_id", -1)):
                    if key in tree:
                        tree[key] = own[at]["id"] if own else None
        return changed

    def _is_own(self, item: Any) -> bool:
        name = item.get("id") if isinstance(item, dict) else None
        return isinstance(name, str) and self._owned.owns(self._account, name)


class Unwritten(Exception):
    """Whose the things in an answer are was not written down: who has them now would not find them again."""

    code = "owner_unavailable"

    def __init__(self) -> None:
        super().__init__("What was stored cannot be given to you, for it could not be noted whose it is: try again.")


class Unanswered(NotFound):
    """A previous response that is not there."""

    status = 400

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message, param, "previous_response_not_found")


async def noted(own: Callable[[Any], bool], tree: Any) -> bool:
    """What `own` says of `tree`, which is asked again where the table was busy. Raises Unwritten."""
    try:
        return own(tree)
    except Unwritten:
        await asyncio.sleep(AGAIN)
        return own(tree)

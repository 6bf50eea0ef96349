"""One account's view of what is stored at the provider: its own things, and nothing of anybody else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..dialects.base import NotFound, TooMany
from ..strict import Malformed
from .stored import leads, minted, quiet, recalled, referred, shaped, told

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
LISTED = ("data", "items")
"""Where answers have lists of things."""


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
        # Of unknown ones another replica may know: an agent that keeps nothing on purpose goes to any of them.
        thoughts = dict(recalled(tree))
        if thoughts and self._owned.foreign(self._account, thoughts):
            lost = next((name for name in thoughts if self._owned.foreign(self._account, [name])), None)
            raise NotFound("There is no such object, or it is not yours.", thoughts.get(lost or ""))

    def body(self, tree: Any) -> None:
        """What a request refers to that nobody judges: no string in it may be the id of somebody else's thing, nor look
        like an id in a field that leads to stored things and not be one's own. A field without a name leads nowhere."""
        words: dict[str, str] = {}  # word -> where it stands, if it leads somewhere there
        whole: set[str] = set()  # messages that are sent whole: their ids lead nowhere
        stack: list[tuple[str, Any, bool]] = [("", tree, True)]
        while stack:
            place, value, follows = stack.pop()
            if isinstance(value, dict):
                told = str(value.get("id")) if value.get("type") == "message" and "content" in value else ""
                if told.startswith("msg_"):
                    whole.add(told)
                    value = {name: inner for name, inner in value.items() if name != "id"}
                said = quiet(value)
                stack += [(name, inner, follows and name not in said) for name, inner in value.items()]
            elif isinstance(value, list):
                stack += [(place, inner, follows) for inner in value]
            elif isinstance(value, str) and len(value) <= LONGEST and _WORD.fullmatch(value):
                word = value.strip()
                words[word] = place if follows and leads(place) else words.get(word, "")
        if len(words) + len(whole) > MOST:
            raise TooMany(MOST, "words that could name what is stored")
        ids = [word for word, place in words.items() if place and shaped(word)]
        if self._owned.lacks(self._account, ids):
            lost = next((word for word in ids if not self._owned.owns(self._account, word)), ids[0])
            raise NotFound(_NOT_YOURS, words[lost] if _FIELD.fullmatch(words[lost]) else None)
        if self._owned.foreign(self._account, words.keys() | whole):
            raise NotFound(_NOT_YOURS)

    def answered(self, tree: Any, *, kept: bool, all_of_them: bool = False, must: bool = False) -> bool:
        """Note the ids that an answer gives away; `kept`: its own, too. `all_of_them`: it may list what belongs to
        others, which is taken out. Returns whether `tree` was changed. Raises Malformed where that cannot be told, and
        Unwritten where they `must` be noted, and were not."""
        changed, giving = self._without_others(tree) if all_of_them else (False, [tree])
        ids = [name for given in giving for name in minted(given, kept=kept)]
        if not self._owned.mint(self._account, ids) and must:
            raise Unwritten
        return changed

    def told(self, event: Any, known: set[str]) -> None:
        """Note the ids in an event of a stream, but for the `known` ones; they are known then."""
        if new := {name for name in told(event) if name not in known}:
            self._owned.mint(self._account, new)
            if len(known) < MOST:
                known |= new

    def _without_others(self, tree: Any) -> tuple[bool, list[Any]]:
        """Take out of a list what is not this account's: whether there was any, and what is left. Raises Malformed
        where it is no list, or tells of others' things elsewhere."""
        lists = [name for name in LISTED if isinstance(tree, dict) and isinstance(tree.get(name), list)]
        if not lists:
            raise Malformed("it should be a list, an object with 'data' or 'items'")
        changed, left = False, list[Any]()
        for name in lists:
            own = [item for item in tree[name] if self._is_own(item)]
            changed, left = changed or len(own) != len(tree[name]), left + own
            tree[name] = own
        for key, at in (("first_id", 0), ("last_id", -1)):
            if key in tree:
                named = left[at]["id"] if left else None
                tree[key], changed = named, changed or tree[key] != named
        if self._owned.lacks(self._account, _ids({key: value for key, value in tree.items() if key not in lists})):
            raise Malformed("it names what is stored for others beside its list")
        return changed, left

    def _is_own(self, item: Any) -> bool:
        name = item.get("id") if isinstance(item, dict) else None
        return isinstance(name, str) and self._owned.owns(self._account, name)


def _ids(tree: Any) -> set[str]:
    """What stands in `tree` as an id, or looks like one."""
    found, stack = set[str](), [("", tree)]
    while stack:
        place, value = stack.pop()
        if isinstance(value, dict):
            stack += value.items()
        elif isinstance(value, list):
            stack += [(place, inner) for inner in value]
        elif isinstance(value, str) and (place == "id" or shaped(value)):
            found.add(value)
    return found


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

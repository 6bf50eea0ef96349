"""What is asked: a classifier, the roles that it is to read, and how long it may take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .base import Classifier, Message, Role
from .cascade import After

INLINE_LIMIT = 100_000
"""Characters that are judged on the event loop; RE2 reads so many in about a millisecond."""
FEW = 20_000
"""Characters that a deadline is for."""

Wanted = (
    tuple[str, frozenset[Role], float]
    | tuple[str, frozenset[Role], float, After | None]
    | tuple[str, frozenset[Role], float, After | None, frozenset[Role]]
)
"""What is asked of a classifier, by its name, as in `Asked`."""

_ROLES = len(Role)


@dataclass(frozen=True, slots=True)
class Asked:
    """One classifier, the roles that it is to read, and its deadline in seconds for `FEW` characters. With `after` it
    reads only what another one is in doubt about, and its deadline begins when that one is done. Roles in `last` are
    read last, and have no time of their own."""

    classifier: Classifier
    roles: frozenset[Role]
    deadline: float
    after: After | None = None
    last: frozenset[Role] = frozenset()
    at_once: bool = field(init=False)
    """Whether it needs neither a worker nor another classifier's answer."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "at_once", self.classifier.inline and self.after is None)


def chosen(messages: Sequence[Message], roles: frozenset[Role]) -> tuple[Sequence[Message], Sequence[int] | None]:
    """The messages of these roles, and their places in `messages` (None where all are chosen)."""
    if len(roles) == _ROLES:
        return messages, None
    indices = [index for index, message in enumerate(messages) if message.role in roles]
    return [messages[index] for index in indices], indices


def unread(messages: Sequence[Message], asked: Iterable[Asked]) -> tuple[int, ...]:
    """The places of messages whose role nobody reads."""
    roles: frozenset[Role] = frozenset()
    for item in asked:
        roles |= item.roles
        if len(roles) == _ROLES:
            return ()
    return tuple([index for index, message in enumerate(messages) if message.role not in roles])


def asked_of(classifiers: Mapping[str, Classifier], readings: Iterable[Wanted]) -> list[Asked]:
    """What `report` takes, inline classifiers first."""
    asked = [Asked(classifiers[each[0]], *each[1:]) for each in readings]
    return sorted(asked, key=lambda item: not item.classifier.inline)

"""What every dialect translates to and from, and the walk over leaves that none of them may narrow."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from classifiers.base import Message, Role

from ..accounts.stored import tools
from ..gate import Kind, Part, Piece
from ..sse import Event, read
from ..strict import Malformed
from .encoded import text_in
from .escapes import decoded


class BadRequest(ValueError):
    """A request of the wrong shape. `param` names the field (dots and brackets, as the API's own errors do)."""

    status, code = 400, "invalid_request"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class TooMany(BadRequest):
    """A request of more texts than are judged at once: each is small, and all of them would keep others waiting."""

    status, code = 413, "request_too_large"

    def __init__(self, most: int, what: str = "texts to judge") -> None:
        super().__init__(f"The request holds more than {most} {what}.")


class NotFound(BadRequest):
    """A request for something that is not there, or not for this account: nobody learns which."""

    status = 404

    def __init__(self, message: str, param: str | None = None, code: str = "not_found") -> None:
        super().__init__(message, param)
        self.code = code


MOST = 64
"""Models that may answer in another's place."""
_FALLBACKS = ("fallbacks", "models", "context_window_fallbacks", "content_policy_fallbacks", "default_fallbacks")
STORED = ("preset", "prompt_id")
"""Fields that name instructions which are kept elsewhere, and a model with them perhaps: OpenRouter's and LiteLLM's."""
_ELSEWHERE = frozenset({*_FALLBACKS, *STORED})
_HOLDS_TEXT = frozenset({str, dict, list})
LARGE = 10_000
"""From where on a number can be more than a count."""
_SCHEMAS = frozenset({"parameters", "input_schema", "output_schema", "function", "custom", "format"})
"""Members of a tool that describe what it is called with."""


@dataclass(slots=True)
class Body:
    """What a request or an answer says. `unscannable` holds (origin, kind) of parts that are no text: an image, a
    file."""

    messages: list[Message] = field(default_factory=list)
    unscannable: list[tuple[str, str]] = field(default_factory=list)

    def add(self, role: Role, text: str, origin: str) -> None:
        """Text to judge; empty text says nothing."""
        if text:
            self.messages.append(Message(role, text, origin))

    def leaves(self, value: Any, role: Role, origin: str, vocabulary: frozenset[str]) -> None:
        """Every string leaf and object key in `value`, but for words of the dialect's own vocabulary."""
        kind = type(value)
        if kind is str:
            if value and value not in vocabulary:
                self.messages.append(Message(role, value, origin))
        elif kind is dict:
            for key, inner in value.items():
                if key in vocabulary:
                    if type(inner) in _HOLDS_TEXT:
                        self.leaf(inner, role, origin, key, vocabulary)
                    continue
                place = f"{origin}/{escaped(key)}"
                self.add(role, key, place + "#key")
                self.leaves(inner, role, place, vocabulary)
        elif kind is list:
            for index, inner in enumerate(value):
                if type(inner) in _HOLDS_TEXT:
                    self.leaves(inner, role, f"{origin}/{index}", vocabulary)

    def leaf(self, value: Any, role: Role, origin: str, key: str, vocabulary: frozenset[str]) -> None:
        """As `leaves` for the member `key` of what stands at `origin`; `key` is a word of the vocabulary. Most of them
        hold a number or a short text: this is the quick way."""
        kind = type(value)
        if kind is str:
            if value and value not in vocabulary:
                self.messages.append(Message(role, value, f"{origin}/{key}"))
        elif kind is dict or kind is list:
            self.leaves(value, role, f"{origin}/{key}", vocabulary)

    def encoded(self, role: Role, value: str, origin: str, kind: str = "") -> None:
        """Bytes that were named as unscannable: where they are a text, as their media type `kind` may say, it is read
        besides."""
        text = text_in(value, kind)
        self.add(role, text, origin if text is value else origin + "#bytes")

    def arguments(self, text: str, origin: str) -> None:
        """A tool call's arguments: as written, and as the client will read them once JSON's escapes are undone."""
        self.add(Role.TOOL_CALL, text, origin)
        if "\\" in text:
            self.add(Role.TOOL_CALL, decoded(text), origin + "#decoded")

    def given(self, value: Any, role: Role, origin: str) -> None:
        """What a tool is called with, where that is not spelled as a text: every leaf and key of it, and its large
        numbers, which could be a card's or an account's. They have no place where they could be masked."""
        self.leaves(value, role, origin, frozenset())
        self.add(role, "\n".join(_large(value)), origin + "#numbers")


@dataclass(slots=True)
class Request(Body):
    """A request, read. `tree` is the parsed body; `own` is told an answer's object, whose ids are the account's from
    then on, and says whether it took out of it what is not; `listed` is asked instead where a list is (`paging`), with
    its bytes and the most that may be read. `modelless`: it asks no model; it is about what is stored
    at the provider. `structured`: words are no answer to it (`structured.py`). `queried` are models that its URL
    names."""

    tree: Any = None
    model: str = ""
    modelless: bool = False
    stream: bool = False
    structured: bool = False
    queried: tuple[str, ...] = ()
    usage_wanted: bool = False
    choices: int = 1
    own: Callable[[Any], bool] | None = None
    listed: Callable[[bytes, int], Awaitable[tuple[bytes | None, Any]]] | None = None

    def others(self) -> list[str]:
        """Models that may answer where the one that is asked does not; an empty name is whichever the provider takes,
        as it may where instructions are named that it keeps. (`fallbacks` of Anthropic's and LiteLLM's, `models` of
        OpenRouter's; for LiteLLM names with a comma between, and what the URL says.) Raises BadRequest for more than
        MOST."""
        found = [*self.queried, *([name.strip() for name in self.model.split(",", MOST)] if "," in self.model else ())]
        tree = self.tree if isinstance(self.tree, dict) else {}
        elsewhere = not _ELSEWHERE.isdisjoint(tree)  # hardly any request leads there
        for field_name in _FALLBACKS if elsewhere else ():
            named = tree.get(field_name)
            if named is not None:
                found.extend(
                    islice(_models(named), MOST + 1 - min(len(found), MOST)) if isinstance(named, list) else [""]
                )
            if len(found) > MOST:
                raise BadRequest(f"'{field_name}' names more than {MOST} models.", field_name)
        if len(found) > MOST:
            raise BadRequest(f"'model' names more than {MOST} models.", "model")
        if isinstance(self.tree, dict) and (named_in(self.model) or (elsewhere and any(map(tree.get, STORED)))):
            found.append("")
        return found

    def helpers(self) -> list[str]:
        """Models that a tool of the request sets to work: one that gives advice, one that draws."""
        found: list[Any] = []
        for _, tool in tools(self.tree) if isinstance(self.tree, dict) else ():
            found.append(tool.get("model"))
            found += [inner.get("model") for key, inner in tool.items() if type(inner) is dict and key not in _SCHEMAS]
        return [name for name in found if isinstance(name, str)]


def named_in(model: Any) -> bool:
    """Whether a model's name is, or holds, that of instructions that OpenRouter keeps (`@preset/...`)."""
    return type(model) is str and "@preset/" in model


def _models(named: list[Any]) -> Iterator[str]:
    """The names in a list of models: bare, in objects, or for each model a list of those that stand in for it."""
    for item in named:
        if isinstance(item, dict) and "model" not in item:
            for inner in item.values():
                yield from _models(inner if isinstance(inner, list) else [inner])
            continue
        name = item.get("model") if isinstance(item, dict) else item
        if isinstance(name, list):
            yield from _models(name)
        elif name is not None:
            yield name if isinstance(name, str) else ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a caller is told, and nothing more: no score, no matched text. `complete`: the words are an answer like any
    other, and end like one; `usage` is then what the model's own had cost, in numbers."""

    message: str
    reason: str
    policy: str
    stage: str
    decision: str
    param: str = "messages"
    complete: bool = False
    usage: Mapping[str, int] = field(default_factory=dict)

    def cost(self, *names: str) -> dict[str, int]:
        """The numbers of these names; 0 where they are not known."""
        return {name: self.usage.get(name, 0) for name in names}


class StreamReader(Protocol):
    """Reads one stream's events, and ends it in the dialect's own words. `sequel`: its texts of one role are one to
    whoever reads them as they come."""

    sequel: bool

    def repeat(self, raw: bytes) -> Part | None:
        """The part that an event's bytes are, where they differ from an earlier event's in known strings only; None
        where they must be read."""
        ...

    def runs(self, raw: bytes, most: int) -> list[Part]:
        """As `repeat` for many events that stand behind each other: at most `most` parts that are runs of events,
        from the first one on. What they leave over must be looked at one by one."""
        ...

    def read(self, event: Event) -> Part:
        """The part that `event` is. Raises Malformed where it cannot be read."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the stream has said that it is over."""
        ...

    @property
    def finished(self) -> bool:
        """Whether every answer in it has said that it is finished."""
        ...

    def released(self, part: Part) -> None:
        """`part` has left: what it says of itself may be said again."""
        ...

    def rewritten(self, part: Part, edits: Sequence[tuple[Piece, str]]) -> bytes:
        """`part` with new text in some pieces."""
        ...

    def ending(self, refusal: Refusal) -> bytes:
        """Events that end the stream after a block: visible words, a finish for every open choice."""
        ...

    def broken(self, message: str, code: str, decision: str = "") -> bytes:
        """Events that end the stream after a fault of the upstream, or of ours. `decision`, if given, is in them."""
        ...


class Speaker(Protocol):
    """Who can say an error as one API does."""

    name: str

    def error(self, status: int, code: str, message: str, param: str | None = None, decision: str = "") -> bytes:
        """An error body. `decision`, if given, is in it."""
        ...


class Dialect(Speaker, Protocol):
    """One API."""

    def read_request(self, tree: Any) -> Request:
        """Raises BadRequest where the shape is wrong."""
        ...

    def read_response(self, tree: Any) -> Body: ...

    def reader(self, request: Request) -> StreamReader: ...

    def refused(self, refusal: Refusal) -> bytes:
        """The body of a 400 that refuses."""
        ...

    def answered(self, refusal: Refusal, request: Request) -> bytes | None:
        """The body of a 200 that refuses in words; None where an answer of this API holds no words, so that only an
        error can refuse."""
        ...

    def streamed(self, refusal: Refusal, request: Request) -> bytes:
        """The events of a whole stream that refuses in words."""
        ...


def _large(value: Any) -> Iterator[str]:
    """The large numbers in `value`."""
    stack = [value]
    while stack:
        inner = stack.pop()
        kind = type(inner)
        if kind is dict:
            stack += reversed(inner.values())
        elif kind is list:
            stack += reversed(inner)
        elif (kind is int or kind is float) and abs(inner) >= LARGE:
            yield str(inner)


_SEALED = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")


def looks_sealed(text: str) -> bool:
    """Whether `text` can be what a provider encrypted: base64 and nothing else, and no short word. All else can be
    read, so it is."""
    return _SEALED.fullmatch(text) is not None


def escaped(key: str) -> str:
    """`key` as a token of a JSON pointer (RFC 6901), and its `#` as ~2: behind a bare one an origin says how a text was
    derived, which is for nobody to say who chooses a key."""
    if "~" in key or "/" in key or "#" in key:
        return key.replace("~", "~0").replace("/", "~1").replace("#", "~2")
    return key


def key_of(token: str) -> str:
    """The key that `escaped` made `token` of."""
    return token.replace("~2", "#").replace("~1", "/").replace("~0", "~") if "~" in token else token


def replaced(tree: Any, origin: str, value: str) -> None:
    """Set the string leaf at JSON pointer `origin` of `tree`.

    Log probabilities and the numbers of tokens (`token_ids`) spell an answer's text again, token by token: beside a
    leaf that is set they are taken out, and so they are where `origin` means one of them."""
    *path, last = map(key_of, origin.split("/")[1:])
    for step in path:
        _unspell(tree)
        tree = tree[int(step)] if isinstance(tree, list) else tree[step]
        if not tree:
            return  # it was taken out
    _unspell(tree)
    if isinstance(tree, list):
        tree[int(last)] = value
    elif isinstance(tree[last], str):
        tree[last] = value


def _unspell(tree: Any) -> None:
    if not isinstance(tree, dict):
        return
    if isinstance(spelled := tree.get("logprobs"), dict | list):
        tree["logprobs"] = [] if isinstance(spelled, list) else None
    if tree.get("token_ids"):
        tree["token_ids"] = None


def exact(raw: bytes) -> Any:
    """The JSON value in an event that was read before, to be changed and `written` again: whole numbers of any size
    survive, which are floats to the quicker parser."""
    return json.loads(read(raw).data or "")


def written(tree: Any) -> str:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))


__all__ = [
    "BadRequest",
    "Body",
    "Dialect",
    "Kind",
    "Malformed",
    "NotFound",
    "Part",
    "Piece",
    "Refusal",
    "Request",
    "Speaker",
    "StreamReader",
    "escaped",
    "exact",
    "key_of",
    "looks_sealed",
    "replaced",
    "written",
]

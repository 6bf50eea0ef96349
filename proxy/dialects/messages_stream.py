"""Anthropic Messages: what a stream says, event by event, and how it is ended.

A stream is a message that opens blocks, fills them and closes them. Text and thinking flow; every other block is held
until it is closed. Calls of the client's tools wait for each other until the message says why it stopped: LangChain and
LiteLLM run the calls that came before a blocked one. What breaks that order is not relayed: clients would disagree on
what it means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from classifiers.base import Role

from ..sse import Event, framed
from ..sse import read as event_of
from ..strict import Malformed, parse
from .base import Body, Kind, Part, Piece, Refusal, Request, escaped, exact, key_of, looks_sealed, written
from .messages_body import (
    ENCRYPTED,
    VOCABULARY,
    error_of,
    kind_of,
    read_block,
    read_content,
    read_field,
    refused_message,
    says_nothing,
    speaker,
    stop_of,
    trace_of,
)
from .repeats import Repeats

_FLOWING = {"text": Role.ASSISTANT, "thinking": Role.REASONING}
"""Blocks whose text may leave bit by bit, and the field that holds it. A sentence may run on from block to block, so
all blocks of a type are one channel."""
_GROUPS = {"text": -2, "thinking": -3}
"""Prose goes on until the message is over. Thoughts end with their block: what was held of them would hold up the
answer behind them."""
_CALLS = -4
"""The group of all calls that the client is to execute."""
_WHOLE = frozenset({"signature", "citation"})
"""Fields of a delta that are complete where they stand."""

Path = tuple[str | int, ...]


class MessagesReader:
    """One stream of a message's events."""

    sequel = False

    def __init__(self, request: Request) -> None:
        self._request = request
        self._seen: dict[str, str] = {}  # the last value of text that is complete where it stands
        self._news = False  # the event at hand said something that is said once
        self._repeats = Repeats()
        self._open: dict[int, Any] = {}  # block -> its type
        self._called = False  # a call waits for the end of the message
        self._begun: set[int] = set()
        self._latest: dict[str, int] = {}  # field of flowing text -> the block that said some last
        self._complete = self._finished = False
        # What has left:
        self._head: dict[str, Any] | None = None
        self._shown: dict[int, Any] = {}  # open blocks
        self._next = 0
        self._spoke = False

    @property
    def complete(self) -> bool:
        return self._complete

    @property
    def finished(self) -> bool:
        return self._finished

    def repeat(self, raw: bytes) -> Part | None:
        found = self._repeats.match(raw)
        if found is None:
            return None
        texts, known = found
        return Part(raw, tuple([piece._replace(text=text) for text, piece in zip(texts, known, strict=True) if text]))

    def runs(self, raw: bytes, most: int) -> list[Part]:
        parts: list[Part] = []
        for lump in self._repeats.lumps(raw, most):
            said = [(slot, "".join(column)) for slot, column in enumerate(lump.columns)]
            pieces = [lump.notes[slot].saying(text) for slot, text in said if text]
            parts.append(lump.part(pieces, [slot for slot, text in said if text]))
        return parts

    def read(self, event: Event) -> Part:
        pieces: list[Piece] = []
        opaque: list[tuple[str, str]] = []
        self._news = False
        name = "" if event.name in VOCABULARY else event.name
        for place, text in (("comment", event.comment), ("event", name), ("id", event.id)):
            if text:
                self._atom(pieces, f"#{place}", text, Role.SETTING)
        if not event.data:
            return Part(event.raw if event.plain else b"", tuple(pieces))
        raw = event.raw if event.plain else framed(event.data, event.name)
        tree = parse(event.data)
        if not isinstance(tree, dict):
            raise Malformed("an event is not a JSON object")
        closes: tuple[int, ...] = ()
        match tree.get("type"):
            case "message_start":
                self._start(pieces, opaque, tree)
                self._own(tree.get("message"))
            case "content_block_start" | "content_block_delta" | "content_block_stop":
                closes = self._block_event(pieces, opaque, tree)
            case "message_stop":
                self._complete = True
                closes = (*_GROUPS.values(), _CALLS)
                self._called = False
                self._rest(pieces, tree, "", Role.SETTING)
            case "error" if self._called or any(of not in _FLOWING for of in self._open.values()):
                # It would wait behind a block that never leaves: the end of the stream is ours to tell.
                raise Malformed("it reports an error before its calls are whole")
            case kind:
                delta = tree.get("delta")
                if kind == "message_delta" and isinstance(delta, dict):
                    self._own(delta)
                    if delta.get("stop_reason"):
                        self._finished, self._called = True, False
                        closes = (_CALLS,)
                self._rest(pieces, tree, "", Role.ERROR if kind == "error" else Role.SETTING)
        if not opaque and not self._news and all(piece.path and piece.kind is not Kind.ATOM for piece in pieces):
            self._repeats.learn(event.raw, tree, [piece.path for piece in pieces], tuple(pieces))
        return Part(raw, tuple(pieces), closes, tree, tuple(opaque))

    def released(self, part: Part) -> None:
        tree = part.tree
        if not isinstance(tree, dict):
            return
        match tree.get("type"):
            case "message_start":
                self._head = tree["message"]
            case "content_block_start":
                index, kind = tree["index"], kind_of(tree["content_block"])
                self._shown[index] = kind
                self._next = max(self._next, index + 1)
                self._spoke = self._spoke or kind == "text"
            case "content_block_stop":
                self._shown.pop(tree["index"], None)

    def rewritten(self, part: Part, edits: Sequence[tuple[Piece, str]]) -> bytes:
        tree = exact(part.raw)
        for piece, text in edits:
            target = tree
            for step in piece.path[:-1]:
                target = target[step]
            target[piece.path[-1]] = text
        return framed(written(tree), event_of(part.raw).name)

    def ending(self, refusal: Refusal) -> bytes:
        out: list[bytes] = []
        if self._head is None:
            message = refused_message(refusal, self._request.model)
            nothing: dict[str, Any] = {"content": [], "stop_reason": None}
            if "stop_details" in message:
                nothing["stop_details"] = None
            out.append(_event("message_start", message={**message, **nothing}))
        at = next((index for index, kind in self._shown.items() if kind == "text"), None)
        out.extend(_event("content_block_stop", index=index) for index in sorted(self._shown) if index != at)
        # JSON that has begun must not go on in words, nor be closed, where clients would parse it.
        if self._head is None or not self._request.structured or refusal.complete:
            if at is None:
                at = self._next
                out.append(_event("content_block_start", index=at, content_block={"type": "text", "text": ""}))
            words = "\n\n" + refusal.message if self._spoke else refusal.message
            out.append(_event("content_block_delta", index=at, delta={"type": "text_delta", "text": words}))
            out.append(_event("content_block_stop", index=at))
        usage = {"output_tokens": _output_tokens(self._head)}
        out.append(_event("message_delta", delta=stop_of(refusal), usage=usage, penstock=trace_of(refusal)))
        out.append(_event("message_stop"))
        return b"".join(out)

    def broken(self, message: str, code: str, decision: str = "") -> bytes:
        return _event("error", error=error_of(502, code, message, decision), request_id=decision or None)

    def _own(self, told: Any) -> None:
        """Part of a message, which may name what is kept for its account: a container."""
        if self._request.own is not None:
            self._request.own(told)

    def _start(self, pieces: list[Piece], opaque: list[tuple[str, str]], tree: dict[str, Any]) -> None:
        message = tree.get("message")
        if not isinstance(message, dict):
            raise Malformed("a message is not a JSON object")
        body = Body()
        for key, value in message.items():
            place = "/" + escaped(key)
            if key == "content":
                read_content(body, value, Role.ASSISTANT, place)
            else:
                read_field(body, key, value, Role.SETTING, place)
        opaque.extend(body.unscannable)
        for said in body.messages:
            field = said.origin.rpartition("/")[2]
            if said.origin.startswith("/content/") and field in _FLOWING and said.origin.count("/") == 3:
                path = ("message", *_path(message, said.origin.removeprefix("/"))[1:])
                pieces.append(Piece(f"/content/{field}", said.role, said.text, Kind.FLOW, _GROUPS[field], path))
            else:
                self._atom(pieces, said.origin, said.text, said.role)
        self._rest(pieces, {key: value for key, value in tree.items() if key != "message"}, "", Role.SETTING)

    def _block_event(self, pieces: list[Piece], opaque: list[tuple[str, str]], tree: dict[str, Any]) -> tuple[int, ...]:
        """An event of one block; answers the group that it closes."""
        index = tree.get("index")
        if type(index) is not int:
            raise Malformed("a block's index is not an integer")
        around = dict(tree)
        closes: tuple[int, ...] = ()
        if tree["type"] == "content_block_start":
            block = around.pop("content_block", None)
            if not isinstance(block, dict):
                raise Malformed("a block is not a JSON object")
            if index in self._begun:
                raise Malformed("a block begins twice")
            self._begun.add(index)
            self._open[index] = kind_of(block)
            self._called = self._called or self._open[index] == "tool_use"
            self._block(pieces, opaque, block, index)
        elif index not in self._open:
            raise Malformed("a block goes on that is not open")
        elif tree["type"] == "content_block_delta":
            delta = around.pop("delta", None)
            if not isinstance(delta, dict):
                raise Malformed("a delta is not a JSON object")
            self._delta(pieces, opaque, delta, index)
        else:
            of = self._open.pop(index)
            self._repeats = Repeats()  # a closed block does not go on, whatever its events looked like
            ends = of == "thinking" and of not in self._open.values()  # all thoughts are one channel
            closes = (index, _GROUPS["thinking"]) if ends else (index,)
        self._rest(pieces, around, f"/content/{index}", Role.SETTING)
        return closes

    def _block(self, pieces: list[Piece], opaque: list[tuple[str, str]], block: dict[str, Any], index: int) -> None:
        kind, base = kind_of(block), f"/content/{index}"
        self._own({"content": [block]})
        body = Body()
        read_block(body, block, Role.ASSISTANT, base)
        opaque.extend(body.unscannable)
        group = _group(kind, index)
        for said in body.messages:
            field = said.origin.removeprefix(base + "/")
            if kind not in _FLOWING:
                path = _path(block, field)
                pieces.append(Piece(said.origin, said.role, said.text, Kind.CALL, group, path))
            elif field == kind:
                self._follows(field, index)
                path = ("content_block", field)
                pieces.append(Piece(f"/content/{field}", said.role, said.text, Kind.FLOW, _GROUPS[field], path))
            else:
                self._atom(pieces, said.origin, said.text, said.role)

    def _delta(self, pieces: list[Piece], opaque: list[tuple[str, str]], delta: dict[str, Any], index: int) -> None:
        of, base = self._open[index], f"/content/{index}"
        for key, value in delta.items():
            place = f"{base}/{escaped(key)}"
            if key in ENCRYPTED and isinstance(value, str) and looks_sealed(value):
                opaque.append((place, "encrypted"))
            elif key == "type" or says_nothing(key, value):
                self._rest(pieces, {key: value}, base, Role.SETTING)
            elif of in _FLOWING and key in _WHOLE:
                self._rest(pieces, {key: value}, base, _FLOWING[of])
            elif of in _FLOWING and key in _FLOWING:
                self._follows(key, index)
                self._grow(pieces, value, f"/content/{key}", _FLOWING[key], Kind.FLOW, _GROUPS[key], ("delta", key))
            else:
                call = key == "partial_json"
                role = Role.TOOL_CALL if call else speaker(of, Role.ASSISTANT)
                kind = Kind.CALL if call or of not in _FLOWING else Kind.FLOW
                if key not in VOCABULARY:
                    self._atom(pieces, place + "#key", key, Role.SETTING)
                self._grow(pieces, value, place, role, kind, _group(of, index), ("delta", key))

    def _follows(self, field: str, index: int) -> None:
        """Block `index` says some flowing text: all of it is one channel, so it must come in its order."""
        latest = self._latest.get(field, -1)
        if index < latest:
            raise Malformed("a block goes on behind a later one")
        if index > latest:
            self._latest[field] = index
            self._repeats = Repeats()  # an earlier block does not go on, whatever its events looked like

    def _grow(
        self, pieces: list[Piece], value: Any, channel: str, role: Role, kind: Kind, group: int, path: Path
    ) -> None:
        """Text that the next events may continue."""
        if isinstance(value, str):
            if value:
                pieces.append(Piece(channel, role, value, kind, group, path))
        elif isinstance(value, dict):
            for key, inner in value.items():
                place = f"{channel}/{escaped(key)}"
                if key not in VOCABULARY:
                    pieces.append(Piece(place + "#key", role, key, kind, group))
                self._grow(pieces, inner, place, role, kind, group, (*path, key))
        elif isinstance(value, list):
            for position, inner in enumerate(value):
                self._grow(pieces, inner, f"{channel}/{position}", role, kind, group, (*path, position))

    def _rest(self, pieces: list[Piece], value: Any, place: str, role: Role) -> None:
        """Every leaf of what is not known to grow."""
        body = Body()
        body.leaves(value, role, place, VOCABULARY)
        for message in body.messages:
            self._atom(pieces, message.origin, message.text, role)

    def _atom(self, pieces: list[Piece], place: str, text: str, role: Role) -> None:
        """Text that is judged once however often it is repeated, so it has no place where it could be masked (its
        channel says so behind a '#'). What follows under the same name is another text: a line feed keeps them
        apart."""
        known = self._seen.get(place)
        if text and known != text:
            self._seen[place] = text
            self._news = True
            channel = place if "#" in place else place + "#"
            pieces.append(Piece(channel, role, text if known is None else "\n" + text, Kind.ATOM, -1))


def _group(kind: Any, index: int) -> int:
    return _CALLS if kind == "tool_use" else index


def _event(kind: str, **fields: Any) -> bytes:
    return framed(orjson.dumps({"type": kind, **fields}).decode(), kind)


def _path(block: Any, pointer: str) -> Path:
    """Where JSON pointer `pointer` of `block` leads to in an event; () for what is no leaf."""
    if "#" in pointer:
        return ()
    path: list[str | int] = ["content_block"]
    for token in pointer.split("/"):
        step: str | int = int(token) if isinstance(block, list) else key_of(token)
        block = block[step]
        path.append(step)
    return tuple(path)


def _output_tokens(head: dict[str, Any] | None) -> int:
    usage = head.get("usage") if head else None
    count = usage.get("output_tokens") if isinstance(usage, dict) else None
    return count if type(count) is int else 0

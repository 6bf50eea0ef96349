"""Chat Completions: what a stream says, event by event, and how it is ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import orjson

from classifiers.base import Role

from ..sse import Event, framed
from ..strict import Malformed, parse
from .base import Body, Kind, Part, Piece, Refusal, Request, escaped, exact, written
from .chat_body import (
    REASONING,
    USAGE,
    VOCABULARY,
    around,
    error_of,
    finish_of,
    opaque_kind,
    read_message,
    spelled,
    trace_of,
)
from .repeats import Repeats

# Where a choice's answer goes on; log probabilities and fields of a server's own come beside thoughts, too.
_ANSWERS = ("content", "text", "audio/transcript")
# Where servers say thoughts again, and what belongs to them: a signature, or thoughts that nobody can read, in events
# in which nothing else is thought.
_AGAIN = frozenset({"reasoning_details", "thinking_blocks"})
# Inside a delta these are complete where they stand; all other text there grows.
_ATOMIC = frozenset({"type", "format", "id", "index", "name", "role", "signature"})


class ChatReader:
    """One stream of chat.completion.chunk events."""

    sequel = False

    def __init__(self, request: Request) -> None:
        self._request = request
        self._seen: dict[str, str] = {}  # the last value of text that is repeated in every chunk
        self._open: dict[int, bool] = {}  # choice -> whether it waits for its finish
        self._told: set[int] = set()  # choices whose finish has left
        self._head: dict[str, Any] | None = None
        self._complete = False
        self._repeats = Repeats()
        self._news = False  # the event at hand said something that is said once
        self._thinking: set[int] = set()  # groups of thoughts that wait for their end

    @property
    def complete(self) -> bool:
        return self._complete

    @property
    def finished(self) -> bool:
        return bool(self._open) and not any(self._open.values())

    def repeat(self, raw: bytes) -> Part | None:
        found = self._repeats.match(raw)
        if found is None:
            return None
        pieces: list[Piece] = []
        texts, known = found
        for text, piece in zip(texts, known, strict=True):
            if piece.kind is Kind.ATOM:
                self._atom(pieces, piece.channel[:-1], text, piece.role, piece.path)
            elif text:
                pieces.append(Piece(piece.channel, piece.role, text, piece.kind, piece.group, piece.path))
        return Part(raw, tuple(pieces), self._turns(pieces))

    def runs(self, raw: bytes, most: int) -> list[Part]:
        parts: list[Part] = []
        for lump in self._repeats.lumps(raw, most):
            pieces: list[Piece] = []
            slots: list[int] = []
            for slot, (column, piece) in enumerate(zip(lump.columns, lump.notes, strict=True)):
                atom = piece.kind is Kind.ATOM
                text = self._atoms(piece.channel[:-1], column) if atom else "".join(column)
                if text:
                    pieces.append(piece.saying(text))
                    slots.append(slot)
            parts.append(lump.part(pieces, slots, self._turns(pieces)))
        return parts

    def read(self, event: Event) -> Part:
        pieces: list[Piece] = []
        self._news = False
        for place, text in (("comment", event.comment), ("event", event.name), ("id", event.id)):
            if text:
                self._atom(pieces, f"#{place}", text, Role.SETTING)
        if not event.data:
            return Part(event.raw if event.plain else b"", tuple(pieces))
        raw = event.raw if event.plain else framed(event.data, event.name)
        if event.data.startswith("[DONE]"):  # so the official clients read it
            self._complete = True
            groups = (*self._open, *self._thinking)
            return Part(raw if event.data == "[DONE]" else framed("[DONE]"), tuple(pieces), groups)
        tree = parse(event.data)
        if not isinstance(tree, dict):
            raise Malformed("a chunk is not a JSON object")
        opaque: list[tuple[str, str]] = []
        for key, value in tree.items():
            if key == "choices" and isinstance(value, list):
                for position, choice in enumerate(value):
                    self._choice(pieces, opaque, choice, position)
            elif type(value) is str:
                if key not in VOCABULARY:
                    self._atom(pieces, f"/{escaped(key)}#key", key, Role.SETTING)
                self._atom(pieces, "/" + escaped(key), value, Role.SETTING, (key,))
            else:
                self._rest(pieces, {key: value}, "", Role.ERROR if key == "error" else Role.SETTING)
        if not opaque and not self._news and all(_may_change(piece) for piece in pieces):
            self._repeats.learn(event.raw, tree, [piece.path for piece in pieces], tuple(pieces))
        # A finish reason closes nothing: clients go on reading what follows it, and some servers send it in each chunk.
        return Part(raw, tuple(pieces), self._turns(pieces), tree, tuple(opaque))

    def released(self, part: Part) -> None:
        if isinstance(part.tree, dict) and self._head is None:
            keys = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
            self._head = {key: part.tree[key] for key in keys if key in part.tree}
        choices = part.tree.get("choices") if isinstance(part.tree, dict) else None
        for position, choice in enumerate(choices if isinstance(choices, list) else ()):
            if choice.get("finish_reason"):
                self._told.add(choice.get("index", position))

    def rewritten(self, part: Part, edits: Sequence[tuple[Piece, str]]) -> bytes:
        tree = exact(part.raw)
        for piece, text in edits:
            target = tree
            for step in piece.path[:-1]:
                target = target[step]
            # Log probabilities spell the text again, token by token: where it is masked they cannot stay.
            target[piece.path[-1]] = None if piece.path[-1] == "logprobs" else text
            choice = tree["choices"][piece.path[1]]
            for again in ("logprobs", "token_ids"):
                if choice.get(again) is not None:
                    choice[again] = None
        return framed(written(tree))

    def ending(self, refusal: Refusal) -> bytes:
        head = self._head or {
            "id": f"chatcmpl-{refusal.decision}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self._request.model,
        }
        usage = {"usage": None} if self._request.usage_wanted else {}
        started = self._head is not None
        words = "\n\n" + refusal.message if started else refusal.message
        delta = {"content": words} if started else {"role": "assistant", "content": words, "refusal": None}
        if started and self._request.structured and not refusal.complete:
            delta = {"refusal": refusal.message}  # JSON that has begun must not go on in words
        waiting = sorted({*range(self._request.choices), *(self._open if started else ())} - self._told)
        out: list[bytes] = []
        for index in waiting or [0]:
            for change, finish in ((delta, None), ({}, finish_of(refusal))):
                choice = {"index": index, "delta": change, "logprobs": None, "finish_reason": finish}
                chunk = {**head, "choices": [choice], **usage}
                if finish:
                    chunk["penstock"] = trace_of(refusal)
                out.append(framed(orjson.dumps(chunk).decode()))
        if self._request.usage_wanted:
            counts = refusal.cost(*USAGE)
            out.append(framed(orjson.dumps({**head, "choices": [], "usage": counts}).decode()))
        out.append(framed("[DONE]"))
        return b"".join(out)

    def broken(self, message: str, code: str, decision: str = "") -> bytes:
        return framed(orjson.dumps({"error": error_of(502, code, message, None, decision)}).decode())

    def _turns(self, pieces: list[Piece]) -> tuple[int, ...]:
        """The thoughts that `pieces` end: where the answer goes on, what is held back of them must not hold it up. An
        event that thinks ends no thought of its choice, whatever it holds besides."""
        thinks = [piece.group for piece in pieces if _thinks(piece)]
        if thinks:
            self._thinking.update(thinks)
        if not self._thinking:
            return ()
        ended = {_thoughts(piece.group) for piece in pieces if _answers(piece)} & self._thinking
        ended.difference_update(thinks)
        self._thinking -= ended
        return tuple(ended)

    def _choice(self, pieces: list[Piece], opaque: list[tuple[str, str]], choice: Any, position: int) -> None:
        if not isinstance(choice, dict):
            raise Malformed("a choice is not a JSON object")
        index = choice.get("index", position)
        if type(index) is not int:
            raise Malformed("a choice's index is not an integer")
        self._open.setdefault(index, True)
        begun = len(pieces)
        for key, value in choice.items():
            if key == "index":
                continue
            if key == "delta" and isinstance(value, dict):
                self._delta(pieces, opaque, value, index, ("choices", position, "delta"))
            elif key == "message" and isinstance(value, dict):
                body = Body()
                read_message(body, value, Role.ASSISTANT, f"/choices/{index}/message")
                opaque.extend(body.unscannable)
                for said in body.messages:
                    self._atom(pieces, said.origin, said.text, said.role)
            elif key == "logprobs" and value is not None:
                self._logprobs(pieces, value, index, ("choices", position, "logprobs"))
            elif key == "finish_reason":
                self._open[index] = self._open[index] and not value
                self._news = self._news or bool(value)
                self._rest(pieces, {key: value}, f"/choices/{index}", Role.SETTING)
            elif key == "text":
                place = ("choices", position, key)
                self._grow(pieces, value, f"/choices/{index}/text", Role.ASSISTANT, Kind.FLOW, index, place)
            else:
                self._rest(pieces, {key: value}, f"/choices/{index}", Role.SETTING)
        pieces[begun:] = _beside_thoughts(pieces[begun:])

    def _delta(
        self,
        pieces: list[Piece],
        opaque: list[tuple[str, str]],
        delta: dict[str, Any],
        index: int,
        path: tuple[str | int, ...],
    ) -> None:
        base = f"/choices/{index}"
        for key, value in delta.items():
            if not value:
                if key not in VOCABULARY:
                    self._atom(pieces, f"{base}/{escaped(key)}#key", key, Role.SETTING)
                continue
            if key == "audio" and self._request.own is not None:
                self._request.own({"choices": [{"message": {"audio": value}}]})  # what was said can be named later
            if key == "audio" and isinstance(value, dict) and "data" in value:
                opaque.append((f"{base}/audio", "audio"))
                around = {name: inner for name, inner in value.items() if name != "data"}
                self._grow(pieces, around, f"{base}/audio", Role.ASSISTANT, Kind.FLOW, index, (*path, key))
            elif key == "content" and type(value) is str:
                pieces.append(Piece(base + "/content", Role.ASSISTANT, value, Kind.FLOW, index, (*path, "content")))
            elif key == "role":
                self._rest(pieces, {key: value}, base, Role.SETTING)
            elif key in {"tool_calls", "function_call"}:
                calls = value if isinstance(value, list) else [value]
                for position, call in enumerate(calls):
                    inner = (*path, key, position) if isinstance(value, list) else (*path, key)
                    number = _number(call, position)
                    self._grow(pieces, call, f"{base}/{key}/{number}", Role.TOOL_CALL, Kind.CALL, index, inner)
            elif key in {"content", "images"} and isinstance(value, list):
                self._parts(pieces, opaque, value, f"{base}/{key}", index, (*path, key))
            else:
                role = Role.REFUSAL if key == "refusal" else Role.REASONING if key in REASONING else Role.ASSISTANT
                if key not in VOCABULARY:
                    self._atom(pieces, f"{base}/{escaped(key)}#key", key, Role.SETTING)
                group = _thoughts(index) if role is Role.REASONING or key in _AGAIN else index
                self._grow(pieces, value, f"{base}/{escaped(key)}", role, Kind.FLOW, group, (*path, key))

    def _grow(
        self,
        pieces: list[Piece],
        value: Any,
        channel: str,
        role: Role,
        kind: Kind,
        group: int,
        path: tuple[str | int, ...],
    ) -> None:
        """Text that the next chunks may continue."""
        if isinstance(value, str):
            atom = kind is Kind.FLOW and path[-1] in _ATOMIC
            if value and not (kind is Kind.CALL and path[-1] == "type" and value in VOCABULARY):
                pieces.append(Piece(channel, role, value, Kind.ATOM if atom else kind, group, path))
        elif isinstance(value, dict):
            for key, inner in value.items():
                if key not in VOCABULARY:
                    pieces.append(Piece(f"{channel}/{escaped(key)}#key", role, key, kind, group))
                self._grow(pieces, inner, f"{channel}/{escaped(key)}", role, kind, group, (*path, key))
        elif isinstance(value, list):
            # What is numbered goes on under its number; all else is read in the order in which it comes.
            for position, inner in enumerate(value):
                number = _number(inner, None)
                place = channel if number is None else f"{channel}/{number}"
                self._grow(pieces, inner, place, role, kind, group, (*path, position))

    def _image(self, pieces: list[Piece], opaque: list[tuple[str, str]], kind: str, value: Any, place: str) -> None:
        """What is no text, and the text around it."""
        opaque.append((place, kind))
        body = Body()
        around(body, value, Role.ASSISTANT, place, "images")
        for said in body.messages:
            self._atom(pieces, said.origin, said.text, said.role)

    def _parts(
        self,
        pieces: list[Piece],
        opaque: list[tuple[str, str]],
        parts: list[Any],
        channel: str,
        index: int,
        path: tuple[str | int, ...],
    ) -> None:
        """Content in parts: their texts are one with content that is no list."""
        for position, part in enumerate(parts):
            rest, inner = part, (*path, position)
            if isinstance(part, dict) and isinstance(text := part.get("text"), str):
                rest = {name: value for name, value in part.items() if name != "text"}
                if text:
                    pieces.append(Piece(channel, Role.ASSISTANT, text, Kind.FLOW, index, (*inner, "text")))
            kind = opaque_kind(rest) if isinstance(rest, dict) else None
            if kind is not None or path[-1] == "images":
                self._image(pieces, opaque, kind or "image", rest, f"{channel}/{position}")
                continue
            thinks = isinstance(rest, dict) and "thinking" in rest
            role, group = (Role.REASONING, _thoughts(index)) if thinks else (Role.ASSISTANT, index)
            self._grow(pieces, rest, channel + "/parts", role, Kind.FLOW, group, inner)

    def _logprobs(self, pieces: list[Piece], value: Any, index: int, path: tuple[str | int, ...]) -> None:
        tokens, others = spelled(value)
        base = f"/choices/{index}/logprobs"
        if tokens:
            pieces.append(Piece(base, Role.ASSISTANT, tokens, Kind.FLOW, index, path))
        if others:
            pieces.append(Piece(base + "/top", Role.ASSISTANT, "\n" + others, Kind.ATOM, index, path))

    def _rest(self, pieces: list[Piece], value: Any, place: str, role: Role) -> None:
        """Every leaf of what is not known to grow."""
        body = Body()
        body.leaves(value, role, place, VOCABULARY)
        for message in body.messages:
            self._atom(pieces, message.origin, message.text, role)

    def _atoms(self, place: str, column: list[str]) -> str:
        """What `_atom` would say of one text after the other."""
        known = self._seen.get(place)
        said = ""
        for text in column:
            if text and text != known:
                said += text if known is None else "\n" + text
                self._seen[place] = known = text
        return said

    def _atom(self, pieces: list[Piece], place: str, text: str, role: Role, path: tuple[str | int, ...] = ()) -> None:
        """Text that is judged once however often it is repeated, so it has no place where it could be masked (its
        channel says so behind a '#'). What follows under the same name is another text: a line feed keeps them
        apart."""
        known = self._seen.get(place)
        if text and known != text:
            self._seen[place] = text
            self._news = self._news or known is None
            if place == "/id" and known is None and self._request.own is not None:
                self._request.own({"id": text})  # what is stored under it is this account's
            channel = place if "#" in place else place + "#"
            pieces.append(Piece(channel, role, text if known is None else "\n" + text, Kind.ATOM, -1, path))


def _thoughts(index: int) -> int:
    """The group of a choice's thoughts; groups from 0 on are choices, and -1 is nobody's."""
    return -2 - index


def _thinks(piece: Piece) -> bool:
    """Whether a choice thinks in it, or what belongs to thoughts flows there. A choice may have a number below 0."""
    if piece.role is Role.REASONING:
        return True
    return piece.group <= _thoughts(0) and piece.channel.startswith(f"/choices/{_thoughts(piece.group)}/")


def _answers(piece: Piece) -> bool:
    """Whether the answer of a choice goes on in it."""
    place, flows = f"/choices/{piece.group}/", piece.role is Role.ASSISTANT and piece.kind is Kind.FLOW
    return flows and piece.channel.removeprefix(place) in _ANSWERS


def _beside_thoughts(pieces: list[Piece]) -> list[Piece]:
    """What a choice says in one event: where it thinks and does not answer, all text that flows there says the thought
    again in a server's own way, and ends with it."""
    if not any(map(_thinks, pieces)) or any(map(_answers, pieces)):
        return pieces
    return [
        piece._replace(group=_thoughts(piece.group))
        if piece.kind is Kind.FLOW and piece.role is Role.ASSISTANT and piece.group >= 0
        else piece
        for piece in pieces
    ]


def _number(item: Any, otherwise: int | None) -> Any:
    """The number under which an item of a list goes on in the next chunks; 1.0, and true, is 1 to many clients."""
    number = item.get("index", otherwise) if isinstance(item, dict) else otherwise
    if type(number) is bool or (type(number) is float and number.is_integer()):
        return int(number)
    return number


def _may_change(piece: Piece) -> bool:
    """Whether a piece is a string that the next chunks may replace by another one, and nothing else."""
    if not piece.path:  # a key
        return False
    if piece.kind is Kind.ATOM:
        return piece.channel.endswith("#")
    return piece.path[-1] != "type"

"""Responses: what a stream says, event by event.

A text comes several times: in deltas, when it is done, when its part, its item and the response are done. Deltas flow
and are held back; every copy is a text of its own, complete where it stands, that is judged and masked like the first.
An item that is no message and no reasoning is a tool call: nothing of it leaves before the whole of it was judged.
Calls of the client's tools wait for each other until the response is over: pydantic-ai runs those that came before a
blocked one.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from classifiers.base import Role

from ..sse import Event, framed
from ..sse import read as read_event
from ..strict import Malformed, parse
from .base import Body, Kind, Part, Piece, Refusal, Request, escaped, exact, key_of, written
from .repeats import Repeats
from .responses_body import VOCABULARY, read_response, read_value
from .responses_ending import Json, Told, blocked_stream, broken_stream, refused_stream

_FRAME = frozenset(f"response.{state}" for state in ("created", "queued", "in_progress"))
_LAST = frozenset(f"response.{state}" for state in ("completed", "failed", "incomplete")) | {"error"}
_PROSE: dict[str, tuple[Role | None, str, str]] = {
    "response.output_text.": (Role.ASSISTANT, "content", "text"),
    "response.refusal.": (Role.REFUSAL, "content", "refusal"),
    "response.reasoning_text.": (Role.REASONING, "content", "text"),
    "response.reasoning_summary_text.": (Role.REASONING, "summary", "text"),
    "response.reasoning_summary_part.": (Role.REASONING, "summary", ""),
    "response.reasoning_summary.": (Role.REASONING, "summary", "text"),
    "response.reasoning.": (Role.REASONING, "content", "text"),
    "response.content_part.": (Role.ASSISTANT, "content", ""),
    "response.audio.transcript.": (Role.ASSISTANT, "audio", "transcript"),
    "response.audio.": (Role.ASSISTANT, "audio", "data"),
}
"""Events of text that flows: whose it is, and where in its item it belongs. All others may be of a call."""
_OTHER: tuple[Role | None, str, str] = (None, "", "")
_SPEAKING = frozenset({"message", "reasoning"})
_NUMBERS = ("content_index", "summary_index")
_SPLIT = 400
_CALLS = -4
"""The group of all calls that the client is to execute."""
_CLIENTS = frozenset(
    f"{kind}_call" for kind in ("function", "custom_tool", "computer", "local_shell", "shell", "apply_patch")
)
_CLIENT_EVENTS = ("response.function_call_", "response.custom_tool_call_", "response.shell_call_command.")


class ResponsesReader:
    """One stream of `response.*` events."""

    sequel = True

    def __init__(self, request: Request) -> None:
        self._request = copy(request)  # its tree is wanted to the end
        self._told = Told()
        self._groups: dict[int | str, int] = {}  # output index (or item id) -> group
        self._done: set[int] = set()  # groups whose item is done
        self._calls: set[int] = set()  # groups of calls that the client is to execute
        self._settings: set[str] = set()  # names, ids and states that were judged already
        self._said: dict[str, list[tuple[int, str]]] = {}  # channel -> (part, text) of deltas that have left
        self._count = 0
        self._over = self._complete = False
        self._repeats = Repeats()

    @property
    def complete(self) -> bool:
        return self._complete

    @property
    def finished(self) -> bool:
        return self._over

    def repeat(self, raw: bytes) -> Part | None:
        found = None if self._over else self._repeats.match(raw)
        if found is None:
            return None
        texts, known = found
        pieces: list[Piece] = []
        sequence = None
        for text, piece in zip(texts, known, strict=True):
            if piece is None:
                sequence = int(text)
            elif piece.group in self._done:
                return None
            elif text:
                pieces.append(piece._replace(text=text if piece.path == ("delta",) else "\n" + text))
        return Part(raw, tuple(pieces), (), sequence)

    def runs(self, raw: bytes, most: int) -> list[Part]:
        parts: list[Part] = []
        for lump in () if self._over else self._repeats.lumps(raw, most):
            pieces: list[Piece] = []
            slots: list[int] = []
            sequence = None
            for slot, (column, piece) in enumerate(zip(lump.columns, lump.notes, strict=True)):
                if piece is None:
                    sequence = int(column[-1])
                elif piece.group in self._done:
                    return []
                elif text := "".join(column if piece.path == ("delta",) else ["\n" + text for text in column if text]):
                    pieces.append(piece.saying(text))
                    slots.append(slot)
            parts.append(lump.part(pieces, slots, (), sequence))
        return parts

    def read(self, event: Event) -> Part:
        pieces: list[Piece] = []
        for text in (event.comment, event.name, event.id):
            if text and not self._is_type(text):
                self._setting(pieces, text)
        if not event.data:
            return Part(event.raw if event.plain else b"", tuple(pieces))
        raw = event.raw if event.plain else framed(event.data, event.name)
        if event.data.startswith("[DONE]"):  # some servers say so behind the last event
            self._over = self._complete = True
            return Part(raw if event.data == "[DONE]" else framed("[DONE]"), tuple(pieces), self._all())
        tree = parse(event.data)
        if not isinstance(tree, dict):
            raise Malformed("an event is not a JSON object")
        if self._over:
            return Part(b"", tuple(pieces))  # nothing comes behind the end
        name = tree.get("type")
        name = name if isinstance(name, str) else event.name or ""
        self._count += 1
        opaque: list[tuple[str, str]] = []
        closes: tuple[int, ...] = ()
        if name in _FRAME or name in _LAST:
            closes = self._frame(pieces, opaque, tree, name)
        else:
            closes = self._event(pieces, opaque, tree, name, raw)
            if name == "response.output_item.done" and self._request.own is not None:
                self._request.own({"output": [tree.get("item")]})  # its thoughts can be named later
        return Part(raw, tuple(pieces), closes, tree, tuple(opaque))

    def released(self, part: Part) -> None:
        told = self._told
        for piece in part.pieces:
            if piece.kind is Kind.FLOW and piece.role is Role.ASSISTANT:
                self._said.setdefault(piece.channel, []).append((id(part), piece.text))
        if type(part.tree) is int:
            told.sequence = part.tree
        elif isinstance(part.tree, dict):
            number = part.tree.get("sequence_number")
            told.sequence = number if type(number) is int else told.sequence + 1
            _note(told, part.tree)

    def rewritten(self, part: Part, edits: Sequence[tuple[Piece, str]]) -> bytes:
        tree = exact(part.raw)
        for piece, text in edits:
            target, spelled = tree, "logprobs" in piece.path
            for step in piece.path[: piece.path.index("logprobs") if spelled else -1]:
                target = target[int(step) if isinstance(target, list) else step]
            if not spelled:
                target[int(piece.path[-1]) if isinstance(target, list) else piece.path[-1]] = text
            if isinstance(target, dict) and target.get("logprobs"):
                target["logprobs"] = []  # they spell the text again, token by token
            said = self._said.get(piece.channel, [])
            for at in range(len(said) - 1, -1, -1):
                if said[at][0] == id(part):
                    said[at] = (0, text)
                    break
        return framed(written(tree), read_event(part.raw).name)

    def ending(self, refusal: Refusal) -> bytes:
        told = self._told
        if told.over:
            return b""
        if not told.said:
            return refused_stream(refusal, self._request, told)
        for index, parts in told.parts.items():
            for number, part in parts.items():
                for name in ("text", "refusal"):
                    said = self._said.get(f"/output/{escaped(str(index))}/content/{number}/{name}")
                    if said:
                        part[name] = "".join(text for _, text in said)
        return blocked_stream(refusal, self._request, told)

    def broken(self, message: str, code: str, decision: str = "") -> bytes:
        return b"" if self._told.over else broken_stream(message, code, self._told, decision)

    def _is_type(self, name: str) -> bool:
        return name in VOCABULARY or name in _TYPES

    def _all(self) -> tuple[int, ...]:
        return (*self._groups.values(), _CALLS)

    def _frame(self, pieces: list[Piece], opaque: list[tuple[str, str]], tree: Json, name: str) -> tuple[int, ...]:
        """An event of the whole response."""
        body = Body()
        asked = self._request.tree if isinstance(self._request.tree, dict) else {}
        for key, value in tree.items():
            if key == "response" and isinstance(value, dict):
                if self._request.own is not None and name != "response.in_progress":
                    self._request.own(value)
                read_response(body, value, "/response", asked)
            else:
                _key(body, key)
                read_value(body, value, Role.ERROR if name == "error" else Role.SETTING, "/" + escaped(key), key)
        self._copies(pieces, opaque, body, Kind.ATOM, -1)
        if name not in _LAST:
            return ()
        self._over = True
        return self._all()

    def _event(
        self, pieces: list[Piece], opaque: list[tuple[str, str]], tree: Json, name: str, raw: bytes
    ) -> tuple[int, ...]:
        """An event of one item."""
        group, key = self._group(tree)
        grows = name.endswith((".delta", ".added"))
        item = tree.get("item")
        if name.startswith(_CLIENT_EVENTS) or (isinstance(item, dict) and str(item.get("type")) in _CLIENTS):
            self._calls.add(group)
        if name == "response.output_item.added":
            self._done.discard(group)
        elif grows and group in self._done:
            raise Malformed("it goes on with an item that is done")
        role, section, field = next((_PROSE[kind] for kind in _PROSE if name.startswith(kind)), _OTHER)
        if isinstance(item, dict) and str(item.get("type")) in _SPEAKING and name.startswith("response.output_item."):
            role = Role.ASSISTANT
        hold = Kind.CALL if role is None else Kind.ATOM
        if name not in _TYPES and role is None and "delta" not in tree and "item" not in tree:
            hold, role = Kind.ATOM, Role.SETTING  # a new kind of event: complete where it stands
        before = len(self._settings)
        body = Body()
        if field == "data" and isinstance(tree.get("delta"), str):
            tree = {**tree, "delta": None}
            opaque.append((f"/output/{key}/audio", "audio"))
        self._members(pieces, body, tree, role or Role.TOOL_CALL)
        if grows and hold is Kind.ATOM and role is not Role.SETTING:
            number = next((at for place in _NUMBERS if (at := _whole(tree.get(place))) is not None), 0)
            base = f"/output/{key}/{section}/{number}" if section else f"/output/{key}"
            self._growing(pieces, opaque, body, group, {"/delta": f"{base}/{field}", "/part": base, "/item": base})
        else:
            self._copies(pieces, opaque, body, hold, group)
        if hold is Kind.CALL and isinstance(item, dict) and not any(piece.kind is hold for piece in pieces):
            closer = self._closer(group)
            pieces.append(Piece(f"/output/{key}/type", Role.TOOL_CALL, str(item.get("type")), Kind.CALL, closer))
        if name == "response.output_item.done":
            self._done.add(group)
            if group in self._calls:
                self._repeats = Repeats()  # it does not go on, whatever its events looked like
            return (group,)
        if name.endswith(".delta") and len(self._settings) == before and not opaque:
            self._learn(raw, tree, pieces)
        return ()

    def _members(self, pieces: list[Piece], body: Body, tree: Json, role: Role) -> None:
        """All that an event says, but for its padding: that comes with every delta, and is always another."""
        for member, value in tree.items():
            if member == "obfuscation" and isinstance(value, str):
                pieces.append(Piece("#padding", Role.SETTING, "\n" + value, Kind.ATOM, -1, (member,)))
                continue
            _key(body, member)
            own = Role.SETTING if member in _NAMES else role
            if member == "logprobs" and isinstance(value, list):
                read_value(body, {member: value}, own, "")
            else:
                read_value(body, value, own, "/" + escaped(member), member)

    def _growing(
        self,
        pieces: list[Piece],
        opaque: list[tuple[str, str]],
        body: Body,
        group: int,
        places: dict[str, str],
    ) -> None:
        """Text that the next events may continue: its channel is its place in the answer."""
        opaque.extend(body.unscannable)
        for said in body.messages:
            if said.role is Role.SETTING:
                self._setting(pieces, said.text)
                continue
            top = said.origin.split("/", 2)[1].partition("#")[0]
            place = places.get("/" + top)
            if place is None or "#" in said.origin:
                self._copy(pieces, said.origin, said.text, said.role, Kind.ATOM, group)
                continue
            channel = place + said.origin[len(top) + 1 :]
            pieces.append(Piece(channel, said.role, said.text, Kind.FLOW, group, _path(said.origin)))

    def _copies(self, pieces: list[Piece], opaque: list[tuple[str, str]], body: Body, kind: Kind, group: int) -> None:
        """Text that is complete, or that is held until its item is."""
        opaque.extend(body.unscannable)
        for said in body.messages:
            if kind is Kind.CALL and said.origin.endswith("#decoded"):
                continue  # the gate's question undoes the escapes
            if said.role is Role.SETTING and kind is not Kind.CALL:
                self._setting(pieces, said.text)
            elif not (said.role is Role.SETTING and said.text in self._settings):
                self._copy(pieces, said.origin, said.text, said.role, kind, group)

    def _copy(self, pieces: list[Piece], origin: str, text: str, role: Role, kind: Kind, group: int) -> None:
        grows = kind is Kind.CALL and origin.startswith("/delta")
        channel = f"/output/{group}{origin}" if grows else f"/events/{self._count}{origin}"
        path = () if "#" in origin else _path(origin)
        pieces.append(Piece(channel, role, text, kind, self._closer(group) if kind is Kind.CALL else group, path))

    def _closer(self, group: int) -> int:
        """The group with which a call of `group` is closed."""
        return _CALLS if group in self._calls else group

    def _setting(self, pieces: list[Piece], text: str) -> None:
        """A name, an id, a state: judged once however often it is repeated, so it cannot be masked (its channel says
        so behind a '#')."""
        if text in self._settings or self._is_type(text):
            return
        self._settings.add(text)
        if len(self._settings) > _SPLIT:
            self._settings.clear()
        pieces.append(Piece("#settings", Role.SETTING, "\n" + text, Kind.ATOM, -1))

    def _group(self, tree: Json) -> tuple[int, str]:
        """The group of the item that an event belongs to, and the item's name in channels."""
        key = _item_of(tree)
        return self._groups.setdefault(key, len(self._groups)), escaped(str(key))

    def _learn(self, raw: bytes, tree: Json, pieces: list[Piece]) -> None:
        """Most events are the last delta with another text and number."""
        known = {piece.path: piece for piece in pieces}
        numbered = type(tree.get("sequence_number")) is int  # some servers do not
        paths = [(key,) for key in tree if (key,) in known or (numbered and key == "sequence_number")]
        if ("delta",) in paths and len(paths) == len(pieces) + numbered:
            self._repeats.learn(raw, tree, paths, [known.get(path) for path in paths])


_NAMES = frozenset({"type", "item_id", "call_id"})
_DOCUMENTED = """
audio.delta audio.done audio.transcript.delta audio.transcript.done code_interpreter_call_code.delta
code_interpreter_call_code.done code_interpreter_call.completed code_interpreter_call.in_progress
code_interpreter_call.interpreting compaction.compacting completed content_part.added content_part.done created
custom_tool_call_input.delta custom_tool_call_input.done failed file_search_call.completed
file_search_call.in_progress file_search_call.searching function_call_arguments.delta function_call_arguments.done
image_generation_call.completed image_generation_call.generating image_generation_call.in_progress
image_generation_call.partial_image in_progress incomplete mcp_call_arguments.delta mcp_call_arguments.done
mcp_call.completed mcp_call.failed mcp_call.in_progress mcp_list_tools.completed mcp_list_tools.failed
mcp_list_tools.in_progress output_item.added output_item.done output_text.annotation.added output_text.delta
output_text.done queued reasoning_summary_part.added reasoning_summary_part.done reasoning_summary_text.delta
reasoning_summary_text.done reasoning_text.delta reasoning_text.done refusal.delta refusal.done
shell_call_command.added shell_call_command.delta shell_call_command.done shell_call_output_content.delta
shell_call_output_content.done web_search_call.completed web_search_call.in_progress web_search_call.searching
"""
_TYPES = frozenset(f"response.{name}" for name in _DOCUMENTED.split()) | {"error"}


def _key(body: Body, key: str) -> None:
    if key not in VOCABULARY:
        body.add(Role.SETTING, key, f"/{escaped(key)}#key")


def _path(origin: str) -> tuple[str | int, ...]:
    """The steps of a JSON pointer."""
    return tuple(map(key_of, origin.split("/")[1:]))


def _item_of(tree: Json) -> int | str:
    """Which item an event is about: its number, or its id where a server gives no numbers."""
    index, item = _whole(tree.get("output_index")), tree.get("item")
    if index is not None:
        return index
    name = tree.get("item_id") or (item.get("id") if isinstance(item, dict) else None)
    return name if isinstance(name, str) else ""


def _whole(number: object) -> int | None:
    """A whole number, however it is written: 1.0 is 1 to most clients."""
    if type(number) is float and number.is_integer():
        return int(number)
    return number if type(number) is int else None


def _note(told: Told, tree: Json) -> None:
    """Remember what an event that has left said of the frame and of items."""
    name, index, number = str(tree.get("type")), _item_of(tree), _whole(tree.get("content_index"))
    response, item, part = tree.get("response"), tree.get("item"), tree.get("part")
    if name in _LAST:
        told.over = True
    elif isinstance(response, dict):
        told.head = response
    elif isinstance(item, dict) and name == "response.output_item.added":
        told.open[index] = item
    elif isinstance(item, dict) and name == "response.output_item.done":
        told.open.pop(index, None)
        told.parts.pop(index, None)
        told.done[index] = item
    elif isinstance(part, dict) and name.startswith("response.content_part."):
        told.parts.setdefault(index, {})[number or 0] = dict(part)

"""Events that are taken for repetitions mean what a strict parse says they mean: whatever is changed in them."""

from __future__ import annotations

import itertools
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.base import Request
from proxy.dialects.chat_stream import ChatReader
from proxy.dialects.completions import CompletionsReader
from proxy.dialects.messages_stream import MessagesReader
from proxy.dialects.repeats import Repeats
from proxy.dialects.responses_stream import ResponsesReader
from proxy.gate import Gate, Mask, Part
from proxy.sse import Decoder, read
from proxy.strict import Malformed, parse


def event(tree: Any) -> bytes:
    return b"data: " + orjson.dumps(tree) + b"\n\n"


def chunk(content: str, index: int = 0, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": content}, "logprobs": None, "finish_reason": None}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


MOST = 4
"""Parts that a lump may become."""
PATH = ("choices", 0, "delta", "content")


def learned(tree: Any, *paths: tuple[str | int, ...]) -> Repeats:
    repeats = Repeats()
    repeats.learn(event(tree), tree, paths, "notes")
    return repeats


@given(st.text(), st.text(), st.text(max_size=20), st.text(max_size=20))
def test_the_texts_are_those_of_a_parse(first: str, second: str, one: str, two: str) -> None:
    try:
        raw = event(chunk(second, obfuscation=two))
    except TypeError:  # lone surrogates have no JSON
        return
    repeats = learned(chunk("word" + first.replace("\ud800", ""), obfuscation="pad" + one), PATH, ("obfuscation",))
    found = repeats.match(raw)
    assert found is None or found == ([second, two], "notes")


def test_what_repeats_is_recognised() -> None:
    repeats = learned(chunk("Hello", obfuscation="abc"), PATH, ("obfuscation",))
    for text in ("", "a", 'say "no"', "\\", "\n\t", "\u00e9\U0001f600", '"}}],"obfuscation":"', "\u2028"):
        assert repeats.match(event(chunk(text, obfuscation="xyz"))) == ([text, "xyz"], "notes")


STRANGE = {
    "the text ends its string": b'Hello","role":"user',
    "a lone quote": b'a"b',
    "a backslash before the end": b"a\\",
    "a lone surrogate": b"\\ud800",
    "not UTF-8": b"\xff",
    "a control letter": b"a\x01b",
    "a line end": b"a\nb",
    "a duplicate": b'x","content":"y',
}


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE.keys())
def test_what_is_no_string_is_parsed(text: bytes) -> None:
    raw = event(chunk("Hello"))
    assert learned(chunk("Hello"), PATH).match(raw.replace(b"Hello", text)) is None


AMBIGUOUS: dict[str, bytes] = {
    "said twice": event(chunk("hi", more={"content": "hi"})),
    "another key that ends so": event(chunk("hi")).replace(
        b'"content":"hi"', b'"a\\"content":"hi","content":"h\\u0069"'
    ),
    "spelled in another way": event(chunk("hi")).replace(b'"hi"', b'"h\\u0069"'),
    "blanks": event(chunk("hi")).replace(b'"content":', b'"content": '),
    "two lines": event(chunk("hi")).replace(b"data: {", b"data: {\ndata: "),
}


@pytest.mark.parametrize("raw", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_what_cannot_be_located_is_not_learned(raw: bytes) -> None:
    repeats = Repeats()
    tree = parse(read(raw).data or "")
    repeats.learn(raw, tree, [PATH], "notes")
    assert repeats.match(raw) is None


pieces = st.sampled_from(
    [
        b'"',
        b"\\",
        b"content",
        b'"content":"hi"',
        b'","',
        b'":"',
        b"{",
        b"}",
        b"hi",
        b"\\u0068",
        b"\\n",
        b",",
        b"x",
        b"]",
    ]
)
bodies = st.lists(pieces, max_size=8).map(b"".join)


@given(st.lists(bodies, min_size=1, max_size=5), bodies, bodies)
def test_a_reader_that_remembers_reads_the_same(texts: list[bytes], key: bytes, pad: bytes) -> None:
    """A reader fed by repetition against one that parses every event."""
    quick, slow = ChatReader(Request(model="m")), ChatReader(Request(model="m"))
    for text in (b"one", b"two", b"three", *texts, *texts):
        raw = b'data: {"id":"c","choices":[{"index":0,"delta":{"%bcontent":"%b"}}],"pad":"%b"}\n\n' % (key, text, pad)
        try:
            expected: Part | None = slow.read(read(raw))
        except Malformed:
            expected = None
        part = quick.repeat(raw)
        if part is not None:
            assert expected is not None
            assert (part.raw, part.pieces) == (expected.raw, expected.pieces)
            continue
        try:
            part = quick.read(read(raw))
        except Malformed:
            assert expected is None
            return
        assert expected is not None
        assert part.pieces == expected.pieces


def test_a_plain_stream_is_parsed_twice_at_most() -> None:
    """Or the speed that this exists for is gone."""
    reader, parsed = ChatReader(Request(model="m")), 0
    for number in range(100):
        raw = event(chunk(f"word {number}", obfuscation="x" * (number % 7 + 1)))
        if reader.repeat(raw) is None:
            parsed += 1
            reader.read(read(raw))
    assert parsed <= 3


def test_choices_that_take_turns_are_remembered() -> None:
    reader, parsed = ChatReader(Request(model="m", choices=3)), 0
    for number in range(90):
        raw = event(chunk(f"word {number}", number % 3))
        if reader.repeat(raw) is None:
            parsed += 1
            reader.read(read(raw))
    assert parsed <= 6


def numbered(number: Any, text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"type": "delta", "sequence_number": number, "item_id": "m1", "index": 0, "delta": text, **more}


NUMBERED = (("sequence_number",), ("delta",))


@given(st.integers(0, 10**14), st.integers(0, 10**14), st.text(st.characters(codec="utf-8"), max_size=9))
def test_whole_numbers_may_change(first: int, second: int, text: str) -> None:
    found = learned(numbered(first), *NUMBERED).match(event(numbered(second, text)))
    assert found is None or found == ([str(second), text], "notes")
    assert learned(numbered(10**14 + 3), *NUMBERED).match(event(numbered(second, text))) == (
        [str(second), text],
        "notes",
    )


@pytest.mark.parametrize(
    "number",
    [
        b"-1",
        b"01",
        b"1.0",
        b"1e3",
        b"",
        b" 1",
        b"1 ",
        b"null",
        b'"1"',
        b'1,"delta":"x"',
        b"9" * 16,
        b"\xd9\xa1",
        b"+1",
        b"1_0",
    ],
)
def test_what_is_no_plain_whole_number_is_parsed(number: bytes) -> None:
    repeats = learned(numbered(777), *NUMBERED)
    raw = event(numbered(777))
    assert repeats.match(raw) is not None
    assert repeats.match(raw.replace(b"777", number)) is None


def test_a_number_that_cannot_be_located_is_not_learned() -> None:
    for tree in (numbered(-5), numbered(1.5), numbered(True), numbered(7, more={"sequence_number": 7})):
        assert learned(tree, *NUMBERED).match(event(tree)) is None


# Many events at once: a run must leave as its events would have left one by one.

MARK = "SECRET"
words = st.sampled_from(["a", "SEC", "RET", "SECRET", " is ", '"', "\\", "\n", "\u00e9", "", "pad", MARK + MARK])


def chats(texts: list[str]) -> list[bytes]:
    return [event(chunk(text, obfuscation="x" * (n % 3))) for n, text in enumerate(texts)]


def thoughts(texts: list[str]) -> list[bytes]:
    def one(n: int, text: str) -> bytes:
        key = "reasoning_content" if n * 2 < len(texts) else "content"
        return event({"id": "c", "choices": [{"index": 0, "delta": {key: text}, "finish_reason": None}]})

    return [one(n, text) for n, text in enumerate(texts)]


def legacy(texts: list[str]) -> list[bytes]:
    return [event({"id": "c", "choices": [{"index": 0, "text": text, "finish_reason": None}]}) for text in texts]


def messages(texts: list[str]) -> list[bytes]:
    def named(name: str, **more: Any) -> bytes:
        return f"event: {name}\n".encode() + event({"type": name, **more})

    block = {"type": "text", "text": ""}
    deltas = [named("content_block_delta", index=0, delta={"type": "text_delta", "text": text}) for text in texts]
    padded = [raw[:-3] + b" " * (n % 3) + raw[-3:] for n, raw in enumerate(deltas)]
    start = named("message_start", message={"id": "m", "role": "assistant", "content": []})
    return [start, named("content_block_start", index=0, content_block=block), *padded]


def responses(texts: list[str]) -> list[bytes]:
    def one(n: int, text: str) -> bytes:
        name = "response.output_text.delta"
        tree = {"type": name, "item_id": "i", "output_index": 0, "content_index": 0, "delta": text}
        return f"event: {name}\n".encode() + event({**tree, "sequence_number": n, "obfuscation": "x" * (n % 3)})

    return [one(n, text) for n, text in enumerate(texts)]


STREAMS: dict[str, tuple[Any, Any]] = {
    "chat": (ChatReader, chats),
    "chat, thinking first": (ChatReader, thoughts),
    "completions": (CompletionsReader, legacy),
    "messages": (MessagesReader, messages),
    "responses": (ResponsesReader, responses),
}


def left(reader: Any, hold: int | None, lumps: list[list[bytes]], *, at_once: bool) -> tuple[bytes, int]:
    """What leaves of a stream in which MARK is masked, and how many runs it was read in."""
    gate, out, runs = Gate(hold), b"", 0

    def judge() -> bytes:
        if gate.due():
            question = gate.question()
            masks = [
                (number, Mask(found.start(), found.end(), "-"))
                for number, message in enumerate(question.messages)
                for found in re.finditer(MARK, message.text)
                if "#" not in message.origin
            ]
            gate.answer(question, masks)
        released = gate.release()
        for release in released:
            reader.released(release.part)
        return b"".join(reader.rewritten(r.part, r.edits) if r.edits else r.part.whole for r in released)

    for lump in lumps:
        parts = reader.runs(b"".join(lump), MOST) if at_once else []
        runs += len(parts)
        rest = Decoder().frames(b"".join(lump)[sum(part.extent[1] for part in parts) :])
        for part in parts:
            gate.push(part)
        for raw in rest:
            gate.push(reader.repeat(raw) or reader.read(read(raw)))
        out += judge()
    gate.finish(clean=True)
    out += judge()
    assert gate.held == 0
    return out, runs


@pytest.mark.parametrize(("reader", "made"), STREAMS.values(), ids=STREAMS.keys())
@given(
    texts=st.lists(words, min_size=1, max_size=40),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    hold=st.sampled_from([8, 40, None]),
)
def test_a_run_leaves_as_its_events_would(
    reader: Any, made: Any, texts: list[str], sizes: list[int], hold: int | None
) -> None:
    events, lumps = made(["one", "two", "three", *texts]), []
    for size in itertools.cycle(sizes):
        lumps.append(events[:size])
        events = events[size:]
        if not events:
            break
    request = Request(model="m")
    together, _ = left(reader(request), hold, lumps, at_once=True)
    assert together == left(reader(request), hold, lumps, at_once=False)[0]


@pytest.mark.parametrize(("reader", "made"), STREAMS.values(), ids=STREAMS.keys())
def test_what_comes_at_once_is_read_in_few_parts(reader: Any, made: Any) -> None:
    """Or the speed that this exists for is gone. And each of them may leave by itself."""
    events = made([f"word {n} " for n in range(100)])
    lumps = [events[at : at + 20] for at in range(0, len(events), 20)]
    assert 3 * MOST <= left(reader(Request(model="m")), 8, lumps, at_once=True)[1] <= 5 * MOST


@pytest.mark.parametrize(("reader", "made"), STREAMS.values(), ids=STREAMS.keys())
def test_what_waits_is_kept_packed(reader: Any, made: Any) -> None:
    """Or the memory that this exists for is gone."""
    events, one = made([f"word {n} " for n in range(40)]), reader(Request(model="m"))
    for raw in events[:30]:
        one.repeat(raw) or one.read(read(raw))
    came = b"".join(events[30:])
    parts = one.runs(came, MOST)
    assert b"".join(part.whole for part in parts) == came
    assert tuple(map(sum, zip(*[part.extent for part in parts], strict=True))) == (len(events[30:]), len(came))
    assert 3 * sum(len(part.raw) for part in parts) < len(came)


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE.keys())
def test_a_run_with_something_strange_in_it_is_parsed(text: bytes) -> None:
    plain = event(chunk("Hello"))
    repeats = learned(chunk("Hello"), PATH)
    assert repeats.lumps(plain * 3, MOST)
    for raw in (plain + plain.replace(b"Hello", text) + plain, plain * 2 + plain.replace(b"Hello", text)):
        assert repeats.lumps(raw, MOST) == []


def test_a_slot_cannot_reach_into_the_next_one() -> None:
    """Two that are no strings by themselves would be two strings together."""
    repeats = learned(chunk("Hello"), PATH)
    for texts in ((b"a\\", b',"b'), (b'a","b', b"c"), (b'a"', b"b"), (b"a\\", b",5,", b"c"), (b"a\\", b"b")):
        raw = b"".join(event(chunk("Hello")).replace(b"Hello", text) for text in texts)
        assert repeats.lumps(raw, MOST) == []

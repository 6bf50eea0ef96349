"""Thoughts in the streams of many servers, which say them again beside: they are held back as any text, and do not hold
up the answer behind them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.base import Role
from proxy.dialects.base import Request
from proxy.dialects.chat_stream import ChatReader
from proxy.dialects.messages_stream import MessagesReader
from proxy.gate import Gate, Kind, Mask
from proxy.sse import Decoder
from proxy.sse import read as read_event
from tests.proxy.conftest import Make
from tests.upstream import replies, shapes

Json = dict[str, Any]


def choice(delta: Json, **more: Any) -> Json:
    return {"index": 0, "delta": {"role": "assistant", "content": "", **delta}, "finish_reason": None, **more}


def spelled(text: str) -> Json:
    return {"content": [{"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": []}]}


def openrouter(text: str) -> list[Json]:
    again = {"type": "reasoning.text", "text": text, "format": "unknown", "index": 0}
    return [choice({"reasoning": text, "reasoning_details": [again]})]


def litellm(text: str) -> list[Json]:
    blocks = [{"type": "thinking", "thinking": text, "signature": None}]
    house = {"thinking_blocks": blocks, "reasoning_content": text}
    return [choice({"reasoning_content": text, "thinking_blocks": blocks, "provider_specific_fields": house})]


def by_turns(text: str) -> list[Json]:
    return [choice({"reasoning": text}), choice({"x_thinking": {"text": text}}), choice({}, logprobs=spelled(text))]


def in_parts(text: str) -> list[Json]:
    return [choice({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]})]


SERVERS: dict[str, Callable[[str], list[Json]]] = {
    "plain": lambda text: [choice({"reasoning_content": text})],
    "OpenRouter": openrouter,
    "vLLM with logprobs": lambda text: [choice({"reasoning": text}, logprobs=spelled(text))],
    "LiteLLM": litellm,
    "in parts": lambda text: [
        choice({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]})
    ],
    "again in events of their own": by_turns,
}
servers = pytest.mark.parametrize("server", SERVERS)
CARD = re.compile(r"4111( ?1111){3}")
HOLD = 24


def events(server: str, texts: list[str], answer: list[str]) -> Iterator[bytes]:
    said = [each for text in texts for each in SERVERS[server](text)] + [choice({"content": text}) for text in answer]
    for each in said:
        yield shapes.event({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [each]})
    yield shapes.DONE


class Read:
    """What left of a stream, as the gate lets it go: by channel as it was said and as it is shown."""

    def __init__(self, frames: Iterable[bytes]) -> None:
        self.said: dict[str, str] = defaultdict(str)
        self.shown: dict[str, str] = defaultdict(str)
        self.asked = 0  # characters that a judge was asked
        self.order: list[str] = []  # channels of text that left before the end
        gate, reader = Gate(HOLD), ChatReader(Request(model="m", stream=True))
        for raw in frames:
            gate.push(reader.repeat(raw) or reader.read(read_event(raw)))
            if gate.due():
                self._judge(gate)
            self._take(gate)
        before = len(self.order)
        gate.finish(clean=True)
        self._judge(gate)
        self._take(gate)
        del self.order[before:]
        assert gate.held == 0

    def _judge(self, gate: Gate) -> None:
        question = gate.question()
        self.asked += sum(len(message.text) for message in question.messages)
        found = [(n, match) for n, m in enumerate(question.messages) for match in CARD.finditer(m.text)]
        gate.answer(question, [(n, Mask(match.start(), match.end(), "[CARD]")) for n, match in found])

    def _take(self, gate: Gate) -> None:
        for release in gate.release():
            edits = {id(piece): text for piece, text in release.edits}
            for piece in release.part.pieces:
                if piece.kind is Kind.FLOW:
                    self.order.append(piece.channel)
                    self.said[piece.channel] += piece.text
                    self.shown[piece.channel] += edits.get(id(piece), piece.text)


@servers
@given(
    before=st.integers(0, 60),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    answer=st.sampled_from([["It is on file."], ["It ", "is ", "4111 1111 ", "1111 1111", "."], []]),
)
def test_what_is_masked_in_thoughts_is_masked_whole(
    server: str, before: int, sizes: list[int], answer: list[str]
) -> None:
    text = "thought " * before + "It is 4111 1111 1111 1111, as far as I see, or 4111111111111111. " + "And more. " * 9
    texts: list[str] = []
    while text:
        size = sizes[len(texts) % len(sizes)]
        texts.append(text[:size])
        text = text[size:]
    read = Read(events(server, texts, answer))
    assert len(read.said) >= 1 + bool(answer)
    assert read.shown == {channel: CARD.sub("[CARD]", said) for channel, said in read.said.items()}


@pytest.mark.parametrize("server", [name for name in SERVERS if name != "again in events of their own"])
def test_thoughts_do_not_hold_up_the_answer(server: str) -> None:
    """What is held back of a text that goes on no more would keep all that follows until the stream ends: also of one
    that comes beside thoughts alone. (What comes apart from them is not known to belong to them.)"""
    *sent, _ = events(server, ["thought "] * 12, ["word "] * 30)
    read = Read(sent)
    assert read.order.count("/choices/0/content") >= 20


def detail(**more: Any) -> list[Json]:
    return [{"format": "anthropic-claude-v1", "index": 0, **more}]


SIGNED: dict[str, Json] = {
    "OpenRouter": {"reasoning": None, "reasoning_details": detail(type="reasoning.text", signature="EqoBCkgIARABGAI")},
    "OpenRouter, encrypted": {
        "reasoning": None,
        "reasoning_details": detail(type="reasoning.encrypted", data="EqoBCkgIARABGAIiQL", id="rs_1"),
    },
    "LiteLLM": {
        "reasoning_content": "",
        "thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "EqoBCkgIARABGAI"}],
        "provider_specific_fields": {"thinking_blocks": [{"type": "thinking", "signature": "EqoBCkgIARABGAI"}]},
    },
}


@pytest.mark.parametrize("end", SIGNED)
@pytest.mark.parametrize("late", [0, 1, 9])
@pytest.mark.parametrize("beside", [{}, {"content": "word "}])
def test_what_ends_thoughts_does_not_hold_up_the_answer(end: str, late: int, beside: Json) -> None:
    """A signature, or thoughts that nobody can read, in an event in which nothing is thought: before the answer begins,
    behind its first words or beside them."""
    server = end.partition(",")[0]
    sent = list(events(server, ["thought "] * 12, ["word "] * 40))[:-1]
    last = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice({**SIGNED[end], **beside})]}
    sent.insert(len(sent) - 40 + late, shapes.event(last))
    read = Read(sent)
    assert read.order.count("/choices/0/content") >= 25
    assert read.said["/choices/0/content"] == "word " * (41 if beside else 40)


@servers
def test_long_thoughts_are_judged_piece_by_piece(server: str) -> None:
    """Each look reads what is new and the context before it, not all that was thought."""
    asked = [Read(events(server, ["word and "] * count, ["word"])).asked for count in (1_000, 4_000)]
    assert asked[1] < 6 * asked[0]


@pytest.mark.parametrize(("beside", "ends"), [({}, True), ({"reasoning": "more"}, False)])
def test_what_ends_a_thought(beside: Json, ends: bool) -> None:
    """The answer, where nothing is thought beside it; each choice's thoughts by themselves."""
    reader = ChatReader(Request(model="m", stream=True, choices=2))

    def closes(*choices: Json) -> tuple[int, ...]:
        return reader.read(read_event(shapes.event({"id": "c", "choices": list(choices)}))).closes

    other = {"index": 1, "delta": {"reasoning": "x"}}
    assert closes(choice({"reasoning": "x"}), other) == ()
    assert closes(choice({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}), other) == ()
    assert closes(choice({}, logprobs=spelled("x"))) == ()
    assert closes(choice({"x_content": "x", "x": {"content": "x"}})) == ()
    assert closes(choice({"content": "x", **beside}), other) == ((-2,) if ends else ())
    assert closes(choice({"content": "x"})) == (() if ends else (-2,))
    assert closes({"index": 1, "text": "x"}) == (-3,)


def test_a_choice_with_a_number_below_0_is_no_thought() -> None:
    reader = ChatReader(Request(model="m", stream=True))
    for number in (-2, 0, -2, 0):
        said = {"index": number, "delta": {"content": "x"}}
        assert reader.read(read_event(shapes.event({"id": "c", "choices": [said]}))).closes == ()


def test_a_thought_does_not_end_with_another_block() -> None:
    """Blocks of thoughts are one text: while one is open, the end of an earlier one is not its end."""
    reader = MessagesReader(Request(model="m"))

    def closes(kind: str, index: int, **more: Any) -> tuple[int, ...]:
        raw = shapes.event({"type": f"content_block_{kind}", "index": index, **more}, name=f"content_block_{kind}")
        (event,) = Decoder().feed(raw)
        return reader.read(event).closes

    for index in (0, 1):
        closes("start", index, content_block={"type": "thinking", "thinking": ""})
        closes("delta", index, delta={"type": "thinking_delta", "thinking": "x"})
    assert closes("stop", 0) == (0,)
    assert closes("stop", 1) == (1, -3)


@servers
async def test_the_pack_masks_what_is_thought(stand: Make, server: str) -> None:
    """Over real sockets, under the shipped pack."""
    text = "The user wants to know which card we have on file. " * 8
    text += "".join(f"Number {n} is 4111 1111 1111 1111 {'and more ' * (n % 7)}. " for n in range(8))
    sent = events(server, re.findall(r"\s?\S+|\s", text + "Now I think about it. " * 12), ["It is on file."])
    async with stand(settings={"policy": "privacy"}) as s:
        s.upstream.reply = replies.sse(list(sent), gap=0.004)
        answer = await s.chat("Which?", stream=True)
        assert answer.status_code == 200
        found = [
            orjson.loads(event.data) for event in Decoder().feed(answer.content) if event.data not in {None, "[DONE]"}
        ]
        said = "".join(_thought(each["choices"][0]["delta"]) for each in found)
        assert re.findall(r"Number \d is (\[CARD\]|.{9})", said) == ["[CARD]"] * 8
        assert b"1111" not in answer.content


def _thought(delta: Json) -> str:
    parts = [part["thinking"][0]["text"] for part in delta["content"]] if isinstance(delta.get("content"), list) else []
    return "".join(delta.get(key) or "" for key in ("reasoning", "reasoning_content")) + "".join(parts)


def test_roles_beside_thoughts_stay() -> None:
    """What a server says beside a thought is still the assistant's to rules; only its end is the thought's."""
    (raw, *_) = events("OpenRouter", ["x"], [])
    part = ChatReader(Request(model="m")).read(read_event(raw))
    found = {piece.channel: (piece.role, piece.group) for piece in part.pieces if piece.kind is Kind.FLOW}
    assert found["/choices/0/reasoning"] == (Role.REASONING, -2)
    assert found["/choices/0/reasoning_details/0/text"] == (Role.ASSISTANT, -2)

"""Images, sound and the like in every way in which servers take them that speak one of these APIs: each is told, for a
policy to decide about."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from proxy.dialects.chat import Chat
from proxy.dialects.embeddings import Embeddings
from proxy.dialects.messages import Messages
from proxy.dialects.responses import Responses
from tests.proxy.conftest import Make
from tests.proxy.leaves import UNSCANNABLE
from tests.upstream import replies, shapes

LINK = "https://example.com/x"
# a part of Chat's, and what it holds
PARTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "an image": ({"type": "image_url", "image_url": {"url": LINK}}, "image"),
    "an image without a type": ({"image_url": LINK}, "image"),
    "an image that calls itself text": (
        {"type": "text", "text": "x", "uuid": "u", "image_url": {"url": LINK}},
        "image",
    ),
    "an image that was sent before": ({"image_url": None, "uuid": "u"}, "image"),
    "an image that was sent before, of a type": ({"type": "image_url", "uuid": "u"}, "image"),
    "an image of Responses": ({"type": "input_image", "image_url": LINK}, "image"),
    "an image of Python's": ({"image_pil": "x"}, "image"),
    "sound": ({"type": "audio_url", "audio_url": {"url": LINK}}, "audio"),
    "sound without a type": ({"audio_url": LINK}, "audio"),
    "sound in bytes": ({"input_audio": {"data": "AAAA", "format": "wav"}}, "audio"),
    "a film": ({"video_url": {"url": LINK}}, "video"),
    "a file": ({"type": "file", "file": {"file_data": "AAAA"}}, "file"),
    "numbers for an image": ({"type": "image_embeds", "image_embeds": "AAAA"}, "embeddings"),
    "numbers for a prompt": ({"type": "prompt_embeds", "data": "AAAA"}, "embeddings"),
    "text": ({"type": "text", "text": "x"}, None),
    "text with what is empty": ({"type": "text", "text": "x", "image_url": None, "file": None}, None),
    "thoughts": ({"type": "thinking", "thinking": "x"}, None),
}
parts = pytest.mark.parametrize(("part", "kind"), PARTS.values(), ids=PARTS.keys())


def kinds(request: Any) -> list[str]:
    return [kind for _, kind in request.unscannable]


@parts
def test_parts_of_a_request(part: dict[str, Any], kind: str | None) -> None:
    turns = [{"role": "user", "content": [{"type": "text", "text": "Hi"}, part]}]
    wanted = [kind] if kind is not None else []
    assert kinds(Chat().read_request({"model": "m", "messages": turns})) == wanted
    assert kinds(Embeddings().read_request({"model": "m", "messages": turns})) == wanted
    if any(name.endswith(("_url", "_embeds", "_pil")) for name in part):
        assert kinds(Responses().read_request({"model": "m", "input": turns})) == wanted


def test_bytes_that_are_a_text_are_read() -> None:
    said = base64.b64encode(b"The word is MARK, and so it goes on for a while.").decode()
    for part in (
        {"image_embeds": said},
        {"type": "prompt_embeds", "data": said},
        {"image_url": f"data:text/plain;base64,{said}"},
    ):
        request = Chat().read_request({"model": "m", "messages": [{"role": "user", "content": [part]}]})
        assert any("MARK" in message.text for message in request.messages)
        assert all(said not in message.text for message in request.messages)


@pytest.mark.parametrize("kind", ["video", "audio", "image", "document"])
def test_sources_of_messages(kind: str) -> None:
    for source in ({"type": "base64", "data": "AAAA"}, {"type": "url", "url": LINK}):
        block = {"type": kind, "source": source}
        asked = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [block]}]}
        assert len(kinds(Messages().read_request(asked))) == 1
    plain = {"type": "search_result", "source": LINK, "title": "t", "content": [{"type": "text", "text": "x"}]}
    asked = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [plain]}]}
    assert kinds(Messages().read_request(asked)) == []


async def test_a_policy_decides(stand: Make) -> None:
    async with stand(UNSCANNABLE) as s:
        for part, kind in PARTS.values():
            answer = await s.chat({"role": "user", "content": [part]})
            assert answer.status_code == (200 if kind is None else 400)
        assert len(s.upstream.requests) == sum(kind is None for _, kind in PARTS.values())


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said", [{"images": [IMAGE]}, {"images": ["iVBORw0KGgo="]}, {"content": [IMAGE]}])
async def test_images_in_an_answer(stand: Make, said: dict[str, Any], stream: bool) -> None:
    """As gateways give what a model has drawn."""
    async with stand(UNSCANNABLE) as s:
        tree = {"id": "x", "object": "o", "created": 0, "model": "m"}
        choice = {
            "index": 0,
            ("delta" if stream else "message"): {"role": "assistant", **said},
            "finish_reason": "stop",
        }
        tree["choices"] = [choice]
        s.upstream.reply = replies.sse([shapes.event(tree), shapes.DONE]) if stream else replies.json(tree)
        answer = await s.chat("Draw it.", stream=stream)
        assert b"iVBOR" not in answer.content
        assert b"content_filter" in answer.content
        (row,) = await s.rows()
        assert row["status"] == "blocked"

"""What fuzzing begins with: fixtures of other tests, and what was found before (corpus/TARGET/)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conformance import sdk_types
from tests.conformance.test_leaves import ANSWERS, REQUESTS
from tests.conformance.test_leaves_responses import ANSWER, REQUEST
from tests.proxy.test_batches import ONE, RESULTS, result, row
from tests.upstream import messages, responses, shapes

FOLDER = Path(__file__).with_name("corpus")
FIXTURES = FOLDER.parent.parent / "fixtures"
PACKS = FOLDER.parent.parent.parent / "policies" / "packs"


def seeds(target: str) -> list[bytes]:
    """The corpus of a target, the smallest first; never empty."""
    found = sorted(path.read_bytes() for path in (FOLDER / target).glob("*")) if (FOLDER / target).is_dir() else []
    return sorted([*found, *_SEEDS[target]()], key=len)


def _json() -> Iterator[bytes]:
    for tree in (*REQUESTS.values(), *ANSWERS.values(), REQUEST, ANSWER):
        yield json.dumps(tree).encode()
    yield b'{"a":[1e9,-0.5,true,null,"\\u00e9\\ud83d\\ude00"],"a:b":{"":{}}}'


def _requests() -> Iterator[bytes]:
    for path in sorted(FIXTURES.glob("*/requests/*.json")):
        yield path.read_bytes()
    for dialect in ("completions", "embeddings", "moderations"):
        for tree in sdk_types.requests(dialect):
            yield json.dumps(tree).replace('"text"', '"xx"').encode()
    for tree in (*REQUESTS.values(), REQUEST):
        yield json.dumps(tree).encode()


def _answers() -> Iterator[bytes]:
    for folder in ("openai_chat/completions", "anthropic_messages/messages"):
        for path in sorted((FIXTURES / folder).glob("*.json")):
            yield path.read_bytes()
    for tree in (*ANSWERS.values(), ANSWER):
        yield json.dumps(tree).encode()
    for say in RESULTS.values():
        yield result(say("xx"))


def _streams() -> Iterator[bytes]:
    for path in sorted(FIXTURES.glob("*/streams/*.sse")):
        yield path.read_bytes()
    yield b"".join(responses.stream(responses.message(responses.text("xx")), responses.call()))
    yield b"".join(messages.stream(messages.text("xx"), messages.call(city="xx")))
    yield b"".join(shapes.stream("xx"))


def _texts() -> Iterator[bytes]:
    yield from (b"M A R K", b"TUFSSw==", b"4d41524b", b"%4d%41%52%4b", b"ZNEX", b"&#77;ARK", b"m4rk \xe2\x80\x8bmark")
    yield "ＭＡＲＫ Мark 𝐌𝐀𝐑𝐊 M\u0301A\u0301 \ufdfa \U0001f468\u200d\U0001f469 नमस्ते مرحبا".encode()


_SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "strict_json": _json,
    "sse": _streams,
    "normaliser": _texts,
    "requests": _requests,
    "answers": _answers,
    "streams": _streams,
    "forms": lambda: iter([ONE]),
    "rows": lambda: iter([row("xx", url) for url in ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")]),
    "policies": lambda: (path.read_bytes() for path in sorted(PACKS.glob("*.yaml"))),
}

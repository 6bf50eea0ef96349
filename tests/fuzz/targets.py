"""What must hold of any bytes, a function a reader. Each raises AssertionError where it does not."""

from __future__ import annotations

import email
import email.policy
import importlib
import importlib.util
import itertools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from anthropic._streaming import SSEDecoder

from classifiers.views import GROWTH, GROWTH_BASE, plain, views
from policies.document import read as read_document
from proxy.app import DIALECTS
from proxy.batches.form import read_form
from proxy.batches.rows import answered, lines, uploaded
from proxy.dialects.base import BadRequest, Body, Dialect, Refusal, Request
from proxy.dialects.moderations import Moderations
from proxy.sse import Decoder, Undecodable, framed
from proxy.strict import Malformed, parse
from tests.policies.test_any_file import judged as parse_policy
from tests.proxy.test_strict import outcome, reference


def _httpx_sse() -> Any:
    """The decoders of httpx-sse alone: its package imports httpx, which nothing here needs."""
    spec = importlib.util.find_spec("httpx_sse")
    assert spec is not None
    package = types.ModuleType("httpx_sse")
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules["httpx_sse"] = package
    return importlib.import_module("httpx_sse._decoders")


httpx_sse = _httpx_sse()
READERS: dict[str, Dialect] = {reader.name: reader for _, reader in DIALECTS}
PATHS: dict[str, Dialect] = {path.decode(): reader for path, reader in DIALECTS}
STREAMED = ("chat", "completions", "responses", "messages")
REFUSAL = Refusal("No.", "reason", "policy", "output", "pn_1")


def strict_json(data: bytes) -> None:
    """We read what the standard library reads when it is told to be strict, and refuse the rest."""
    ours = outcome(parse, data)
    if ours == "refused" and data.count(b"[") + data.count(b"{") > 100:
        return  # depth: ours has a limit of its own
    assert ours == outcome(reference, data)


def sse(data: bytes) -> None:
    """What leaves as it came is read by every client as we read it; cuts change nothing; no byte is lost."""
    try:
        decoder = Decoder()
        events = [*decoder.feed(data), *decoder.finish()]
        left = decoder.pending()
        slow = Decoder()
        bytewise = [event for byte in data for event in slow.feed(bytes([byte]))] + slow.finish()
    except Undecodable:
        return
    assert [event.raw for event in bytewise] == [event.raw for event in events]
    assert b"".join(event.raw for event in events) + left == data.removeprefix(b"\xef\xbb\xbf")
    for event in events:
        if event.plain and event.data is not None:
            assert list(_by_httpx(event.raw)) == [event.data], "httpx-sse reads something else"
            assert list(_by_anthropic(event.raw)) == [event.data], "the SDKs' decoder reads something else"
        if event.data is not None and "\r" not in event.data:
            (again,) = Decoder().feed(framed(event.data))
            assert (again.data, again.plain) == (event.data, True)


def _by_httpx(raw: bytes) -> Iterator[str]:
    cutter, decoder = httpx_sse.SSELineDecoder(), httpx_sse.SSEDecoder()
    for line in [*cutter.decode(raw.decode()), *cutter.flush()]:
        event = decoder.decode(line)
        if event is not None:
            yield event.data


def _by_anthropic(raw: bytes) -> Iterator[str]:
    for event in SSEDecoder().iter_bytes(iter([raw])):
        yield event.data


def normaliser(data: bytes) -> None:
    """Readings are bounded, none stands twice, and every span of them lies in the text."""
    text = data.decode("utf-8", "replace")[:5000]
    found = views(text)
    assert sum(len(view.text) for view in found) <= GROWTH * len(text) + GROWTH_BASE
    for view in found:
        start, end = view.trace(0, len(view.text))
        assert 0 <= start <= end <= len(text)
    assert plain(plain(text)) == plain(text)


def requests(data: bytes) -> None:
    """Every reader of requests reads a tree or refuses it, and leaves no word out."""
    try:
        tree = parse(data)
    except Malformed:
        return
    readers: list[Dialect | Moderations] = [*READERS.values(), Moderations()]
    for reader in readers:
        try:
            read = reader.read_request(tree)
        except BadRequest:
            continue
        if not isinstance(reader, Moderations):
            _whole(read, tree)


def answers(data: bytes) -> None:
    """As `requests`, for answers."""
    try:
        tree = parse(data)
    except Malformed:
        return
    for reader in READERS.values():
        try:
            _whole(reader.read_response(tree), tree)
        except Malformed:
            continue
    read = answered(tree, PATHS)
    _whole(read, tree)


def _whole(body: Body, tree: Any) -> None:
    """Every text of two letters x, which is no word of any API, stands in a message or in an unscannable part."""
    said = "\n".join(message.text for message in body.messages)
    opaque = [origin + "/" for origin, _ in body.unscannable]
    for place, word in _words(tree):
        if word not in said:
            assert any((place + "/").startswith(origin) for origin in opaque), f"nobody reads {place}"


def _words(tree: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, str):
        if "xx" in tree:
            yield place, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            if "xx" in key:
                yield place, key
            yield from _words(value, f"{place}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(tree, list):
        for number, item in enumerate(tree):
            yield from _words(item, f"{place}/{number}")


def streams(data: bytes) -> None:
    """Every reader of streams reads an event or says that it cannot; its endings can be read."""
    for name, structured in itertools.product(STREAMED, (False, True)):
        reader = READERS[name].reader(Request(model="m", stream=True, structured=structured))
        decoder = Decoder()
        try:
            for event in [*decoder.feed(data), *decoder.finish()]:
                part = reader.repeat(event.raw)
                part = reader.read(event) if part is None else part
                assert all(piece.text for piece in part.pieces)
                reader.released(part)
        except (Malformed, Undecodable):
            pass
        for ending in (reader.ending(REFUSAL), reader.broken("No.", "x")):
            for event in Decoder().feed(ending):
                assert event.plain
                assert event.data is None or event.data == "[DONE]" or parse(event.data) is not None


def forms(data: bytes) -> None:
    """A form that is taken is read alike by the standard library's parser of mail."""
    try:
        form = read_form(data, b"edge")
    except Malformed:
        return
    head = b"MIME-Version: 1.0\r\nContent-Type: multipart/form-data; boundary=edge\r\n\r\n"
    message = email.message_from_bytes(head + data, policy=email.policy.HTTP)
    parts = {part.get_param("name", header="content-disposition"): part for part in message.walk()
             if not part.is_multipart()}  # fmt: skip
    assert set(parts) == {*form.fields, "file"}
    assert parts["file"].get_filename() is not None


def rows(data: bytes) -> None:
    """Lines of an upload and of results are read or refused."""
    try:
        for number, line in lines(data):
            row = uploaded(number, line, PATHS)
            _whole(row.said, parse(line))
    except BadRequest:
        return


def policies(data: bytes) -> None:
    """A file is a policy, or its problems have places."""
    document = parse_policy(data)
    for problem in document.problems:
        assert problem.line >= 1
        assert "\n" not in str(problem)
    assert document.problems or isinstance(read_document(data, "p.yaml").value, dict)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "strict_json": strict_json,
    "sse": sse,
    "normaliser": normaliser,
    "requests": requests,
    "answers": answers,
    "streams": streams,
    "forms": forms,
    "rows": rows,
    "policies": policies,
}

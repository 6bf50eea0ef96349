"""What a streamed answer says, read from its bytes in one go: for explanations, not for live traffic."""

from __future__ import annotations

from .dialects.base import Body, Dialect, Request
from .gate import Gate
from .sse import Decoder, Undecodable
from .strict import Malformed


def is_stream(raw: bytes) -> bool:
    """Whether these are events rather than a JSON body."""
    return raw.lstrip()[:1] not in {b"{", b"["}


def spoken(dialect: Dialect, request: Request, raw: bytes) -> Body:
    """Each text of the stream as a whole, as it is judged at its end. Raises Malformed."""
    reader, gate, body = dialect.reader(request), Gate(None), Body()
    decoder = Decoder()
    try:
        for event in [*decoder.feed(raw), *decoder.finish()]:
            if reader.complete:
                break
            part = reader.read(event)
            body.unscannable += part.unscannable
            gate.push(part)
    except Undecodable as error:
        raise Malformed(str(error)) from None
    if not reader.complete and not reader.finished and not gate.held:
        raise Malformed("it is neither JSON nor a stream of events")
    gate.finish(clean=True)
    body.messages = list(gate.question(everything=True).messages)
    return body

"""What of a stream is known to be JSON, although only a window of it is judged at a time.

A tool call is judged whole, and so are an answer that waits for its end and every text that stands in one event. Of an
answer that leaves bit by bit it is known where the request demanded JSON (`structured`), from its first bracket on.

Decision: in other streams an answer is prose until its end is here. Why: a text that begins with a bracket may go on in
words, and what has left cannot be written anew. Cost: where nobody demanded the JSON that is streamed, a number that is
masked in it is no string, and a value that is put back is not escaped; `stream: whole` knows better.
"""

from __future__ import annotations

from policies.in_json import Growing, Json, Texts, as_json

from .gate import Gate, Kind, Question


class Windows(Texts):
    """The messages of `question`, which `gate` asked, and what is derived from them. `growing` remembers how far the
    texts of a stream of JSON were read; None where it is not known to be one."""

    def __init__(self, question: Question, gate: Gate, growing: dict[str, Growing] | None) -> None:
        super().__init__(question.messages)
        self._question, self._gate, self._growing = question, gate, growing

    def _read(self, index: int) -> Json | None:
        message, start = self.messages[index], self._question.starts[index]
        name = self._question.channels[index]
        text, kind, closed = self._gate.said(name)
        if kind is not Kind.FLOW:
            return as_json(message)
        if self._growing is None:
            return as_json(message, text, start) if closed and start <= 0 else None
        return self._growing.setdefault(name, Growing()).json(text, start)

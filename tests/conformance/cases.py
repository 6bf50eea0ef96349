"""Cases as they stand in the YAML files. Unknown keys are errors: a misspelt expectation must not look kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML

FOLDER = Path(__file__).parent


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Send(_Strict):
    """A request: `text` is what the user says; `body` are fields to add or replace; `raw` is the whole body instead, in
    Latin-1 (so any byte), a list of [text, times] being repeated; `encoding` is how it is then encoded again."""

    text: str = "Hi"
    body: dict[str, Any] = {}
    raw: str | list[tuple[str, int]] | None = None
    encoding: str | None = None
    compress: Literal["gzip", "deflate"] | None = None
    method: str = "POST"
    path: str | None = None
    query: str = ""
    headers: dict[str, str] = {}


class Answer(_Strict):
    """What the upstream says: `text` in the dialect's words, in pieces of `size`; or a `part` of an answer that holds
    `text` (see `speak`); or `raw` bytes of a body with `type`; or `events` of a stream. `twist` is done to it on its
    way."""

    text: str = "An honest answer."
    part: str = "content"
    size: int = 4
    raw: str | None = None
    events: list[Any] = []
    type: str = "application/json"
    status: int = 200
    twist: Literal["none", "no-done", "reset", "close", "endless-line", "keepalive", "drip", "gzip", "crlf", "cr",
                   "cut-bytes", "one-byte", "refuse", "hang"] = "none"  # fmt: skip

    @property
    def literal(self) -> bool:
        """Whether it is in one dialect's own words."""
        return self.raw is not None or bool(self.events)


class Expect(_Strict):
    """`status` None where the client sees none. `code` is the error's; `mid` the code of an error inside a stream.
    `contains` and `absent` are about the client's bytes; MARK is always absent."""

    status: int | None = 200
    code: str | None = None
    finish: str | None = None
    mid: str | None = None
    upstream_calls: int = 1
    audit: str
    contains: list[str] = []
    absent: list[str] = []
    fail_open: bool = False


class Case(_Strict):
    """One case. `policy` changes the test policy (see tests/proxy/conftest.py), `settings` Penstock's settings; `fault`
    is a fault of the classifier. `keys` are the Penstock keys that callers need: `{name}` in a header or a query is one
    of them. `sent` are headers that the upstream must get (null: must not get), `account` is who asked. `expect_stream`
    is for runs with a stream, where they differ."""

    id: str
    about: str = ""
    dialects: list[str] = ["chat"]
    stream: list[bool] = [False, True]
    send: Send = Send()
    upstream: Answer = Answer()
    policy: dict[str, str] = {}
    settings: dict[str, Any] = {}
    keys: dict[str, dict[str, Any]] = {}
    sent: dict[str, str | None] = {}
    account: str | None = None
    fault: Literal["none", "timeout", "crash", "hang", "nan", "queue_full"] = "none"
    expect: Annotated[Expect, Field(description="For all runs.")]
    expect_stream: Expect | None = None


def load() -> Iterator[tuple[str, Case]]:
    """Every case, with the name of its file."""
    for path in sorted(FOLDER.glob("*.yaml")):
        for tree in YAML(typ="safe", pure=True).load(path.read_text("utf-8")):
            yield path.stem, Case.model_validate(tree)

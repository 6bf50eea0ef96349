"""The one kind of multipart body that is taken: fields and one file, written so that nobody can read it in two ways."""

from __future__ import annotations

import re
from dataclasses import dataclass

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from ..strict import Malformed

MOST_FIELDS = 16
LONGEST_FIELD = 1024
"""Bytes of a field that is no file."""

_TYPE = re.compile(rb'multipart/form-data;[ \t]*boundary=(?:([0-9A-Za-z_.+-]{1,70})|"([0-9A-Za-z_.+-]{1,70})")', re.I)
_DISPOSITION = re.compile(
    r'form-data; ?name="([a-z_]{1,64}(?:\[[a-z_]{1,64}\])?)"(?:; ?filename="([^"\\%\x00-\x1f]+)")?'
)
_HEAD = re.compile(rb"\r\n(?:[A-Za-z-]+: [^\x00-\x1f\x7f]+\r\n)+\r\n")
"""The headers of a part, a line each. A parser that takes a lone CR or LF for a line end finds none here."""
_HEADERS = frozenset({"content-disposition", "content-type"})


@dataclass(frozen=True, slots=True)
class Form:
    """What a form holds: its fields, and the one file with its name, which begins at byte `start` of the form."""

    fields: dict[str, str]
    filename: str
    content: bytes
    start: int


def boundary_of(content_type: bytes) -> bytes | None:
    """The boundary that a Content-Type names; None where it is not multipart/form-data, or spelled in any odd way."""
    match = _TYPE.fullmatch(content_type.strip())
    return None if match is None else match[1] or match[2]


def read_form(body: bytes, boundary: bytes) -> Form:
    """The form that `body` is. Raises Malformed, whose message never quotes the body."""
    # The delimiter stands where the parts meet and nowhere else, so no reader can find another part.
    delimiter = b"--" + boundary
    if not body.startswith(delimiter + b"\r\n") or not body.removesuffix(b"\r\n").endswith(delimiter + b"--"):
        raise Malformed("the form does not begin and end with its boundary")
    fields: dict[str, str] = {}
    file: tuple[str, bytes] | None = None
    parts = place = 0
    for segment, content in _segments(body, boundary):
        parts += 1
        name, filename = _named(segment)
        if name in fields or (file is not None and filename is not None):
            raise Malformed("the form holds a field twice, or two files")
        if filename is None:
            fields[name] = _text(content)
        elif name != "file":
            raise Malformed("the form's file is not the field 'file'")
        else:
            file, place = (filename, content), parts
    if file is None or "file" in fields:
        raise Malformed("the form holds no file: send one as the field 'file'")
    if body.count(delimiter) != parts + 1:
        raise Malformed("the form's boundary stands within a part")
    pieces = body.split(delimiter)
    heads = [_HEAD.match(piece) for piece in pieces[1:-1]]
    head = heads[place - 1]
    if head is None or not all(heads):
        raise Malformed("a part of the form has a header that can be read in two ways")
    start = sum(len(piece) + len(delimiter) for piece in pieces[:place]) + head.end()
    if body[start : start + len(file[1])] != file[1]:
        raise Malformed("the form's file does not stand where it was read")
    return Form(fields, *file, start)


def _segments(body: bytes, boundary: bytes) -> list[tuple[MultipartSegment, bytes]]:
    found: list[tuple[MultipartSegment, list[bytes]]] = []
    try:
        with PushMultipartParser(
            boundary.decode("ascii"),
            content_length=len(body),
            max_segment_count=MOST_FIELDS,
            max_segment_size=len(body),
            max_header_count=len(_HEADERS),
            strict=True,
        ) as parser:
            for event in parser.parse(body):
                if isinstance(event, MultipartSegment):
                    found.append((event, []))
                elif event:
                    found[-1][1].append(bytes(event))
    except MultipartError as error:
        raise Malformed(f"not a valid form: {str(error).lower()}") from None
    return [(segment, b"".join(pieces)) for segment, pieces in found]


def _named(segment: MultipartSegment) -> tuple[str, str | None]:
    """(field, name of the file or None)."""
    names = [name.lower() for name, _ in segment.headerlist]
    if not _HEADERS.issuperset(names) or len(set(names)) != len(names):
        raise Malformed("a part of the form has a header other than Content-Disposition and Content-Type, or one twice")
    match = _DISPOSITION.fullmatch(segment.header("Content-Disposition"))
    if match is None:
        raise Malformed("a part of the form has a Content-Disposition that can be read in two ways")
    return match[1], match[2]


def _text(content: bytes) -> str:
    if len(content) > LONGEST_FIELD:
        raise Malformed(f"a field of the form is longer than {LONGEST_FIELD} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("a field of the form is not UTF-8") from None

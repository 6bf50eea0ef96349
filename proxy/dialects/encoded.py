"""What bytes in a body say where they are a text: a file of words is sent as base64, too.

A part that holds bytes is one that nobody can read, whatever they are; what can be read of it is judged besides. So is
what stands before the bytes of a data URL, unless it names a kind of file that is known here, and all of a string that
only looks as if it held some.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re

_PROBE = 256
"""Letters of base64 by which an image or a sound is told from a text."""
_BLANKS = str.maketrans("-_", "+/", "\r\n")
_RARE = 10
"""Of so many letters of a text one may be none."""
_RUN = re.compile("[^\\x00-\\x08\\x0e-\\x1f\\ufffd]{16,}")
_WORDS = re.compile(r"[A-Za-z0-9]{1,24}(?:[-_][A-Za-z0-9]{1,24}){2,}")
"""Words with hyphens between them, which base64 without blanks could be, too, where it is short."""
_PERCENT = re.compile("%(?=[0-9A-Fa-f]{2})")
_PRINTED = frozenset("\t\n\v\f\r")
_KINDS = re.compile(
    r"data:(?:image/(?:png|jpe?g|gif|webp|svg\+xml|bmp|tiff|heic|heif|avif|x-icon)"
    r"|audio/(?:wav|x-wav|wave|mp3|mpeg|mp4|m4a|x-m4a|aac|ogg|opus|flac|webm|pcm)"
    r"|video/(?:mp4|mpeg|webm|ogg|quicktime|jpeg|x-msvideo|x-matroska)"
    r"|text/(?:plain|csv|html|markdown|xml|css|javascript|x-python)"
    r"|application/(?:pdf|json|xml|zip|octet-stream|msword|rtf|vnd\.ms-(?:excel|powerpoint)"
    r"|vnd\.openxmlformats-officedocument\.(?:wordprocessingml\.document|spreadsheetml\.sheet"
    r"|presentationml\.presentation)))?(?:;charset=(?:utf-?8|us-ascii|iso-8859-1))?(?:;base64)?",
    re.IGNORECASE,
)
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def text_in(encoded: str, kind: str = "") -> str:
    """The text that base64 or a data URL holds, or is where it is neither; empty for all other bytes. It begins with
    what the URL says of them where that is no kind of file. `kind` is the media type, where that is told beside it."""
    if not encoded.startswith("data:"):
        return _held(encoded, named=_is_text(kind))
    head, comma, rest = encoded.partition(",")
    if not comma:
        return encoded
    if head.rstrip().lower().endswith(";base64"):
        said = _held(rest, named=_is_text(head.removeprefix("data:")))
    else:
        said = _decoded(_unquoted(rest)) or rest
    return said if _KINDS.fullmatch(head) else f"{head}\n{said}".rstrip("\n")


def _is_text(kind: str) -> bool:
    """Whether bytes of a media type are a text to who reads them, whatever else is among them."""
    return kind.lstrip().lower().startswith(("text/", "application/json", "application/xml"))


def _held(encoded: str, *, named: bool) -> str:
    """The text that base64 holds, or is where it is none; empty for all other bytes, unless they are `named` a text."""
    words = encoded if _WORDS.fullmatch(encoded) else ""
    head = encoded[:_PROBE].translate(_BLANKS)
    try:
        if not named and len(encoded) > _PROBE and not _printed(_bytes(head[: len(head) // 4 * 4])):
            return words
        raw = _bytes(encoded.translate(_BLANKS))
    except ValueError:
        return encoded
    return raw.decode(_coding(raw), "replace") if named else _decoded(raw) or words


def _unquoted(text: str) -> bytes:
    """`text` with its percent signs undone; `urllib` takes more than twice as long."""
    return binascii.a2b_qp(_PERCENT.sub("=", text.replace("=", "=3D")).encode())


def _bytes(encoded: str) -> bytes:
    """What base64 decodes to, its padding there or not. Raises ValueError."""
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


def _printed(start: bytes) -> bool:
    """Whether bytes can be the beginning of a text."""
    try:
        text = codecs.getincrementaldecoder(_coding(start))().decode(start)
    except UnicodeDecodeError:
        return False
    return all(letter >= " " or letter in _PRINTED for letter in text)


def _decoded(raw: bytes) -> str:
    if not _printed(raw[:_PROBE]):
        return ""
    text = raw.decode(_coding(raw), "replace")
    if "\ufffd" in text and raw.startswith(b"%PDF-"):
        return ""  # some programs write no odd byte into its head, and what is a text in it is no prose
    # A wrong letter here and there hides a text from nobody. A file that only begins like one is not a text.
    return text if text.count("\ufffd") * _RARE <= len(text) else "\n".join(_RUN.findall(text))


def _coding(raw: bytes) -> str:
    return next((coding for mark, coding in _MARKS.items() if raw.startswith(mark)), "utf-8")

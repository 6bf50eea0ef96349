"""`python -m tests.bench.classifiers`: what a classifier costs on ordinary text, in microseconds of CPU per call.

Each figure is the fastest of several rounds: what other work on the machine adds is left out; or their median, where
each call has another text. The texts are those that a proxy meets all day: prose, code, arguments of tools, and the
short ids that stand in every answer.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import random
import statistics
import string
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from classifiers import catalog
from classifiers.base import Classifier, Message, Role
from policies.load import load
from tests.upstream.api import WORDS

POLICY = str(Path(__file__).parent / "policies" / "patterns")
ROUNDS, ROUND_SECONDS = 15, 0.005

_CHANCE = random.Random(11)
_ENGLISH = WORDS * 8
_TYPESET = (
    "It’s a “small” town — really small – and the café’s résumé says so… Prices start at €4.50 per crêpe. "
    "The 3rd and 4th floors aren’t open yet, but a 10GB archive from 2024-05-06 is. "
)
_CODE = '''
class HarbourMaster(BaseModel):
    """Keeps the berths: who lies where, and until when."""

    def assign_berth(self, shipName: str, lengthInMetres: float = 12.5) -> Optional[Berth]:
        for index, berth in enumerate(self.freeBerths[1:], start=1):
            if berth.length >= lengthInMetres and not berth.reserved_until(self.now):
                self.log.info("ship %s gets berth %d", shipName, index)
                return berth.model_copy(update={"ship": shipName, "since": self.now})
        raise NoBerth(f"no berth of {lengthInMetres:.1f} m is free")  # see issue #1842, fixed in v2.10.3
'''
_ARGUMENTS = json.dumps(
    {
        "query": "berths free on the east quay",
        "filters": {"lengthInMetres": {"gte": 12.5}, "dates": ["2026-03-14", "2026-03-16"], "sizes": [1, 2, 3, 4]},
        "pageSize": 50,
        "cursor": "eyJvZmZzZXQiOjUwLCJzb3J0IjoiYXNjIn0",
        "note": "Ask the harbour master first.\nHe answers before 9am, “mostly”.",
    }
)
_ID_TEXTS = (
    "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG",
    "fp_44709d6fcb",
    "gpt-4o-mini-2024-07-18",
    "req_8f14e45fceea167a5a36dedd4bea2543",
    "call_lkj3hG7dK2sPqWm9ZxVbNc4T",
    "resp_68b1e4c0a8f48191b1d0c3f5a7e29b4d",
    "msg_01XFDUDYJgAACzvnptvVoYEL",
    "550e8400-e29b-41d4-a716-446655440000",
)

TEXTS: Mapping[str, str] = {
    "English, 2 kB": _ENGLISH[:2000],
    "English, 500 characters": _ENGLISH[:500],
    "English, 60 characters": _ENGLISH[:60],
    "a step of a stream, 1.1 kB": _ENGLISH[300:1400],
    "English with a long number, 2 kB": ("Story number 00000001. " + _ENGLISH)[:2000],
    "English with a hyphen and **marks**, 2 kB": (_ENGLISH[:900] + " a well-known **harbour** " + _ENGLISH)[:2000],
    "English, typeset, 2 kB": (_TYPESET * 12)[:2000],
    "code, 1 kB": (_CODE * 2)[:1000],
    "arguments of a tool, 300 characters": _ARGUMENTS,
    "random base64, 1 kB": base64.b64encode(_CHANCE.randbytes(750)).decode(),
    "Chinese, 500 characters": (
        ("港口小城醒得很早，面包师最先点亮码头边的窗户。渔夫补网，海鸥争食残渣，渡船缓缓驶过。") * 20
    )[:500],
    "Russian, 500 characters": (
        ("Портовый город просыпается рано, и пекари первыми зажигают свои окна у причала. ") * 10
    )[:500],
    "emoji, 200 characters": ("Great catch today 🎣🐟! See you at the quay ⚓️ 👩‍🍳👍🏽 " * 10)[:200],
    "padding of a stream, 12 characters": "aZ9kQ2mXw7Lp",
    **{f"id: {text[:22]}": text for text in _ID_TEXTS},
}
"""One text alone."""

GROUPS: Mapping[str, Sequence[tuple[Role, str]]] = {
    "request: 500 characters and a model": ((Role.USER, _ENGLISH[:500]), (Role.SETTING, "gpt-4o-mini-2024-07-18")),
    "answer: 900 characters and its ids": (
        (Role.SETTING, "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG"),
        (Role.SETTING, "gpt-4o-mini-2024-07-18"),
        (Role.ASSISTANT, ("Story number 00000001. " + _ENGLISH)[:900]),
        (Role.SETTING, "fp_44709d6fcb"),
    ),
    "all ids above at once": tuple((Role.SETTING, text) for text in _ID_TEXTS),
}
"""Several texts in one call, as a request or an answer has them."""

VARIANTS = 6000
"""More than a classifier remembers of short texts."""


def _fresh(length: int, letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(_CHANCE.choices(letters, k=length))


FRESH: Mapping[str, Callable[[], Sequence[tuple[Role, str]]]] = {
    "an id that was never seen": lambda: ((Role.SETTING, "chatcmpl-" + _fresh(29)),),
    "a uuid that was never seen": lambda: (
        (Role.SETTING, "-".join(_fresh(length, "0123456789abcdef") for length in (8, 4, 4, 4, 12))),
    ),
    "padding of 16 chunks of a stream": lambda: (
        (Role.SETTING, "".join("\n" + _fresh(_CHANCE.randrange(1, 17)) for _ in range(16))),
    ),
    "a step of a stream with its padding": lambda: (
        (Role.ASSISTANT, _ENGLISH[300:1400]),
        (Role.SETTING, "".join("\n" + _fresh(_CHANCE.randrange(1, 17)) for _ in range(16))),
    ),
    "an answer: 900 characters, its id is new": lambda: (
        (Role.SETTING, "chatcmpl-" + _fresh(29)),
        (Role.SETTING, "gpt-4o-mini-2024-07-18"),
        (Role.ASSISTANT, _ENGLISH[:900]),
        (Role.SETTING, "fp_44709d6fcb"),
    ),
}
"""What is another one in each call."""


def classifiers() -> dict[str, Classifier]:
    """What is measured, by the name of its column."""
    policies = load(POLICY).policies
    (spec,) = (spec for policy in policies for spec in policy.classifiers.values())
    return {
        "patterns": catalog.create("patterns", "words", spec.options),
        "no views": catalog.create("patterns", "words", {**spec.options, "views": False}),
        "secrets": catalog.create("secrets", "secrets", {}),
        "pii": catalog.create("pii", "pii", {}),
    }


def microseconds(classifier: Classifier, calls: Iterator[Sequence[Message]], seconds: float) -> float:
    """CPU of one `classify`, the mean of as many as fill `seconds`."""
    began = time.process_time_ns()
    classifier.classify(next(calls))
    count = max(1, int(seconds * 1e9 / max(1, time.process_time_ns() - began)))
    began = time.process_time_ns()
    for _ in range(count):
        classifier.classify(next(calls))
    return (time.process_time_ns() - began) / count / 1000


def measure(
    rounds: int = ROUNDS, seconds: float = ROUND_SECONDS, warm: int = 2 * VARIANTS
) -> dict[str, dict[str, float]]:
    """Text -> column -> microseconds. Each round meets all texts, so that a slow moment of the machine spoils none.
    `warm`: calls before, of what is another text each time: of such, automata know little until they have met many."""
    calls: dict[str, Iterator[Sequence[Message]]] = {}
    calls |= {name: itertools.repeat(_messages([(Role.USER, text)])) for name, text in TEXTS.items()}
    calls |= {name: itertools.repeat(_messages(parts)) for name, parts in GROUPS.items()}
    calls |= {name: itertools.cycle([_messages(make()) for _ in range(VARIANTS)]) for name, make in FRESH.items()}
    columns = classifiers()
    taken: dict[str, dict[str, list[float]]] = {name: {column: [] for column in columns} for name in calls}
    for name, classifier in itertools.product(FRESH, columns.values()):
        for messages in itertools.islice(calls[name], warm):
            classifier.classify(messages)
    for _ in range(rounds):
        for name, row in taken.items():
            for column, classifier in columns.items():
                row[column].append(microseconds(classifier, calls[name], seconds))
    return {
        name: {column: (statistics.median if name in FRESH else min)(row[column]) for column in columns}
        for name, row in taken.items()
    }


def _messages(parts: Sequence[tuple[Role, str]]) -> Sequence[Message]:
    return [Message(role, text, f"/{index}") for index, (role, text) in enumerate(parts)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.classifiers", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    arguments = parser.parse_args()
    rows = measure()
    columns = list(next(iter(rows.values())))
    width = max(map(len, rows))
    print(f"{'microseconds of CPU per call':{width}}" + "".join(f"{column:>10}" for column in columns))
    for name, row in rows.items():
        print(f"{name:{width}}" + "".join(f"{row[column]:10.1f}" for column in columns))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""T60: how often honest texts are stopped, in many languages and in code.

`python -m tests.conformance.benign --data DIR` takes 10,000 rows labelled `benign` from DIR (JSON lines, plain or gzip,
in it and below), drawn evenly over files and languages, and prints the share that the policy would block or mask with
its exact 95 % interval, in all and by file and language. Without --data it takes the documentation and the code of
Python's own library, which no training has seen as prompts.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import importlib.util
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from classifiers.base import Role
from classifiers.statistics import clopper_pearson
from policies.calibrate import together
from policies.judged import Judged, judge
from policies.load import load
from policies.ready import PolicySet
from policies.texts import Text

MOST = 10_000
LONGEST = 4000
"""Letters of one text: what is longer is cut there, so that a run ends."""
MODULES = (
    "argparse", "calendar", "configparser", "csv", "datetime", "difflib", "fractions", "functools", "getpass",
    "hashlib", "imaplib", "inspect", "locale", "mailbox", "netrc", "pathlib", "pickle", "random", "secrets", "shlex",
    "shutil", "smtplib", "socket", "ssl", "statistics", "string", "subprocess", "tempfile", "textwrap", "threading",
    "turtle", "uuid", "wave", "zipfile",
)  # fmt: skip


def library() -> Iterator[tuple[str, str]]:
    """(group, text) of the documentation and the code of Python's library."""
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_text("utf-8")
        written = source.split("\n")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                words = ast.get_docstring(node) or ""
                if len(words) > 80:
                    yield "documentation", words
                code = "\n".join(written[node.lineno - 1 : node.end_lineno])
                if isinstance(node, ast.FunctionDef) and 200 < len(code) < LONGEST:
                    yield "code", code


def rows(folder: Path) -> Iterator[tuple[str, str]]:
    """(file and language, text) of each benign row."""
    for path in sorted(folder.rglob("*.jsonl*")):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for line in raw.decode("utf-8").split("\n"):
            row = json.loads(line) if line else {}
            if row.get("label") == "benign" and row.get("role", "prompt") == "prompt" and row.get("text"):
                yield f"{path.name.partition('.')[0]} {row.get('lang') or '?'}", row["text"]


def drawn(groups: Iterator[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """At most `most` texts, none twice, as evenly from each group as there are."""
    known: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for group, text in groups:
        if text not in seen:
            seen.add(text)
            known[group].append(text[:LONGEST])
    chance = random.Random(60)
    for texts in known.values():
        chance.shuffle(texts)
    turns = [(turn, group) for group, texts in known.items() for turn in range(len(texts))]
    return [(group, known[group][turn]) for turn, group in sorted(turns)[:most]]


def judged(policies: PolicySet, texts: list[tuple[str, str]]) -> Judged:
    return judge(policies, [Text(text, False, Role.USER, group, 1) for group, text in texts])


def report(policies: PolicySet, seen: Judged) -> Iterator[str]:
    """A line for all, and one for each group in which something was stopped."""
    whole = together(policies, seen)
    yield _line("all", whole.hits, whole.count)
    groups: dict[str, list[int]] = defaultdict(list)
    for at, text in enumerate(seen.texts):
        groups[text.file].append(at)
    for group, places in sorted(groups.items()):
        part = together(policies, Judged(tuple(seen.texts[n] for n in places), tuple(seen.findings[n] for n in places)))
        if part.hits:
            yield _line(group, part.hits, part.count)


def _line(name: str, hits: int, count: int) -> str:
    low, high = clopper_pearson(hits, count)
    return f"{name}: {hits} of {count} stopped, {hits / count:.2%} (95 % interval {low:.2%} to {high:.2%})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.benign", description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--policy", default="baseline")
    parser.add_argument("--most", type=int, default=MOST)
    given = parser.parse_args()
    texts = drawn(rows(given.data) if given.data else library(), given.most)
    if not texts:
        print("no benign texts there", file=sys.stderr)
        return 1
    policies = load(given.policy)
    for line in report(policies, judged(policies, texts)):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())

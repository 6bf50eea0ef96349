"""Rows of labelled sets become examples: licences checked, kinds mapped, sources and languages kept in balance."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from .labels import NAMES, Targets, targets

TABLE = Path(__file__).with_name("sources.yaml")
OURS = 1.5
"""How much a text that we wrote ourselves counts: each was thought about."""
ANSWERED = 0.5
"""And an answer with its question: at OURS, 1,200 of them, all in one voice, cost more of `harmful_answer` on unseen
sources than they gave."""
HANDWRITTEN = Path(__file__).with_name("data")


class CorpusError(ValueError):
    """The data or the table of sources is not as it must be; the message names the place."""


@dataclass(frozen=True, slots=True)
class Example:
    """One text and what is known of it. `targets` holds only the heads that its source speaks of. `family`
    groups texts of one template or author's idea; `marked` is [start, end) in code points of a planted order;
    `context` is what was said before an answer."""

    text: str
    targets: Mapping[str, float]
    source: str
    role: str
    lang: str = ""
    weight: float = 1.0
    family: str = ""
    suite: str = ""
    marked: tuple[int, int] | None = None
    context: str = ""


@dataclass(slots=True)
class Tally:
    """How many rows were read and why others were left out, per source."""

    kept: Counter[str] = field(default_factory=Counter)
    unlisted: Counter[str] = field(default_factory=Counter)
    licence: Counter[str] = field(default_factory=Counter)
    unmapped: Counter[str] = field(default_factory=Counter)
    licences: dict[str, str] = field(default_factory=dict)


def table(path: Path = TABLE) -> dict[str, Any]:
    """The table of sources: {licences: [...], train: {name: {...}}, dev: {name: {...}}}."""
    loaded: dict[str, Any] = YAML(typ="safe").load(path.read_text("utf-8"))
    return loaded


def rows(path: Path, needed: Sequence[str] = ("text", "label")) -> Iterator[dict[str, Any]]:
    """The rows of one JSON-lines file, gzipped or not. Raises CorpusError naming the line."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                for name in needed:
                    row[name]
            except (ValueError, KeyError, TypeError) as error:
                raise CorpusError(f"{path.name}, line {number}: {error!r}") from None
            yield row


def _fits(rule: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return all(
        fnmatchcase(str(row.get(key) or ""), str(rule[key]))
        for key in ("label", "category", "role", "text")
        if key in rule
    )


def read_row(row: Mapping[str, Any], entry: Mapping[str, Any]) -> Targets | None:
    """What `row` says of the heads by its source's `entry` of the table; None where it is to be left out."""
    for rule in entry["map"]:
        if _fits(rule, row):
            if rule.get("skip"):
                return None
            try:
                return targets(rule["kind"], str(row.get("role") or "prompt"), rule.get("heads", ()))
            except KeyError as error:
                raise CorpusError(f"sources.yaml: no such kind or head {error}") from None
    return None


def _capped(examples: Sequence[tuple[str, Example]], cap: int, seed: int) -> list[Example]:
    """At most `cap` examples, spread evenly over their groups (label and category): small groups stay whole."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for group, example in examples:
        groups[group].append(example)
    rng = random.Random(seed)
    taken: list[Example] = []
    left = cap
    for place, (_, members) in enumerate(sorted(groups.items(), key=lambda item: (len(item[1]), item[0]))):
        share = left // (len(groups) - place)
        chosen = members if len(members) <= share else rng.sample(members, share)
        taken += chosen
        left -= len(chosen)
    return taken


def load(
    directory: Path, part: str, seed: int = 0, cap: int | None = None, capped: bool = True
) -> tuple[list[Example], Tally]:
    """The examples of `directory`/`part` (`train` or `dev`) and the tally of what was left out.

    For training a row counts only where its own licence is permissive; a set that the table does not list is left
    out in both parts. `cap` bounds every source further; without `capped` there is no bound at all.
    Raises CorpusError where there is nothing to read.
    """
    listed = table()
    sources, licences, languages = listed[part], frozenset(listed["licences"]), listed["languages"]
    tally = Tally()
    found: list[Example] = []
    files = sorted((directory / part).glob("*.jsonl.gz"))
    if not files:
        raise CorpusError(f"{directory / part}: no *.jsonl.gz files; --data must name a folder that holds {part}/")
    for path in files:
        name = path.name.removesuffix(".jsonl.gz")
        if name not in sources:
            tally.unlisted[name] += 1
            continue
        entry = sources[name]
        mine: list[tuple[str, Example]] = []
        for row in rows(path):
            licence = str(row.get("licence"))
            if part == "train" and licence not in licences:
                tally.licence[f"{name} ({licence})"] += 1
                continue
            said = read_row(row, entry)
            if said is None:
                tally.unmapped[name] += 1
                continue
            tally.licences[name] = licence
            mine.append((f"{row['label']}/{row.get('category')}", _example(row, said, name, entry, languages)))
        limit = min(entry.get("cap", len(mine)), cap or len(mine))
        taken = _capped(mine, limit, seed) if capped else [example for _, example in mine]
        tally.kept[name] = len(taken)
        found += taken
    return unique(found), tally


def _example(
    row: Mapping[str, Any], said: Targets, name: str, entry: Mapping[str, Any], languages: Mapping[str, str]
) -> Example:
    text, lang = str(row["text"]), str(row.get("lang") or "")
    marked = None
    attack = row.get("attack")
    if isinstance(attack, str) and attack and (start := text.find(attack)) >= 0:
        marked = (start, start + len(attack))
    return Example(
        text=text,
        targets=said,
        source=name,
        role=str(row.get("role") or "prompt"),
        lang=languages.get(lang, lang.lower()),
        weight=float(entry.get("weight", 1.0)),
        suite=str(entry.get("suite", "")),
        marked=marked,
        context=_before(row),
    )


def _before(row: Mapping[str, Any]) -> str:
    """What was said in the conversation before the answer of `row`."""
    turns = row.get("conversation")
    if row.get("role") != "response" or not isinstance(turns, list):
        return ""
    return "\n".join(str(turn.get("content", "")) for turn in turns[:-1])


def handwritten(directory: Path = HANDWRITTEN) -> tuple[list[Example], list[Example]]:
    """The texts that we wrote ourselves: (to train on, kept for validation). A row has text and kind and, where it
    matters, role, heads, family, lang, `val` (true: a family kept out), `carrier` (a text with {} in which the
    text stands) and `context` (what was said before an answer)."""
    train: list[Example] = []
    kept: list[Example] = []
    for path in sorted(directory.glob("*.jsonl")):
        for number, row in enumerate(rows(path, ("text", "kind")), 1):
            text, role, marked = row["text"], row.get("role", "prompt"), None
            if row.get("carrier"):
                start = row["carrier"].index("{}")
                marked, text = (start, start + len(text)), row["carrier"].replace("{}", text, 1)
            try:
                said = targets(row["kind"], role, row.get("heads", ()))
            except KeyError as error:
                raise CorpusError(f"{path.name}, line {number}: no such kind or head {error}") from None
            family, lang = row.get("family", path.stem), row.get("lang", "")
            before = row.get("context", "")
            weight = ANSWERED if before else OURS
            example = Example(text, said, "handwritten", role, lang, weight, family, marked=marked, context=before)
            (kept if row.get("val") else train).append(example)
    return train, kept


def unlearnt(path: Path = HANDWRITTEN / "unlearnt" / "documentation.jsonl") -> list[Example]:
    """Pages of documentation, honest, from which no encoder learns: heads are fitted to what it makes of them, and of
    pages that it knows by heart it makes nothing that would tell."""
    said = targets("benign", "tool_result")
    return [
        Example(row["text"], said, "handwritten", "tool_result", "en", OURS, "documentation")
        for row in rows(path, ("text",))
    ]


def unique(examples: Iterable[Example]) -> list[Example]:
    """Examples without repeated texts; case and runs of spaces do not make a text another one. Where two sources
    disagree on a head, neither is heard on it."""
    merged: dict[str, Example] = {}
    for example in examples:
        key = " ".join(example.text.casefold().split())
        if not key:
            continue
        first = merged.get(key)
        if first is None:
            merged[key] = example
            continue
        said = {k: v for k, v in {**example.targets, **first.targets}.items() if example.targets.get(k, v) == v}
        merged[key] = replace(first, targets=said)
    return list(merged.values())


MOST_BAD: Mapping[str, float] = {"harmful": 0.5, "injection": 0.1, "jailbreak": 0.1}
"""What the texts of a language that are bad for a head may weigh against its honest ones. As much as those would teach
that a text in it is harmful more often than not; in English they are a fifth, and of injections a fortieth."""


def with_bad(examples: Sequence[Example], order: Sequence[int], count: int, least: int) -> set[int]:
    """The first `count` places of `order`, and more of it until each head has `least` of its bad texts, or all."""
    taken = set(order[:count])
    for name in NAMES:
        bad = [place for place in order if examples[place].targets.get(name) == 1.0]
        missing = max(0, least - len(taken.intersection(bad)))
        taken.update([place for place in bad if place not in taken][:missing])
    return taken


def balance_languages(examples: Sequence[Example], least: float = 0.1) -> list[Example]:
    """The examples with weights under which no language says by itself whether a text is harmful or an attack. The side
    that has too much is made lighter: bad texts beyond MOST_BAD of the honest ones, those that are not harmful beyond
    their share in English. Every text keeps `least` of its weight."""
    sums: dict[tuple[str, str, float], float] = defaultdict(float)
    tongues = [_tongue(example) for example in examples]
    for example, tongue in zip(examples, tongues, strict=True):
        for head in MOST_BAD.keys() & example.targets.keys():
            sums[head, tongue, example.targets[head]] += example.weight
    english = sums["harmful", "", 0.0], sums["harmful", "", 1.0]
    usual = max(1 / MOST_BAD["harmful"], english[0] / english[1] if english[1] else 0.0)
    made = []
    for example, tongue in zip(examples, tongues, strict=True):
        share = 1.0
        for head in MOST_BAD.keys() & example.targets.keys() if tongue else ():
            bad, honest = sums[head, tongue, 1.0], sums[head, tongue, 0.0]
            if example.targets[head] == 1.0:
                share = min(share, honest * MOST_BAD[head] / bad)
            elif head == "harmful":
                share = min(share, bad * usual / honest)
        made.append(replace(example, weight=example.weight * max(least, share)))
    return made


GERMAN = frozenset((
    "aber", "als", "auf", "bei", "bitte", "das", "dem", "den", "der", "die", "ein", "eine", "für", "haben",
    "ich", "ist", "kann", "kein", "mein", "mir", "mit", "nicht", "oder", "sie", "sind", "und", "von",
    "welche", "wenn", "wie", "wir", "zu", "zum", "über",
))  # fmt: skip
"""A set that names no languages is English but for its German rows, of which every third is an injection."""


def _tongue(example: Example) -> str:
    """The language of an example; nothing for English, which most sources do not name."""
    if not example.lang:
        words = example.text[:2000].casefold().split()
        return "de" if sum(word in GERMAN for word in words) > 0.15 * len(words) else ""
    return "" if example.lang == "en" else example.lang


def summary(examples: Sequence[Example]) -> dict[str, dict[str, int]]:
    """{head: {"1": positives, "0": negatives}} over `examples`."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for example in examples:
        for head, value in example.targets.items():
            counts[head]["1" if value > 0.5 else "0"] += 1
    return {head: dict(count) for head, count in sorted(counts.items())}

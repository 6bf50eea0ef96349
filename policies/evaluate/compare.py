"""Two runs on the same rows: what changed, and whether these rows can show it.

Decisions are compared row by row (exact McNemar test, in which a family has one vote), rankings by a paired bootstrap
that draws families whole. Rows that are not in both runs, or have another label or length there, are left out and
counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classifiers import statistics as stats

from ..model import Action
from .files import Run
from .plots import milliseconds, share
from .shares import Bools, Floats, chosen, number, paired

Json = Mapping[str, Any]

DRAWS = 1000
AT = 0.01
"""The share of false alarms at which runs are compared that are not both of policies."""
SURE = 0.05
FEW = 6
"""Families, or rows without one, that each side needs before a bootstrap can tell a change from chance: five that all
go one way are a chance of one in sixteen."""


class CannotCompare(ValueError):
    """The runs have too little in common; the message says what."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The rows of one surface that both runs judged, as columns (n,)."""

    first: tuple[Json, ...]
    second: tuple[Json, ...]

    @property
    def bad(self) -> Bools:
        return np.array([row["bad"] for row in self.first], bool)

    @property
    def judged(self) -> Bools:
        """Rows that neither run failed on."""
        return np.array([not a["failures"] and not b["failures"] for a, b in zip(self.first, self.second, strict=True)])

    @property
    def families(self) -> list[object]:
        return [(row["source"], row["family"]) if row["family"] else None for row in self.first]

    def where(self, chosen: Sequence[bool] | Bools) -> Pair:
        kept = [at for at, take in enumerate(chosen) if take]
        return Pair(tuple(self.first[at] for at in kept), tuple(self.second[at] for at in kept))


def compare(first: Run, second: Run, least: int = 100, seed: int = 0) -> dict[str, Any]:
    """What changed from `first` to `second`, ready for JSON. Raises CannotCompare where fewer than `least` rows are in
    both."""
    rows, others = ({(row["source"], row["id"]): row for row in run.rows} for run in (first, second))
    shared = [key for key in rows if key in others]
    same = [key for key in shared if _same(rows[key], others[key])]
    if len(same) < least:
        raise CannotCompare(
            f"only {len(same):,} rows are in both runs and {least:,} are wanted ({len(rows):,} in {first.path}, "
            f"{len(others):,} in {second.path}, {len(shared) - len(same):,} with another label or text); evaluate both "
            "on the same data, or lower --min-common"
        )
    found: dict[str, Any] = {
        "first": _run(first),
        "second": _run(second),
        "changed": _changed(first.manifest, second.manifest),
        "rows": {
            "common": len(same),
            "only_first": len(rows) - len(shared),
            "only_second": len(others) - len(shared),
            "differing": len(shared) - len(same),
        },
        "surfaces": {},
        "sources": [],
    }
    surfaces = sorted({rows[key]["surface"] for key in same}, key=lambda name: (name != "user", name))
    for surface in surfaces:
        keys = [key for key in same if rows[key]["surface"] == surface]
        pair = Pair(tuple(rows[key] for key in keys), tuple(others[key] for key in keys))
        found["surfaces"][surface] = _surface(pair, first, second, seed)
        found["sources"] += _sources(pair, surface, first, second)
    _holm(found["sources"])
    return found


def _same(row: Json, other: Json) -> bool:
    return all(row[name] == other[name] for name in ("bad", "surface", "chars"))


def _run(run: Run) -> dict[str, Any]:
    subject = run.manifest["subject"]
    seconds = np.array([row["seconds"] for row in run.rows]) * 1000
    return {
        "path": str(run.path),
        "kind": subject["kind"],
        "title": subject["title"],
        "digest": subject["digest"],
        "started": run.manifest["started"],
        "rows": len(run.rows),
        "acts": _acts(run),
        "failed": sum(bool(row["failures"]) for row in run.rows),
        "p50_ms": number(float(np.quantile(seconds, 0.5)), 4),
        "p99_ms": number(float(np.quantile(seconds, 0.99)), 4),
    }


def _changed(first: Json, second: Json) -> dict[str, Any]:
    before, after = first["subject"]["classifiers"], second["subject"]["classifiers"]
    settings = {
        name: [first["settings"].get(name), second["settings"].get(name)]
        for name in sorted(first["settings"].keys() | second["settings"].keys())
        if first["settings"].get(name) != second["settings"].get(name)
    }
    return {
        "subject": first["subject"]["digest"] != second["subject"]["digest"],
        "classifiers": sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)),
        "data": _files(first) != _files(second),
        "code": first["penstock"] != second["penstock"],
        "settings": settings,
    }


def _files(manifest: Json) -> list[str]:
    return sorted(file["sha256"] for file in manifest["data"]["files"])


# One surface --------------------------------------------------------------------------------------------------------


def _surface(pair: Pair, first: Run, second: Run, seed: int) -> dict[str, Any]:
    bad, families = pair.bad, pair.families
    decisions = []
    for name, one, other in _flags(pair, first, second):
        for side, rows in (("bad", bad), ("honest", ~bad)):
            if rows.any():
                told = paired(one[rows], other[rows], chosen(families, rows))
                decisions.append({"at": name, "side": side} | told)
    return {
        "bad": int(bad.sum()),
        "honest": int((~bad).sum()),
        "decisions": decisions,
        "ranking": [row for row in _rankings(pair, first, second, seed) if row],
    }


def _actions(first: Run, second: Run) -> list[str]:
    """Actions by which their decisions are told, strictest first: of two policies those that either can take, as one
    that takes none of them, or milder ones, lets that pass; else none."""
    return _of(first, second, set.union) if _alike(first, second) else []


def _ranks(first: Run, second: Run) -> list[str]:
    """Actions for which both have scores, strictest first."""
    return _of(first, second, set.intersection)


def _of(first: Run, second: Run, joined: Callable[[set[str], set[str]], set[str]]) -> list[str]:
    one, other = (set(run.manifest["subject"].get("actions", ())) for run in (first, second))
    found = joined(one, other)
    return [action.value for action in reversed(Action) if action.value in found]


def _alike(first: Run, second: Run) -> bool:
    return bool(first.manifest["subject"]["kind"] == second.manifest["subject"]["kind"])


def _acts(run: Run) -> bool:
    """Whether it is no policy, or one of which any rule acts."""
    subject = run.manifest["subject"]
    return subject["kind"] != "policy" or bool(subject.get("actions"))


def _flags(pair: Pair, first: Run, second: Run) -> list[tuple[str, Bools, Bools]]:
    """(name, flagged by first, by second), each (n,): for each action of two policies; else at AT false alarms."""
    found: list[tuple[str, Bools, Bools]] = []
    for action in _actions(first, second):
        severity = Action(action).severity
        one, other = (
            np.array([Action(row["action"]).severity >= severity for row in rows], bool)
            for rows in (pair.first, pair.second)
        )
        again = found and np.array_equal(one, found[-1][1]) and np.array_equal(other, found[-1][2])
        if not again:
            found.append((action, one, other))
    if _actions(first, second):
        return found
    bad, judged = pair.bad, pair.judged
    if not bad[judged].any() or bad[judged].all() or not (_rank(pair.first) and _rank(pair.second)):
        return []
    flags = []
    for rows in (pair.first, pair.second):
        scores = _scores(rows, _rank(rows))
        threshold = stats.recall_at_fpr(scores[judged], bad[judged], AT)[1]
        flags.append(judged & (scores >= threshold))
    return [(f"{share(AT)} false alarms", flags[0], flags[1])]


def _rank(rows: Sequence[Json]) -> str:
    """The first rank score that any row has; "" where there is none, as no rule acts."""
    names: list[str] = list(rows[0]["scores"])
    return next((name for name in names if any(row["scores"][name] is not None for row in rows)), (names or [""])[0])


def _scores(rows: Sequence[Json], name: str) -> Floats:
    """(n,), -inf where nothing was found, or no rule looked for it."""
    values = [row["scores"].get(name) for row in rows]
    return np.array([-math.inf if value is None else value for value in values], np.float64)


def _rankings(pair: Pair, first: Run, second: Run, seed: int) -> list[dict[str, Any] | None]:
    part = pair.where(pair.judged)
    bad = part.bad
    if not bad.any() or bad.all() or not (_rank(part.first) and _rank(part.second)):
        return []
    names = _ranks(first, second) or [""]
    found: list[dict[str, Any] | None] = []
    seen: list[tuple[Floats, Floats]] = []
    for name in names:
        one, other = (_scores(rows, name or _rank(rows)) for rows in (part.first, part.second))
        if not (np.isfinite(one).any() or np.isfinite(other).any()):
            continue
        if any(np.array_equal(one, a) and np.array_equal(other, b) for a, b in seen):
            continue
        seen.append((one, other))
        for what, measure in (("AUROC", stats.auroc_of), ("recall at 1 %", stats.recall_at(0.01))):
            found.append({"score": name, "figure": what} | _difference(one, other, bad, measure, part.families, seed))
    return found


def _difference(
    one: Floats, other: Floats, bad: Bools, measure: stats.Measure, families: Sequence[object], seed: int
) -> dict[str, Any]:
    difference = stats.paired_bootstrap(one, other, bad, measure, families, DRAWS, seed)
    sides = [stats.units(chosen(families, rows), int(rows.sum()))[1] for rows in (bad, ~bad)]
    return {
        "first": number(measure(stats.Ranked.of(one, bad), None)),
        "second": number(measure(stats.Ranked.of(other, bad), None)),
        "difference": number(difference.value),
        "low": number(difference.low),
        "high": number(difference.high),
        "p": number(difference.p),
        "units": difference.units,
        "units_of_sides": sides,
    }


def _sources(pair: Pair, surface: str, first: Run, second: Run) -> list[dict[str, Any]]:
    found = []
    bad, families = pair.bad, pair.families
    # Of what neither run did anywhere no source can tell more.
    done = [flags for flags in _flags(pair, first, second) if flags[1].any() or flags[2].any()]
    for name, one, other in done[:1]:
        for source in sorted({row["source"] for row in pair.first}):
            mine = np.array([row["source"] == source for row in pair.first], bool)
            for side, rows in (("bad", mine & bad), ("honest", mine & ~bad)):
                if rows.any():
                    row = {"source": source, "surface": surface, "at": name, "side": side}
                    found.append(row | paired(one[rows], other[rows], chosen(families, rows)))
    return found


def _holm(rows: list[dict[str, Any]]) -> None:
    """Adds `p_holm`: p where so many sources are looked at that some differ by chance."""
    highest = 0.0
    for rank, row in enumerate(sorted(rows, key=lambda row: row["p"])):
        highest = max(highest, min(1.0, row["p"] * (len(rows) - rank)))
        row["p_holm"] = number(highest, 10)


# In words -----------------------------------------------------------------------------------------------------------


def words(found: Json) -> list[str]:
    """The comparison for people, a line each."""
    first, second, rows = found["first"], found["second"], found["rows"]
    lines = [
        f"first:  {_title(first)}",
        f"second: {_title(second)}",
        _what_changed(found["changed"]),
        f"{rows['common']:,} rows are in both runs" + _left_out(rows) + ".",
    ]
    lines += [
        f"no rule of {run['path']} acts: it decides and ranks nothing" for run in (first, second) if not run["acts"]
    ]
    for surface, figures in found["surfaces"].items():
        lines.append("")
        lines.append(f"{surface}: {figures['bad']:,} bad texts, {figures['honest']:,} honest ones")
        lines += [f"  {_decision(row)}" for row in figures["decisions"]]
        lines += [f"  {_ranking(row)}" for row in figures["ranking"]]
        if not figures["decisions"] and not figures["ranking"]:
            lines.append("  nothing to compare: one of the runs has no scores here, or texts of one side are missing")
    sure = [row for row in found["sources"] if row["p_holm"] < SURE]
    if found["sources"]:
        looked = len({(row["source"], row["surface"]) for row in found["sources"]})
        verdict = "" if sure else " none"
        lines += ["", f"sources that changed by more than chance (of {looked}; Holm's correction):{verdict}"]
        lines += [f"  {row['source']} ({row['surface']}): {_decision(row)}" for row in sure]
    if first["failed"] or second["failed"]:
        lines += ["", f"texts not fully judged: {first['failed']:,} before, {second['failed']:,} after; in no ranking"]
    lines += [
        "",
        f"time to judge a text: median {milliseconds(first['p50_ms'])} -> {milliseconds(second['p50_ms'])}, p99 "
        f"{milliseconds(first['p99_ms'])} -> {milliseconds(second['p99_ms'])} (all rows of each run)",
    ]
    return lines


def _title(run: Json) -> str:
    return f"{run['path']}: {run['kind']} {run['title']} {run['digest'][:12]}, {run['started']}, {run['rows']:,} rows"


def _what_changed(changed: Json) -> str:
    told = []
    if changed["subject"]:
        told.append("what was measured")
    if changed["classifiers"]:
        told.append("classifiers " + ", ".join(changed["classifiers"]))
    if changed["data"]:
        told.append("the data's files")
    if changed["code"]:
        told.append("Penstock itself")
    told += [f"setting {name} ({before} -> {after})" for name, (before, after) in changed["settings"].items()]
    return "differing between them: " + ("; ".join(told) if told else "nothing")


def _left_out(rows: Json) -> str:
    told = [
        f"{count:,} {what}"
        for what, count in (
            ("only in the first", rows["only_first"]),
            ("only in the second", rows["only_second"]),
            ("with another label or text", rows["differing"]),
        )
        if count
    ]
    return f"; left out: {', '.join(told)}" if told else ""


def _p(value: float) -> str:
    return "p < .001" if value < 0.001 else f"p = {value:.3f}".replace("0.", ".")


def _decision(row: Json) -> str:
    points = 100 * (row["second"] - row["first"])
    what = "bad texts caught" if row["side"] == "bad" else "honest texts flagged"
    gained, lost = ("caught", "missed") if row["side"] == "bad" else ("flagged", "let through")
    text = f"{row['at']}: {what} {share(row['first'])} -> {share(row['second'])}"
    if not row["only_first"] and not row["only_second"]:
        return f"{text}: the same on every one of {row['n']:,}"
    p = row.get("p_holm", row["p"])
    verdict = _p(p) + (", more than chance" if p < SURE else ", may be chance")
    turned = f"newly {gained} {row['only_second']:,}, newly {lost} {row['only_first']:,} of {row['n']:,}"
    if (row["votes_first"], row["votes_second"]) != (row["only_first"], row["only_second"]):
        turned += f", by family {row['votes_second']:,} to {row['votes_first']:,}"
    return f"{text} ({points:+.1f} points): {turned}; {verdict}"


def _ranking(row: Json) -> str:
    name = f"{row['score']}: " if row["score"] else ""
    text = f"{name}{row['figure']} {row['first']:.3f} -> {row['second']:.3f}"
    if not row["difference"] and not row["low"] and not row["high"]:
        return f"{text}: the same"
    if row["low"] is None:
        return f"{text} ({row['difference']:+.3f}); too few rows for an interval"
    interval = f"95 % [{row['low']:+.3f}, {row['high']:+.3f}] over {row['units']:,} families or rows"
    verdict = "more than chance" if row["low"] > 0 or row["high"] < 0 else "may be chance"
    if min(row["units_of_sides"]) < FEW:
        verdict = "too few of one side to tell from chance"
    return f"{text} ({row['difference']:+.3f}, {interval}): {verdict}"

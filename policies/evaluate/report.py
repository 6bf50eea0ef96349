"""Manifest and figures to one page that needs nothing else: no script, no font, no address. All that came from the data
or from an author is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from . import notes, plots
from .labels import whole
from .plots import share

Json = Mapping[str, Any]
DONE = {
    "block": "blocked",
    "review": "held or blocked",
    "rewrite": "rewritten, held or blocked",
    "route": "routed, rewritten or stopped",
    "mask": "masked, routed or stopped",
    "advise": "advised or stopped",
    "log": "logged or stopped",
    "pass": "judged",
}
"""What an action and stricter ones do to a text."""
FEW = 20
"""Texts below which a language has no line on the page."""


def render(manifest: Json, results: Json) -> str:
    """The report as HTML. Pure."""
    css = (resources.files("policies.evaluate") / "report.css").read_text("utf-8")
    title = f"{manifest['subject']['title']}: {manifest['subject']['kind']} evaluated"
    parts = [
        _head(manifest, results),
        _tiles(manifest, results),
        _summary(results),
        _curves(results),
        _forests(results),
        _table_of("source", "By source", results),
        _table_of("lang", "By language", results),
        _rules(manifest, results),
        _calibration(results),
        _latency(manifest, results),
        _worst(results),
        _run(manifest),
        f"<h2>How to read this</h2>\n{_note(notes.READING)}",
    ]
    return whole(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def lines(figures: Json) -> list[tuple[tuple[str, ...], Json | None, Json | None]]:
    """What is told of a surface, a line each: (names of rank scores, ranking, decisions). Actions share a line where
    the milder one was taken on no text more and puts them in no other order. Where no rule acts it is a line without
    figures."""
    found: list[tuple[tuple[str, ...], Json | None, Json | None]] = []
    for name in dict.fromkeys((*figures["decisions"], *figures["ranking"])):
        ranked, row = figures["ranking"].get(name), figures["decisions"].get(name)
        if found and name not in figures["ranking"] and row == found[-1][2]:
            found[-1] = ((*found[-1][0], name), *found[-1][1:])
        else:
            found.append(((name,), ranked, row))
    return found or [(("–",), None, None)]


def idle(manifest: Json) -> str:
    """Says it where no rule of a policy acts; else empty."""
    subject = manifest["subject"]
    if subject["kind"] != "policy" or subject["actions"]:
        return ""
    shadow = sum(rule["mode"] == "shadow" for rule in subject["rules"])
    told = f"; {shadow:,} in shadow stand{'s' if shadow == 1 else ''} under Rules in the report" if shadow else ""
    return f"no rule of this policy stops, changes or notes a text, so there are no decisions to measure{told}"


# Pieces -------------------------------------------------------------------------------------------------------------


def _cell(text: object, css: str = "", style: str = "") -> str:
    attributes = (f' class="{css}"' if css else "") + (f' style="{style}"' if style else "")
    return f"<td{attributes}>{escape(str(text))}</td>"


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.removeprefix("0") if text.startswith("0.") else text


def _bar(value: float | None, more: str = "") -> str:
    """A share with a bar behind it; `more` stands small beside it."""
    if value is None:
        return "<td>–</td>"
    small = f" <small>{escape(more)}</small>" if more else ""
    return f'<td class="bar" style="--v:{100 * value:.1f}%">{escape(share(value))}{small}</td>'


def _between(rate: Json) -> str:
    return f"[{_bare(rate['low'])}, {_bare(rate['high'])}]"


def _bare(value: float) -> str:
    return share(value).removesuffix(" %")


def _table(head: Sequence[str], rows: Iterable[str], css: str = "scroll") -> str:
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="{css}"><table>\n<thead>{"".join(head)}</thead>\n<tbody>\n{body}\n</tbody></table></div>'


_WORDS = frozenset({"where", "score", "action", "mode", "label", "decided", "seen", "sha256", "digest", "text"})


def _row(*names: str) -> str:
    sides = [(name, "left" if name in _WORDS else "") for name in names]
    cells = "".join(f'<th class="{side}">{escape(name)}</th>' for name, side in sides)
    return f"<tr>{cells}</tr>"


def _tile(value: str, name: str, more: str) -> str:
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span><small>{escape(more)}</small></div>'


def _at_a_time(manifest: Json) -> str:
    return f"{manifest['settings']['workers']} at a time"


def _note(html: str) -> str:
    return f'<p class="note">{html.strip()}</p>'


# Sections -----------------------------------------------------------------------------------------------------------


def _head(manifest: Json, results: Json) -> str:
    subject, rows = manifest["subject"], results["rows"]
    what = "Policy" if subject["kind"] == "policy" else "Classifier"
    digest = subject["digest"][:12]
    parts = [
        f"<h1>{what} {escape(subject['title'])}</h1>",
        f'<p class="by">revision <code>{escape(digest)}</code> · {escape(manifest["started"])} · Penstock '
        f"{escape(manifest['penstock']['version'])} · {rows['judged']:,} texts ({rows['bad']:,} bad, "
        f"{rows['honest']:,} honest{_units(rows)}) of {len(manifest['data']['sources'])} sources</p>",
    ]
    if told := idle(manifest):
        parts.append(f'<p class="warn">{escape(told[0].upper() + told[1:])}.</p>')
    if rows["failed"]:
        told = ", ".join(f"{escape(name)} {count:,}" for name, count in rows["failures"].items())
        parts.append(
            f'<p class="warn">{rows["failed"]:,} texts were not fully judged ({told}). They are left out of every '
            "ranking, and stand in the decisions as the policy's on_error has them.</p>"
        )
    if count := manifest["data"]["contradictory"]:
        told = f"{count:,} texts stand in the data twice with opposite labels: no detector can be right on both."
        parts.append(f'<p class="note">{told}</p>')
    return "\n".join(parts)


def _units(rows: Json) -> str:
    """How many texts intervals count, where families make it fewer."""
    return f"; {rows['units']:,} families or single texts" if rows["units"] < rows["judged"] else ""


def _tiles(manifest: Json, results: Json) -> str:
    tiles = []
    surface, figures = next(iter(results["surfaces"].items()))
    for (action, *_), _, row in lines(figures):
        if row and row["bad"]["n"]:
            more = f"{surface}: {row['bad']['k']:,} of {row['bad']['n']:,} {_between(row['bad'])}"
            tiles.append(_tile(share(row["bad"]["rate"]), f"of bad texts {DONE[action]}", more))
        if row and row["honest"]["n"]:
            honest = row["honest"]
            more = f"{surface}: {honest['k']:,} of {honest['n']:,}, at most {share(honest['at_most'])}"
            tiles.append(_tile(share(honest["rate"]), f"of honest texts {DONE[action]}", more))
    first = next((each for each in figures["ranking"].values() if each), None)
    if first:
        low, high = first["auroc_95"]
        more = f"{surface}: [{_number(low)}, {_number(high)}]"
        tiles.append(_tile(_number(first["auroc"]), "AUROC", more))
        at = first["recall_at"][-1]
        more = f"{surface}: [{_bare(at['low'])}, {_bare(at['high'])}]"
        tiles.append(_tile(share(at["recall"]), f"caught at {share(at['fpr'])} false alarms", more))
    time = results["latency"]
    more = f"p99 {plots.milliseconds(time['p99'])}, {_at_a_time(manifest)}"
    tiles.append(_tile(plots.milliseconds(time["p50"]), "to judge a text, median", more))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _summary(results: Json) -> str:
    """All figures by surface and action: the table that a card quotes."""
    rows = []
    for surface, figures in results["surfaces"].items():
        for at, (names, ranking, row) in enumerate(lines(figures)):
            cells = [_cell(surface if at == 0 else ""), _cell(", ".join(names), "left"), *_sides(figures, at == 0)]
            cells += _ranking_cells(ranking)
            if row:
                cells += [_bar(row["bad"]["rate"], _between(row["bad"])), *_honest_cells(row["honest"])]
                cells += [_cell(_number(row["f1"])), _cell(_precision(row))]
            else:
                cells += [_cell("–")] * 5
            rows.append("".join(cells))
    recalls = ("recall at 0.1 %", "0.5 %", "1 % FPR")
    head = _row(
        *("where", "score", "bad", "honest", "AUROC", "AUPRC", "best F1", *recalls),
        *("caught", "honest flagged", "at most", "F1", "precision"),
    )
    return f"<h2>Summary</h2>\n{_table([head], rows)}{_note(notes.SUMMARY)}"


def _sides(figures: Json, shown: bool) -> list[str]:
    return [_cell(f"{figures[side]:,}" if shown else "") for side in ("bad", "honest")]


def _ranking_cells(ranking: Json | None) -> list[str]:
    if not ranking:
        return [_cell("–")] * 6
    low, high = ranking["auroc_95"]
    auroc = _number(ranking["auroc"]) + (f" [{_number(low, 2)}, {_number(high, 2)}]" if low is not None else "")
    cells = [_cell(auroc), _cell(_number(ranking["average_precision"])), _cell(_number(ranking["f1_best"]))]
    return cells + [_recall(at) for at in ranking["recall_at"]]


def _recall(at: Json) -> str:
    small = f"[{_bare(at['low'])}, {_bare(at['high'])}]"
    if at["enough"]:
        return _bar(at["recall"], small)
    return _cell(f"{share(at['recall'])} {small}", "few")


def _honest_cells(rate: Json) -> list[str]:
    if not rate["n"]:
        return [_cell("–")] * 2
    return [_cell(f"{share(rate['rate'])} ({rate['k']:,})"), _cell(share(rate["at_most"]))]


def _precision(row: Json) -> str:
    point, least = row["precision_when_rare"], row["precision_when_rare_at_least"]
    if least is None:
        return "–"
    return f"≥ {share(least)}" if point is None else f"{share(point)} (≥ {share(least)})"


def _figure(title: str, svg: str, caption: str, more: str = "") -> str:
    if not svg:
        return ""
    return f"<figure><h3>{title}</h3>{more}{svg}<figcaption>{caption}</figcaption></figure>"


def _curves(results: Json) -> str:
    legend = plots.legend(results)
    roc = _figure(
        "ROC, false alarms logarithmic",
        plots.roc(results),
        notes.ROC,
        legend,
    )
    trade = _figure(
        "Honest texts flagged against bad texts caught",
        plots.tradeoff(results),
        notes.TRADEOFF,
        legend,
    )
    return f'<h2>Operating curves</h2>\n<div class="pair">{roc}{trade}</div>' if roc else ""


def _forests(results: Json) -> str:
    caught = _figure("Bad texts caught, by category", plots.categories(results), notes.CATEGORIES)
    honest = _figure("Honest texts flagged, by source", plots.over_refusal(results), notes.OVER_REFUSAL)
    return (
        f'<h2>By category, and over-refusal</h2>\n<div class="pair">{caught}{honest}</div>' if caught or honest else ""
    )


def _distinct(found: Sequence[Json]) -> list[str]:
    """The actions that differ from the stricter one before them on any line."""
    kept: list[str] = []
    for action in dict.fromkeys(action for row in found for action in row["decisions"]):
        if not kept or any(row["decisions"].get(action) != row["decisions"].get(kept[-1]) for row in found):
            kept.append(action)
    return kept


def _table_of(key: str, title: str, results: Json) -> str:
    found = results["sources" if key == "source" else "languages"]
    if not found:
        return ""
    shown = found if key == "source" else [row for row in found if row["bad"] + row["honest"] >= FEW]
    shown = sorted(shown, key=lambda row: -row["bad"] - row["honest"]) if key == "lang" else shown
    actions = _distinct(found)
    errors = {(row["by"], row["group"], row["surface"]): row["ece"] for row in results["calibration"]}
    rows = []
    for row in shown:
        own, everyone = row["own"], row["against_all"]
        cells = [_cell(row[key] or "not stated"), _cell(row["surface"], "left"), _cell(f"{row['bad']:,}")]
        cells.append(_cell(f"{row['honest']:,}"))
        cells += [_cell(_number(own["auroc"]) if own else "–"), _cell(_number(everyone["auroc"]) if everyone else "–")]
        cells.append(_cell(_number(everyone["average_precision"]) if everyone else "–"))
        cells.append(_cell(_number(everyone["f1_best"]) if everyone else "–"))
        cells += [_recall(at) for at in everyone["recall_at"]] if everyone else [_cell("–")] * 3
        for action in actions:
            done = row["decisions"].get(action)
            cells.append(_bar(done["bad"]["rate"], _between(done["bad"])) if done and done["bad"]["n"] else _cell("–"))
            cells += _honest_cells(done["honest"]) if done else [_cell("–")] * 2
        cells.append(_cell(_number(errors.get((key, row[key], row["surface"])))))
        rows.append("".join(cells))
    names = [title.removeprefix("By "), "where", "bad", "honest", "own honest", "all honest", "AUPRC", "best F1"]
    names += ["0.1 %", "0.5 %", "1 %"] + ["caught", "honest", "at most"] * len(actions)
    over = '<tr><th class="over" colspan="4"></th><th class="over" colspan="2">AUROC against</th>'
    over += '<th class="over" colspan="2"></th><th class="over" colspan="3">recall at this share of false alarms</th>'
    over += "".join(f'<th class="over" colspan="3">{DONE[action]}</th>' for action in actions)
    names.append("ECE")
    over += '<th class="over"></th>'
    few = len(found) - len(shown)
    more = f" {few} with fewer than {FEW} texts stand in results.json." if few else ""
    table = _table([over + "</tr>", _row(*names)], rows, "scroll wide")
    return f"<h2>{title}</h2>\n{table}{_note(notes.GROUPS + more)}"


def _rules(manifest: Json, results: Json) -> str:
    known = {rule["rule"]: rule for rule in manifest["subject"].get("rules", ())}
    if not known:
        return ""
    rows = []
    for row in results["rules"]:
        rule = known.pop(row["rule"])
        cells = [_cell(rule["rule"], "mono"), _cell(rule["action"], "left"), _cell(rule["mode"], "left")]
        cells.append(_bar(row["bad"]["rate"], f"({row['bad']['k']:,})"))
        cells += _honest_cells(row["honest"])
        rows.append("".join(cells))
    idle = f'<p class="note">Never fired here: {escape(", ".join(known))}.</p>' if known else ""
    head = _row("rule", "action", "mode", "of bad texts", "of honest texts", "at most")
    return f"<h2>Rules</h2>\n{_table([head], rows)}{idle}"


def _calibration(results: Json) -> str:
    if not results["findings"] and not results["calibration"]:
        return ""
    rows = []
    for row in results["findings"]:
        ranking = row["ranking"]
        cells = [_cell(row["finding"], "mono"), _cell(row["surface"], "left"), _cell(f"{row['bad']:,}")]
        cells += [_cell(f"{row['honest']:,}"), *_ranking_cells(ranking)]
        cells += [_cell(_number(row["ece"])), _cell(_number(row["ece_as_is"]))]
        rows.append("".join(cells))
    head = _row(
        *("finding", "where", "bad", "honest", "AUROC", "AUPRC", "best F1", "recall at 0.1 %", "0.5 %", "1 % FPR"),
        *("ECE", "ECE, rows as they are"),
    )
    table = _table([head], rows) if rows else ""
    smalls = [plots.reliability(row, row["finding"], row["surface"]) for row in results["findings"]]
    sources = [row for row in results["calibration"] if row["by"] == "source"]
    smalls += [plots.reliability(row, row["group"], row["finding"]) for row in sources]
    diagrams = f'<figure><div class="smalls">{"".join(smalls)}</div></figure>'
    return f"<h2>Findings and calibration</h2>\n{table}{_note(notes.CALIBRATION)}{diagrams}"


def _latency(manifest: Json, results: Json) -> str:
    time, late = results["latency"], manifest.get("late")
    machine = manifest["machine"]
    note = (
        f"Mean {plots.milliseconds(time['mean'])}, longest {plots.milliseconds(time['max'])}. Time in the classifiers "
        f"without waiting for a worker; {_at_a_time(manifest)} on {escape(machine['cpu'])}, {machine['cores']} cores."
    )
    if late:
        note += f" {late:,} texts took longer than the policy's deadline: in live traffic they would be failures."
    plot = f"{plots.latency(results)}<figcaption>{note}</figcaption>"
    return f'<h2>Latency</h2>\n<figure class="single"><h3>Time to judge a text</h3>{plot}</figure>'


def _worst(results: Json) -> str:
    if not results["worst"]:
        return ""
    texts = any(row["text"] is not None for row in results["worst"])
    tables = []
    for kind, title in (("false alarm", "Honest texts that score highest"), ("miss", "Bad texts that score lowest")):
        rows = []
        for row in (each for each in results["worst"] if each["kind"] == kind):
            seen = ", ".join(f"{name} {_number(score, 2)}" for name, score in row["findings"].items()) or "nothing"
            label = row["label"] + (f": {row['category']}" if row["category"] else "")
            cells = [
                _cell(row["id"], "left mono"),
                _cell(row["surface"], "left"),
                _cell(plots.short(label, 60), "wrap"),
            ]
            cells += [_cell(row["action"] or "–", "left"), _cell(seen, "wrap")]
            rows.append("".join(cells) + (_cell(row["text"] or "", "text") if texts else ""))
        head = _row("id", "where", "label", "decided", "seen", *(["text"] if texts else []))
        if rows:
            tables.append(f"<h3>{title}</h3>\n{_table([head], rows)}")
    note = "" if texts else '<p class="note">Texts are kept only with --keep-texts.</p>'
    return f"<h2>To be read by a person</h2>\n{note}{''.join(tables)}"


def _run(manifest: Json) -> str:
    data, machine = manifest["data"], manifest["machine"]
    files = [
        _cell(file["name"], "mono") + _cell(f"{file['rows']:,}") + _cell(file["sha256"], "left mono")
        for file in data["files"]
    ]
    left = ", ".join(f"{escape(reason)}: {count:,}" for reason, count in data["left_out"].items()) or "none"
    digests = [
        _cell(name, "mono") + _cell(digest, "left mono") for name, digest in manifest["subject"]["classifiers"].items()
    ]
    settings = ", ".join(f"{escape(str(name))}: {escape(str(value))}" for name, value in manifest["settings"].items())
    commit = manifest["penstock"]["commit"]
    code = f"{manifest['penstock']['version']}" + (f", commit {commit[:12]}" if commit else "")
    code += " with changes" if manifest["penstock"]["changed"] else ""
    labels = data["labels"]
    told = (
        f"{escape(manifest['subject']['kind'])} <code>{escape(manifest['subject']['digest'])}</code>. Penstock "
        f"{escape(code)}. {manifest['seconds']:,.0f} s on {escape(machine['cpu'])}, {machine['cores']} cores, Python "
        f"{escape(machine['python'])}. Settings: {settings}. Rows left out: {left}. Bad labels: "
        f"{escape(', '.join(labels['bad']) or 'none')}; honest labels: "
        f"{escape(', '.join(labels['honest']) or 'none')}. {data['repeated']:,} rows repeat the text of an earlier one."
    )
    files_table = _table([_row("file", "rows", "sha256")], files)
    return (
        f"<h2>What was run</h2>\n{_note(told)}{files_table}"
        f"<h3>Classifiers</h3>{_table([_row('name', 'digest')], digests)}"
    )

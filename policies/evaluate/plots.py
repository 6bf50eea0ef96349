"""Figures as inline SVG: no library, no script, colours from the page's own style so that light, dark and paper fit.

Every plot takes parts of `figures.measure` and returns one `<svg>`; what is not there is not drawn, and a plot with
nothing to draw is an empty string.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

Json = Mapping[str, Any]
WIDTH, HEIGHT = 620, 380
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 46
COLOURS = {"user": 1, "tool_result": 2, "assistant": 3}
MAX_FOREST = 48
FEW_ROWS = 10
"""Rows below which a bin's share is mostly chance."""
Scale = Callable[[float], float]


def share(value: float | None, digits: int = 1) -> str:
    """A rate for people; as many digits as small ones need."""
    if value is None:
        return "–"
    percent = 100 * value
    if 0 < percent < 1:
        digits = 2 if percent >= 0.01 else 3
    return f"{percent:.{digits}f} %"


def _linear(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (min(max(value, low), high) - low) / (high - low) * (end - start)


def _log(low: float, high: float, start: float, end: float) -> Scale:
    line = _linear(math.log10(low), math.log10(high), start, end)
    return lambda value: line(math.log10(min(max(value, low), high)))


def _svg(body: Sequence[str], label: str, width: int = WIDTH, height: int = HEIGHT, css: str = "plot") -> str:
    inside = "\n".join(part for part in body if part)
    return (
        f'<svg class="{css}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">\n'
        f"<title>{escape(label)}</title>\n{inside}\n</svg>"
    )


def _text(x: float, y: float, text: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def _path(points: Sequence[tuple[float, float]], css: str, title: str = "") -> str:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="{path}" class="{css}"><title>{escape(title)}</title></path>'


def _stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Corners: what lies between two thresholds cannot be had, so a curve goes across first and up then."""
    found = [points[0]]
    for x, y in points[1:]:
        found += [(x, found[-1][1]), (x, y)]
    return found


def _frame(x: Scale, y: Scale, ticks: Mapping[float, str], x_title: str, y_title: str) -> list[str]:
    """Axes with shares on the vertical one."""
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    body = []
    for at in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        body += [
            _line(left, y(at), right, y(at), "grid"),
            _text(left - 8, y(at) + 4, f"{100 * at:.0f} %", "tick", "end"),
        ]
    for value, name in ticks.items():
        body += [
            _line(x(value), top, x(value), bottom, "grid"),
            _text(x(value), bottom + 17, name, "tick", "middle"),
        ]
    return [
        *body,
        _line(left, bottom, right, bottom, "axis"),
        _text((left + right) / 2, HEIGHT - 8, x_title, "title", "middle"),
        f'<text transform="translate(13 {(top + bottom) / 2:.0f}) rotate(-90)" class="title" text-anchor="middle">'
        f"{escape(y_title)}</text>",
    ]


def colour(surface: str) -> int:
    """The number of a surface's colour in the style sheet."""
    return COLOURS.get(surface, 4)


def _point(x: Scale, y: Scale, bad: Json, honest: Json, action: str, surface: str) -> str:
    """An operating point with the intervals of both its rates."""
    px, py, c = x(honest["rate"]), y(bad["rate"]), colour(surface)
    title = (
        f"{surface}, {action}: {share(bad['rate'])} of bad texts [{share(bad['low'])}, {share(bad['high'])}], "
        f"{share(honest['rate'])} of honest ones (at most {share(honest['at_most'])})"
    )
    side = "end" if px > WIDTH - 110 else "start"
    return "".join(
        (
            _line(x(honest["low"]), py, x(honest["high"]), py, f"whisker c{c}"),
            _line(px, y(bad["low"]), px, y(bad["high"]), f"whisker c{c}"),
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5.5" class="dot c{c}"><title>{escape(title)}</title></circle>',
            _text(px + (-9 if side == "end" else 9), py - 8, action, "mark", side),
        )
    )


def _points(results: Json, x: Scale, y: Scale) -> list[str]:
    return [
        _point(x, y, row["bad"], row["honest"], action, surface)
        for surface, figures in results["surfaces"].items()
        for action, row in figures["decisions"].items()
        if row["bad"]["n"] and row["honest"]["n"] and action in (results["curves"].get(surface) or {})
    ]


def roc(results: Json) -> str:
    """ROC with a logarithmic axis of false alarms; operating points where a policy decides."""
    if not any(results["curves"].values()):
        return ""
    most = max(figures["honest"] for figures in results["surfaces"].values())
    low = 10.0 ** math.floor(math.log10(0.5 / max(most, 50)))
    x = _log(low, 1.0, LEFT, WIDTH - RIGHT)
    y = _linear(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    decades = range(round(math.log10(low)), 1)
    body = _frame(
        x,
        y,
        {10.0**d: f"{100 * 10.0**d:g} %" for d in decades},
        "honest texts flagged (logarithmic)",
        "bad texts caught",
    )
    body += [_line(x(fpr), TOP, x(fpr), HEIGHT - BOTTOM, "guide") for fpr in (0.001, 0.005, 0.01) if fpr > low]
    body.append(
        _path([(x(v), y(v)) for v in (low * 10 ** (i / 8) for i in range(8 * len(decades) - 7))], "chance", "chance")
    )
    for surface, curves in results["curves"].items():
        for at, (name, curve) in enumerate(curves.items()):
            points = _stairs([(x(f), y(r)) for f, r in zip(curve["fpr"], curve["recall"], strict=True)])
            body.append(_path(points, f"curve c{colour(surface)} k{min(at, 2)}", f"{surface}, {name}"))
    return _svg(body + _points(results, x, y), "ROC with a logarithmic axis of false alarms")


def tradeoff(results: Json) -> str:
    """Honest texts stopped against bad ones caught, with a thin line for each source of bad texts."""
    if not any(results["curves"].values()):
        return ""
    rates = [
        row["honest"]["high"]
        for figures in results["surfaces"].values()
        for row in figures["decisions"].values()
        if row["honest"]["n"] and row["bad"]["n"]
    ]
    most = min(1.0, max([0.05, *(1.15 * value for value in rates if value < 0.4)]))
    x, y = _linear(0.0, most, LEFT, WIDTH - RIGHT), _linear(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if most / step <= 8)
    ticks = {at * step: f"{100 * at * step:.0f} %" for at in range(int(most / step + 1e-9) + 1)}
    body = _frame(x, y, ticks, "honest texts flagged", "bad texts caught")
    for surface, catch in results["catch"].items():
        for source, values in (catch.get("sources") or {}).items():
            pairs = _until(most, catch["fpr"], values)
            body.append(_path([(x(f), y(v)) for f, v in pairs], f"thin c{colour(surface)}", f"{source} ({surface})"))
    for surface, curves in results["curves"].items():
        for at, (name, curve) in enumerate(curves.items()):
            pairs = [(f, r) for f, r in zip(curve["fpr"], curve["recall"], strict=True) if f <= most]
            points = _stairs([(x(f), y(r)) for f, r in pairs])
            points.append((WIDTH - RIGHT, points[-1][1]))
            body.append(_path(points, f"curve c{colour(surface)} k{min(at, 2)}", f"{surface}, {name}"))
    return _svg(body + _points(results, x, y), "Honest texts flagged against bad texts caught")


def _until(most: float, xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    """The points of a line up to `most`, its last piece cut there."""
    pairs = list(zip(xs, ys, strict=True))
    kept = [pair for pair in pairs if pair[0] <= most]
    if len(kept) < len(pairs) and kept:
        (x1, y1), (x2, y2) = kept[-1], pairs[len(kept)]
        kept.append((most, y1 + (y2 - y1) * (most - x1) / (x2 - x1)))
    return kept


def legend(results: Json) -> str:
    """HTML: what the colours and dashes of `roc` and `tradeoff` mean."""
    items = []
    for surface, curves in results["curves"].items():
        for at, name in enumerate(curves):
            line = f'<line x1="1" y1="5" x2="33" y2="5" class="curve c{colour(surface)} k{min(at, 2)}"/>'
            told = escape(surface if name == "score" else f"{surface}, {name}")
            items.append(f'<span><svg class="key" viewBox="0 0 34 10">{line}</svg> {told}</span>')
    return f'<p class="legend">{"".join(items)}</p>' if items else ""


# Forests ------------------------------------------------------------------------------------------------------------

Forest = Sequence[tuple[str, str, Sequence[tuple[str, Json]]]]
"""(name, style, [(what, rate with its interval)]) of each line; the first rate is drawn filled, others hollow."""


def forest(rows: Forest, title: str, axis: str, bound: bool = False) -> str:
    """Rates with their intervals, one line each; with `bound` the whisker reaches to the exact upper bound."""
    if not rows:
        return ""
    names, right, row_height, top = 250, WIDTH - 58, 19, 8
    bottom = top + row_height * len(rows)
    edge = "at_most" if bound else "high"
    most = min(1.0, max(0.02, *(rate[edge] for _, _, rates in rows for _, rate in rates if rate["n"])) * 1.03)
    x = _linear(0.0, most, names, right)
    step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if most / step <= 6)
    body = []
    for at in range(int(most / step + 1e-9) + 1):
        where = x(at * step)
        body += [
            _line(where, top, where, bottom, "grid"),
            _text(where, bottom + 15, f"{100 * at * step:g} %", "tick", "middle"),
        ]
    for number, (name, css, rates) in enumerate(rows):
        middle = top + row_height * (number + 0.5)
        body.append(_text(names - 8, middle + 4, short(name, 40), f"row {css}", "end"))
        for at, (what, rate) in reversed(list(enumerate(rates))):
            where = middle + (0 if len(rates) == 1 else (-3.5 if at == 0 else 3.5))
            told = f"{name}: {what} {share(rate['rate'])} [{share(rate['low'])}, {share(rate[edge])}] of {rate['n']}"
            body += [
                _line(x(rate["low"]), where, x(rate[edge]), where, f"whisker c1 h{min(at, 1)}"),
                f'<circle cx="{x(rate["rate"]):.1f}" cy="{where:.1f}" r="3.6" class="dot c1 h{min(at, 1)}">'
                f"<title>{escape(told)}</title></circle>",
            ]
        body.append(_text(right + 8, middle + 4, f"{rates[0][1]['n']:,}", "tick"))
    body.append(_text((names + right) / 2, bottom + 33, axis, "title", "middle"))
    return _svg(body, title, height=bottom + 42)


def short(text: str, most: int) -> str:
    """At most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def categories(results: Json) -> str:
    """Catch by label and by category: at the policy's own thresholds, else at 1 % false alarms."""
    several = len({row["surface"] for row in results["categories"]}) > 1
    rows = []
    for row in results["categories"]:
        taken = [(action, rate) for action, rate in row["decisions"].items()]
        rates = taken or [(f"at {share(r['fpr'])}", r) for r in row["recall_at"][-1:]]
        rates = [(what, rate) for what, rate in rates[:1] + rates[1:][-1:] if rate["n"]]
        if rates:
            label = row["label"] + (f" · {row['surface']}" if several else "")
            name = row["category"] or f"{label} (all)"
            rows.append((name, "" if row["category"] else "head", rates))
    if len(rows) > MAX_FOREST:  # the largest categories; the rest stands in results.json
        sizes = sorted((rates[0][1]["n"] for _, css, rates in rows if not css), reverse=True)
        heads = sum(css == "head" for _, css, _ in rows)
        edge = sizes[max(0, MAX_FOREST - heads - 1)] if heads < MAX_FOREST else math.inf
        rows = [row for row in rows if row[1] or row[2][0][1]["n"] >= edge][: MAX_FOREST + 10]
    return forest(rows, "Bad texts caught, by category", "bad texts caught")


def over_refusal(results: Json) -> str:
    """Honest texts on which an action was taken, by source."""
    rows = []
    for row in results["sources"]:
        taken = row["decisions"].items()
        rates = [(action, each["honest"]) for action, each in taken if each["honest"]["n"] >= FEW_ROWS]
        if rates:
            several = len(results["surfaces"]) > 1 and row["surface"] != "user"
            name = row["source"] + (f" · {row['surface']}" if several else "")
            rows.append((name, "", rates[:1] + rates[1:][-1:]))
    return forest(rows, "Honest texts stopped or noted, by source", "honest texts flagged", bound=True)


# Calibration and time -----------------------------------------------------------------------------------------------


def reliability(row: Json, name: str, more: str) -> str:
    """One small reliability diagram: points on the diagonal are honest probabilities, hollow ones have few rows."""
    size, left, top = 150, 30, 36
    told = f"{short(more, 18)} · ECE {row['ece']:.3f}"
    x, y = _linear(0, 1, left, left + size), _linear(0, 1, top + size, top)
    body = [_text(left, 12, short(name, 24), "row head"), _text(left, 26, told, "tick")]
    for at in (0.0, 0.5, 1.0):
        body += [
            _line(x(at), y(0), x(at), y(1), "grid"),
            _line(x(0), y(at), x(1), y(at), "grid"),
            _text(x(at), y(0) + 13, f"{at:g}", "tick", "middle"),
            _text(left - 5, y(at) + 4, f"{at:g}", "tick", "end"),
        ]
    body.append(_line(x(0), y(0), x(1), y(1), "chance"))
    bins = row["bins"]
    enough = [b for b in bins if b["rows"] >= FEW_ROWS]
    if enough:
        body.append(_path([(x(b["mean"]), y(b["rate"])) for b in enough], "thin c1 strong"))
    most = max(b["rows"] for b in bins)
    for b in bins:
        told = f"probability {b['mean']:.2f}, bad {share(b['rate'])}, {b['rows']} rows"
        css = "" if b["rows"] >= FEW_ROWS else "few"
        radius = 2.2 + 4 * math.sqrt(b["rows"] / most)
        body.append(
            f'<circle cx="{x(b["mean"]):.1f}" cy="{y(b["rate"]):.1f}" r="{radius:.1f}" class="dot c1 {css}">'
            f"<title>{escape(told)}</title></circle>"
        )
    return _svg(body, f"Reliability of {name}", left + size + 12, top + size + 20, "plot small")


def latency(results: Json) -> str:
    """The share of rows judged within so many milliseconds."""
    found = results["latency"]
    points = [(value, q) for q, value in found["cdf"]]
    low = 10.0 ** math.floor(math.log10(max(min(v for v, _ in points), 1e-3)))
    high = max(10.0 ** math.ceil(math.log10(max(*(v for v, _ in points), low))), low * 10)
    x, y = _log(low, high, LEFT, WIDTH - RIGHT), _linear(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    exponents = range(round(math.log10(low)), round(math.log10(high)) + 1)
    body = _frame(
        x, y, {10.0**e: milliseconds(10.0**e) for e in exponents}, "time to judge a text (logarithmic)", "of texts"
    )
    body.append(_path(_stairs([(x(v), y(q)) for v, q in points]), "curve c1 k0", "latency"))
    for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        body += [
            _line(x(found[name]), y(q), x(found[name]), y(0), "guide"),
            f'<circle cx="{x(found[name]):.1f}" cy="{y(q):.1f}" r="4.5" class="dot c1"/>',
            _text(x(found[name]) - 8, y(q) - 8, f"{name} {milliseconds(found[name])}", "mark", "end"),
        ]
    return _svg(body, "Latency, cumulative")


def milliseconds(value: float) -> str:
    """A time for people, from milliseconds."""
    if value < 1:
        return f"{1000 * value:.3g} µs"
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"

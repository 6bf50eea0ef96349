"""`python -m tests.bench.curves --figures F --taught T --passes P --out FILE.svg`: the figures as a picture.

`F` is written by `tests.bench.figures --json`, `T` by `tests.bench.teach --json`, `P` by `tests.bench.encoder --json`.
Three panels: what share of bad texts is caught at each share of false alarms, and each language thin; how good a
taught head is by the number of its examples, each source thin; what a pass costs by its length, beside its goals.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifiers import statistics as stats
from tests.bench.encoder import GOALS

Point = tuple[float, float]
Json = Mapping[str, Any]
PANEL, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 330, 52, 12, 34, 42
STYLE = """
svg { font: 12px system-ui, sans-serif; background: #fff } text { fill: #33383d } .head { font-weight: 600 }
line { stroke: #e3e5e8 } path { fill: none; stroke-width: 2 } .thin { stroke-width: 1; stroke: #b9bec4 }
.c0 { stroke: #0b6bb8 } .c1 { stroke: #c25a00 } .c2 { stroke: #1b7f5c } .goal { stroke: #b3261e; fill: #b3261e }
text.c0 { fill: #0b6bb8; stroke: none } text.c1 { fill: #c25a00; stroke: none } text.c2 { fill: #1b7f5c; stroke: none }
text.goal { stroke: none }
"""
LEAST = 0.001
"""The smallest share of false alarms that is drawn."""
POINTS = 80


def roc(scores: NDArray[np.float64], bad: NDArray[np.bool_]) -> list[Point]:
    """(share of honest texts flagged, share of bad ones caught), at most POINTS of them, dense where alarms are few."""
    alarms, recall, _ = stats.roc(scores, bad)
    last = stats.corners(alarms, POINTS)
    return [(round(float(x), 5), round(float(y), 5)) for x, y in zip(alarms[last], recall[last], strict=True)]


class Panel:
    """One plot. `across` and `up` bring a value to 0..1 of its axis."""

    def __init__(self, number: int, title: str, across: Callable[[float], float], up: Callable[[float], float]) -> None:
        self._left = number * PANEL + LEFT
        self._width, self._height = PANEL - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        self._across, self._up = across, up
        self.body = [f'<text x="{self._left}" y="18" class="head">{escape(title)}</text>']
        self._names = 0

    def at(self, point: Point) -> Point:
        """Where a point of the plot lies in the picture."""
        x, y = (min(max(share, 0.0), 1.0) for share in (self._across(point[0]), self._up(point[1])))
        return round(self._left + x * self._width, 1), round(TOP + (1 - y) * self._height, 1)

    def axes(self, xs: Mapping[float, str], ys: Mapping[float, str], below: str) -> None:
        low, bottom = min(ys), HEIGHT - BOTTOM
        for value, name in ys.items():
            _, y = self.at((min(xs), value))
            self.body.append(f'<line x1="{self._left}" x2="{self._left + self._width}" y1="{y}" y2="{y}"/>')
            self.body.append(f'<text x="{self._left - 6}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        for value, name in xs.items():
            x, _ = self.at((value, low))
            self.body.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{escape(name)}</text>')
        middle = self._left + self._width / 2
        self.body.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(below)}</text>')

    def curve(self, points: Sequence[Point], css: str, name: str = "") -> None:
        """A line through the points; with a `name` it has a line in the key."""
        path = " L".join(f"{x} {y}" for x, y in map(self.at, points))
        self.body.append(f'<path d="M{path}" class="{css}"/>')
        if name:
            self._names += 1
            x, y = self._left + self._width - 4, HEIGHT - BOTTOM - 8 - 15 * (self._names - 1)
            self.body.append(f'<text x="{x}" y="{y}" text-anchor="end" class="{css}">{escape(name)}</text>')

    def goal(self, point: Point, name: str) -> None:
        x, y = self.at(point)
        self.body.append(f'<circle cx="{x}" cy="{y}" r="4" class="goal"/>')
        self.body.append(f'<text x="{x + 7}" y="{y + 4}" class="goal">{escape(name)}</text>')


def caught(number: int, figures: Json) -> Panel:
    """The curves of `figures`: each part's pooled one, and each language's."""

    def across(share: float) -> float:
        return (math.log10(max(share, LEAST)) - math.log10(LEAST)) / -math.log10(LEAST)

    panel = Panel(number, "bad texts caught, by honest ones flagged", across, lambda share: share)
    panel.axes({0.001: ".1 %", 0.01: "1 %", 0.1: "10 %", 1.0: "100 %"}, _quarters(), "honest texts flagged")
    for name, points in figures["curves"].items():
        if name.startswith("language"):
            panel.curve(points, "thin")
    pooled = [(name, points) for name, points in figures["curves"].items() if not name.startswith("language")]
    for at, (name, points) in enumerate(pooled):
        panel.curve(points, f"c{at % 3}", name)
    panel.goal((0.01, 0.5), "goals: .4 and .5 at 1 %")
    panel.goal((0.01, 0.4), "")
    return panel


def taught(number: int, results: Json) -> Panel:
    """AUROC by the number of examples."""
    counts = sorted(map(int, results))
    low, high = math.log(counts[0]), math.log(counts[-1])
    panel = Panel(
        number,
        "AUROC of a taught head, by its examples",
        lambda count: (math.log(count) - low) / ((high - low) or 1.0),
        lambda area: (area - 0.4) / 0.6,
    )
    panel.axes({count: str(count) for count in counts}, {y / 10: f"{y / 10:.1f}" for y in range(4, 11)}, "examples")
    lines: dict[str, list[Point]] = defaultdict(list)
    for count in counts:
        rows = results[str(count)]
        for row in rows:
            lines[row["source"]].append((count, row["auroc"]))
    whole = {name: points for name, points in lines.items() if len(points) == len(counts)}
    for points in whole.values():
        panel.curve(points, "thin")
    mean = [(count, float(np.mean([points[at][1] for points in whole.values()]))) for at, count in enumerate(counts)]
    panel.curve(mean, "c0", f"mean of {len(whole)} sources")
    panel.goal((50, 0.92), "goal: .92 with 50")
    return panel


def costs(number: int, passes: Sequence[Json]) -> Panel:
    """CPU milliseconds of a pass, one row at a time."""
    points = [(row["tokens"], row["ms"]["onnxruntime"][0]) for row in passes if row["rows"] == 1]
    most = 10 * math.ceil(max(ms for _, ms in points) / 10)
    tokens = max(count for count, _ in points)
    panel = Panel(number, "CPU of a pass, by its tokens", lambda count: count / tokens, lambda ms: ms / most)
    step = most // 5
    panel.axes(
        {count: str(count) for count in (0, *sorted(GOALS))}, {y: f"{y} ms" for y in range(0, most + 1, step)}, "tokens"
    )
    panel.curve(points, "c0", "on this machine")
    for count, ms in GOALS.items():
        panel.goal((count, ms), f"goal: {ms:g} ms" if count < tokens else "")
    return panel


def _quarters() -> dict[float, str]:
    return {y / 4: f"{25 * y} %" for y in range(5)}


def picture(panels: Sequence[Panel]) -> str:
    """The panels side by side."""
    body = "\n".join(line for panel in panels for line in panel.body)
    width = PANEL * len(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}">\n'
        f"<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.curves", description=__doc__)
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--taught", type=Path, required=True)
    parser.add_argument("--passes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    figures, heads, passes = (
        json.loads(path.read_text("utf-8")) for path in (options.figures, options.taught, options.passes)
    )
    options.out.write_text(picture([caught(0, figures), taught(1, heads), costs(2, passes)]), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

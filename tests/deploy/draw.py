"""`python -m tests.deploy.draw`: pictures of the dashboards over a real run, for deploy/README.md.

Grafana does not draw them (it is no Debian package): this page does, from the same panels and queries, out of the same
Prometheus. Needs Debian's prometheus and chromium.
"""

from __future__ import annotations

import asyncio
import html
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.candidates import tool
from tests.deploy import live
from tests.deploy.test_dashboards import GRAFANA, MADE

COLOURS = ("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0", "#508642", "#cca300")
STYLE = """body{margin:0;padding:14px;background:#111217;color:#ccccdc;font:13px sans-serif;width:1252px}
h1{font-size:19px;font-weight:500;margin:2px 0 12px}
main{display:grid;grid-template-columns:repeat(3,1fr);gap:8px}
section{background:#181b1f;border:1px solid #24272e;border-radius:3px;padding:8px}
h2{font-size:13px;font-weight:500;margin:0 0 6px}p{margin:0;font-size:34px;color:#73bf69}
p.red{color:#f2495c}ul{list-style:none;margin:4px 0 0;padding:0;font-size:11px;line-height:15px}
li{display:inline-block;margin-right:9px}
i{display:inline-block;width:10px;height:3px;margin-right:4px;vertical-align:middle}
b{float:right;font-weight:500}div{margin:3px 0 7px}div u{display:block;height:6px;background:#73bf69}"""
WIDTH, HEIGHT = 392, 130
UNITS = {"s": (1000, " ms"), "percentunit": (100, " %"), "reqps": (1, "/s"), "bytes": (2**-20, " MiB")}

Series = list[tuple[str, list[tuple[float, float]]]]


def shown(value: float, unit: str) -> str:
    """A number in its unit, short."""
    if unit == "bool_on_off":
        return "on" if value else "off"
    if unit == "s" and value >= 1:
        return f"{value:,.3g} s"
    factor, sign = UNITS.get(unit, (1, ""))
    return f"{value * factor:,.3g}{sign}"


def _legend(text: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text


def _lines(series: Series, unit: str, begin: float, end: float) -> str:
    top = max((value for _, points in series for _, value in points), default=1) or 1
    out = [f'<svg width="{WIDTH}" height="{HEIGHT}">']
    for share in (0.0, 1.0) if unit == "bool_on_off" else (0.0, 0.5, 1.0):
        height = HEIGHT - 6 - share * (HEIGHT - 22)
        out.append(f'<line x1="46" x2="{WIDTH}" y1="{height}" y2="{height}" stroke="#2c3235"/>')
        out.append(f'<text x="0" y="{height + 4}" fill="#8e8e9e" font-size="10">{shown(share * top, unit)}</text>')
    for place, (_, points) in enumerate(series):
        path = " ".join(
            f"{46 + (at - begin) / (end - begin) * (WIDTH - 46):.1f},{HEIGHT - 6 - value / top * (HEIGHT - 22):.1f}"
            for at, value in points
            if math.isfinite(value)  # else nothing was observed then
        )
        colour = COLOURS[place % len(COLOURS)]
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    legend = "".join(
        f'<li><i style="background:{COLOURS[place % len(COLOURS)]}"></i>{html.escape(name)}</li>'
        for place, (name, _) in enumerate(series)
    )
    return "".join(out) + f"</svg><ul>{legend}</ul>"


def _bars(series: Series, unit: str) -> str:
    now = max((points[-1][0] for _, points in series), default=0.0)
    series = [each for each in series if each[1][-1][0] == now]  # what is no more is not drawn
    top = max((points[-1][1] for _, points in series), default=1) or 1
    ordered = sorted(series, key=lambda each: -each[1][-1][1])
    return "".join(
        f"<div>{html.escape(name)}<b>{shown(points[-1][1], unit)}</b>"
        f'<u style="width:{points[-1][1] / top:.0%}"></u></div>'
        for name, points in ordered
    )


def _number(panel: Any, value: float | None) -> str:
    if value is None:
        return "<p>No data</p>"
    return f"<p class={panel.colour(value)}>{shown(value, panel.unit)}</p>"


async def page(made: live.Scene, board: Any, end: float) -> str:
    """One dashboard as a page."""
    out = [f"<meta charset=utf-8><style>{STYLE}</style><h1>{html.escape(board.title)}</h1><main>"]
    for panel in board.panels:
        series: Series = []
        for query, legend in panel.queries:
            found = await made.history(query)
            series += [(_legend(legend, labels), points) for labels, points in found if points]
        drawn = (
            _lines(series, panel.unit, made.began, end)
            if panel.kind == "lines"
            else _bars(series, panel.unit)
            if panel.kind == "bars"
            else _number(panel, series[0][1][-1][1] if series else None)
        )
        out.append(f"<section><h2>{html.escape(panel.title)}</h2>{drawn}</section>")
    return "".join(out) + "</main>"


async def draw(folder: Path, seconds: float) -> None:
    """Play the run, and write a page for each dashboard into `folder`."""
    async with live.scene(folder) as made:
        await live.play(made, seconds)
        for board in MADE.BOARDS:
            (folder / f"{board.name}.html").write_text(await page(made, board, time.time()), "utf-8")


def main() -> None:
    """Draw all of them beside the dashboards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(draw(folder, float(sys.argv[1]) if len(sys.argv) > 1 else 90))
        for board in MADE.BOARDS:
            picture = GRAFANA / f"{board.name}.png"
            command = [
                tool("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--window-size=1280,1000", f"--screenshot={picture}", str(folder / f"{board.name}.html"),
            ]  # fmt: skip
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            print(picture)


if __name__ == "__main__":
    main()

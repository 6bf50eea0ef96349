"""The picture of the figures shows what was measured, where the axes say it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from tests.bench import curves


def test_a_curve_has_the_corners_of_its_scores() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    bad = np.array([True, True, False, True, False, False])
    points = dict(curves.roc(scores, bad))
    assert points[0.0] == round(2 / 3, 5)  # two of three before the first honest text
    assert points[round(1 / 3, 5)] == 1.0
    assert points[1.0] == 1.0


def test_long_curves_stay_dense_where_alarms_are_few() -> None:
    chance = np.random.default_rng(1)
    points = curves.roc(chance.random(5000), chance.random(5000) < 0.5)
    assert len(points) <= curves.POINTS
    assert sum(share < 0.01 for share, _ in points) > curves.POINTS / 6


def test_the_picture(tmp_path: Path) -> None:
    """A value stands where its axis has it: 1 % of four decades is a third of the way, .7 of .4 to 1 half of it."""
    figures = {"curves": {"harmful prompts": [[0.01, 0.5], [1.0, 1.0]], "language de (xsafety)": [[0.1, 0.25], [1, 1]]}}
    heads = {"10": [{"source": "a", "auroc": 0.7}], "1000": [{"source": "a", "auroc": 1.0}]}
    passes = [{"tokens": n, "rows": rows, "ms": {"onnxruntime": [n / 10, 1]}} for n in (64, 256) for rows in (1, 2)]
    names = []
    for name, what in (("figures", figures), ("taught", heads), ("passes", passes)):
        (tmp_path / name).write_text(json.dumps(what))
        names += [f"--{name}", str(tmp_path / name)]
    assert curves.main([*names, "--out", str(tmp_path / "out.svg")]) == 0
    svg = (tmp_path / "out.svg").read_text()
    paths = [
        [tuple(map(float, point.split())) for point in path.split(" L")]
        for path in re.findall(r'<path d="M([^"]+)" class="c0"', svg)
    ]
    wide = curves.PANEL - curves.LEFT - curves.RIGHT
    high = curves.HEIGHT - curves.TOP - curves.BOTTOM
    at = [(round((x - n * curves.PANEL - curves.LEFT) / wide, 2), round(1 - (y - curves.TOP) / high, 2))
          for n, path in enumerate(paths) for x, y in path]  # fmt: skip
    assert at == [(0.33, 0.5), (1.0, 1.0), (0.0, 0.5), (1.0, 1.0), (0.25, 0.21), (1.0, 0.85)]
    assert 'class="thin"' in svg
    assert "goal: .92 with 50" in svg

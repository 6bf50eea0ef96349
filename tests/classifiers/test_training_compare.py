"""Comparing models: what differs by more than chance is marked, what does not is not."""

from __future__ import annotations

import numpy as np

from classifiers.training import compare
from classifiers.training.corpus import Example
from classifiers.training.judge import Judged
from classifiers.training.labels import INDEX


def drawn(gap: float, seed: int = 0) -> compare.Sides:
    rng = np.random.default_rng(seed)
    return rng.normal(gap, 1.0, 200), rng.normal(0.0, 1.0, 300)


def test_a_better_and_a_worse_model_are_told_from_the_first() -> None:
    first = drawn(2.5)
    same, better, worse = (first[0] + shift for shift in (0.0, 1.0, -1.0))
    figures = compare.against([first, (same, first[1]), (better, first[1]), (worse, first[1])])
    assert [figure.auroc_side for figure in figures] == [0, 0, 1, -1]
    assert [figure.recall_side for figure in figures] == [0, 0, 1, -1]
    assert figures[1] == figures[0]


def test_chance_is_no_difference() -> None:
    first = drawn(2.5)
    noise = np.random.default_rng(1).normal(0.0, 0.3, 200)
    figure = compare.against([first, (first[0] + noise, first[1])])[1]
    assert figure.auroc != compare.against([first])[0].auroc
    assert figure.auroc_side == 0


def test_a_row_marks_what_differs_and_tells_the_spread_of_three() -> None:
    first = drawn(2.5)
    models = [first, *((first[0] + shift, first[1]) for shift in (1.0, 0.0, -1.0))]
    figures = compare.against(models)
    row = compare.line("injection", first, figures)
    assert row.split()[:3] == ["injection", "200", "300"]
    assert row.count("+") == row.count("-") == 2
    assert row.split()[-2] == f"{np.std([figure.auroc for figure in figures[1:]], ddof=1):.4f}"
    assert len(compare.line("injection", first, figures[:3]).split()) == len(row.split()) - 4


def test_attacks_are_held_against_honest_prompts_and_answers_against_their_source() -> None:
    def texts(count: int, said: dict[str, float], source: str, suite: str, role: str = "prompt") -> list[Example]:
        return [Example("some words", said, source, role, suite=suite) for _ in range(count)]

    rows = [
        *texts(20, {"injection": 1.0}, "attacks", "attacks"),
        *texts(30, {"injection": 0.0}, "chat", "honest"),
        *texts(16, {"harmful_answer": 1.0}, "answers", "answers", "response"),
        *texts(17, {"harmful_answer": 0.0}, "answers", "answers", "response"),
        *texts(14, {"jailbreak": 1.0}, "attacks", "attacks"),
    ]
    logits = np.tile(np.arange(len(rows), dtype=float)[:, None], len(INDEX))
    found = compare.sides(Judged(tuple(rows), logits))
    sizes = {name: tuple(map(len, pair)) for name, pair in found.items()}
    assert sizes["attacks / injection"] == (20, 30)
    assert sizes["answers / harmful_answer"] == (16, 17)
    assert sizes["injection and jailbreak"] == (34, 30)
    assert "attacks / jailbreak" not in sizes

"""The page stands alone, is well formed, and shows what came from outside as text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from policies.evaluate import plots
from policies.evaluate.dataset import Dataset, Options
from policies.evaluate.evaluation import Evaluation, evaluate, policy_subject
from policies.evaluate.figures import measure
from policies.evaluate.report import render

from .conftest import SMALL

HOSTILE = "<script>alert('x')</script>\"'&"
VOID = {"meta", "br", "!doctype"}


class Checker(HTMLParser):
    """Every tag closed in order; what it opened, and every attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    return checker


def test_the_page_needs_nothing_else(small: Evaluation) -> None:
    page = render(small.manifest, small.results)
    found = checked(page)
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & found.tags
    assert not {"src", "href", "srcset", "action", "onload", "onclick"} & {name for name, _ in found.attributes}
    assert "url(" not in page
    assert "@import" not in page
    assert "//" not in re.sub(r"</?[a-z]", "", page).replace("\n//", "")
    assert "default-src 'none'" in page


def test_every_plot_of_the_design_is_there(small: Evaluation) -> None:
    page = render(small.manifest, small.results)
    labels = set(re.findall(r'aria-label="([^"]*)"', page))
    assert labels >= {
        "ROC with a logarithmic axis of false alarms",
        "Honest texts flagged against bad texts caught",
        "Honest texts stopped or noted, by source",
        "Bad texts caught, by category",
        "Latency, cumulative",
    }
    for part in ("Summary", "By source", "By language", "Rules", "Latency", "To be read by a person", "What was run"):
        assert f"<h2>{part}</h2>" in page
    assert "50.0 %" in page  # of bad requests blocked, as counted by hand


def test_plots_are_well_formed(small: Evaluation) -> None:
    for svg in (
        plots.roc(small.results),
        plots.tradeoff(small.results),
        plots.categories(small.results),
        plots.over_refusal(small.results),
        plots.latency(small.results),
    ):
        root = ElementTree.fromstring(svg)
        assert root.tag == "svg"
        assert len(root) > 5
        assert "nan" not in svg
        assert "inf" not in svg


def test_what_comes_from_outside_is_text(small: Evaluation) -> None:
    made = [
        replace(each, id=HOSTILE, source=HOSTILE, category=HOSTILE, label=HOSTILE, lang=HOSTILE, text=HOSTILE * 3)
        for each in small.outcomes
    ] * 12
    made = [replace(each, findings={f"g.{HOSTILE}": 0.5, **each.findings}) for each in made]
    manifest = {**small.manifest, "data": {**small.manifest["data"], "sources": {HOSTILE: {}}}}
    manifest["subject"] = {**small.manifest["subject"], "title": HOSTILE, "classifiers": {HOSTILE: HOSTILE}}
    page = render(manifest, measure(made, ("block", "mask", "log")))
    assert "script" not in checked(page).tags
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_texts_are_shown_only_where_they_were_kept(small: Evaluation) -> None:
    secret = "scent for a bath"
    assert secret not in render(small.manifest, small.results)
    dataset = Dataset.open([SMALL / "rows.jsonl"], Options())
    kept = evaluate(dataset, policy_subject(str(SMALL / "policy.yaml")), keep_texts=True)
    assert secret in render(kept.manifest, kept.results)


SHARES = [(None, "–"), (0.0, "0.0 %"), (1.0, "100.0 %"), (0.123, "12.3 %"), (0.00123, "0.12 %"), (0.00004, "0.004 %")]


@pytest.mark.parametrize(("value", "told"), SHARES)
def test_shares_have_the_digits_that_they_need(value: float | None, told: str) -> None:
    assert plots.share(value) == told


def test_the_run_is_written_whole(small: Evaluation, tmp_path: Path) -> None:
    small.write(tmp_path / "run")
    assert {item.name for item in (tmp_path / "run").iterdir()} == {
        "manifest.json",
        "scores.jsonl.gz",
        "results.json",
        "report.html",
    }
    assert [item.name for item in tmp_path.iterdir()] == ["run"]

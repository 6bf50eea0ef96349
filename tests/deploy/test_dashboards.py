"""The dashboards: what is committed is what the code makes, and every query of every panel shows something of a real
run, in a real Prometheus."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from proxy.audit import Reader
from proxy.workers.figures import Page, Past
from tests.bench.candidates import BenchError
from tests.deploy import live

FIRING = {
    "PenstockFailOpen": True, "PenstockGuardSilent": True, "PenstockReviewsUnanswered": True, "PenstockPartDown": True,
    "PenstockCountsAlone": True, "PenstockEncoderFallsBack": True, "PenstockDown": False, "PenstockContentLag": False,
}  # fmt: skip
"""What the run makes fire, and what not."""
GRAFANA = live.ROOT / "deploy" / "grafana"


def dashboards() -> ModuleType:
    """The module that makes them: deploy/ is no package."""
    spec = importlib.util.spec_from_file_location("penstock_dashboards", GRAFANA / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


MADE: Any = dashboards()


@pytest.mark.parametrize("board", MADE.BOARDS, ids=lambda board: board.name)
def test_what_is_committed_is_what_the_code_makes(board: Any) -> None:
    committed = (GRAFANA / "dashboards" / f"{board.name}.json").read_text()
    assert committed == MADE.written(board), "run: python deploy/grafana/dashboards.py"


def test_no_other_dashboard_is_committed() -> None:
    assert {path.stem for path in (GRAFANA / "dashboards").iterdir()} == {board.name for board in MADE.BOARDS}


@pytest.mark.parametrize("board", MADE.BOARDS, ids=lambda board: board.name)
def test_grafana_can_read_it(board: Any) -> None:
    tree = json.loads(MADE.written(board))
    assert tree["uid"] == f"penstock-{board.name}"
    assert [panel["title"] for panel in tree["panels"]] == [panel.title for panel in board.panels]
    places = [tuple(panel["gridPos"].values()) for panel in tree["panels"]]
    assert len(set(places)) == len(places)
    for panel in tree["panels"]:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_every_series_that_is_asked_for_exists() -> None:
    """In rules and dashboards, whatever a run shows."""
    page = Page(Past(), (), (), 2).page()[1].decode()
    families = dict(re.findall(r"^# TYPE (\S+) (\S+)", page, re.MULTILINE))
    rules = "".join((live.PROMETHEUS / name).read_text() for name in ("recording.yaml", "alerts.yaml"))
    recorded = set(re.findall(r"record: (\S+)", rules))
    asked = rules + "".join(query for board in MADE.BOARDS for panel in board.panels for query, _ in panel.queries)
    for name in set(re.findall(r"\bpenstock[_:][a-z0-9_:]+", asked)) - recorded:
        plain = re.sub(r"_(bucket|count|sum)$", "", name)
        assert name in families or families.get(plain) == "histogram", f"{name} is no series of ours"


async def test_every_panel_shows_a_real_run(tmp_path: Path) -> None:
    try:
        async with live.scene(tmp_path) as made:
            await live.play(made, 6)
            for board in MADE.BOARDS:
                for panel in board.panels:
                    for query, _ in panel.queries:
                        await _shows(made, f"{board.title}: {panel.title}: {query}", query)
            await _exemplars(made)
            await _fire(made)
    except BenchError as error:
        pytest.skip(str(error))


async def _fire(made: live.Scene) -> None:
    """All that must within a while, and nothing that must not."""
    for _ in range(80):
        said = "".join(await made.numbers('count by (alertname) (ALERTS{alertstate="firing"})'))
        if all(name in said for name, fires in FIRING.items() if fires):
            break
        await asyncio.sleep(0.25)
    for name, fires in FIRING.items():
        assert (name in said) is fires, (name, said)


async def _shows(made: live.Scene, place: str, query: str) -> None:
    """Something, at some moment within a few seconds: a rate needs two scrapes, a busy machine more time."""
    for _ in range(40):
        if await made.numbers(query):
            return
        await asyncio.sleep(0.25)
    pytest.fail(f"{place} shows nothing")


async def _exemplars(made: live.Scene) -> None:
    """From a point of a graph to the row of the audit."""
    asked = {"query": "penstock_decisions_total", "start": made.began, "end": made.began + 3600}
    found = [each for series in await made.ask("query_exemplars", **asked) for each in series["exemplars"]]
    assert found
    await made.running.audit.probe()
    with Reader(made.settings.audit_path) as log:
        rows = [log.exchange(each["labels"]["decision_id"]) for each in found]
    assert all(row is not None for row in rows)

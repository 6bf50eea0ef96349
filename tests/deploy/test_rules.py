"""The rules of Prometheus: well formed, each alert proved by promtool to fire and to be silent, with its runbook."""

from __future__ import annotations

import re
import subprocess

import pytest
from ruamel.yaml import YAML

from tests.bench.candidates import BenchError, tool
from tests.deploy.live import PROMETHEUS, ROOT


def read(name: str) -> list[dict[str, str]]:
    """The rules of a file."""
    tree = YAML(typ="safe", pure=True).load((PROMETHEUS / name).read_text())
    return [rule for group in tree["groups"] for rule in group["rules"]]


ALERTS = [rule["alert"] for rule in read("alerts.yaml")]


def promtool(*arguments: str) -> str:
    """What promtool says; skips where there is none."""
    try:
        # It comes with the server, under a name of its own.
        program = tool("prometheus").replace("prometheus", "promtool")
    except BenchError as error:
        pytest.skip(str(error))
    done = subprocess.run([program, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_well_formed() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", "alerts.yaml", "recording.yaml")
    promtool("check", "config", "prometheus.yaml")


@pytest.mark.parametrize("name", ["alerts_test.yaml", "alerts_day_test.yaml"])
def test_each_alert_fires_when_it_must_and_only_then(name: str) -> None:
    promtool("test", "rules", name)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_tested_and_has_a_runbook(alert: str) -> None:
    tests = "".join((PROMETHEUS / name).read_text() for name in ("alerts_test.yaml", "alerts_day_test.yaml"))
    assert re.search(rf"\b{alert}\b", tests)
    runbook = (ROOT / "deploy" / "README.md").read_text()
    assert f"### {alert}\n" in runbook
    (rule,) = (rule for rule in read("alerts.yaml") if rule["alert"] == alert)
    assert rule["annotations"]["runbook"] == f"deploy/README.md#{alert.lower()}"  # type: ignore[index]
    assert rule["labels"]["severity"] in {"page", "ticket"}  # type: ignore[index]

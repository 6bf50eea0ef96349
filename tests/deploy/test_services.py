"""compose.yaml by its schema, and the unit of systemd by systemd itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from proxy.config import Settings
from tests.deploy.tools import DEPLOY, python

UNIT = (DEPLOY / "systemd" / "penstock.service").read_text()
COMPOSE: dict[str, Any] = YAML(typ="safe", pure=True).load((DEPLOY / "compose.yaml").read_text())


def test_compose_is_as_its_schema_says(tmp_path: Path) -> None:
    schema = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = python(*schema, str(DEPLOY / "compose.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((DEPLOY / "compose.yaml").read_text().replace("    depends_on:", "    depend_on:"))
    assert python(*schema, str(wrong)).returncode == 1


def test_what_compose_mounts_and_builds_is_there() -> None:
    stages = set(re.findall(r"^FROM .* AS (\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE))
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        if "build" in service:
            assert service["build"]["target"] in stages
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / source).is_dir(), volume
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "what is to be tried is not for the whole network"


def test_compose_sets_settings_that_exist() -> None:
    environment = COMPOSE["services"]["penstock"]["environment"]
    assert {name.removeprefix("PENSTOCK_").lower() for name in environment} <= Settings.model_fields.keys()
    seconds = int(COMPOSE["services"]["penstock"]["stop_grace_period"].removesuffix("s"))
    assert seconds > Settings.model_fields["drain_timeout"].default


def test_grafana_is_given_our_dashboards_and_the_prometheus() -> None:
    grafana = COMPOSE["services"]["grafana"]
    yaml = YAML(typ="safe", pure=True)
    provisioning = DEPLOY / "grafana" / "provisioning"
    (provider,) = yaml.load((provisioning / "dashboards" / "penstock.yaml").read_text())["providers"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    (source,) = yaml.load((provisioning / "datasources" / "penstock.yaml").read_text())["datasources"]
    assert source["url"].partition("//")[2].partition(":")[0] in COMPOSE["services"]
    assert "--enable-feature=exemplar-storage" in COMPOSE["services"]["prometheus"]["command"]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a Python that is there in the place of ours."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed")
    file = tmp_path / "penstock.service"
    file.write_text(UNIT.replace("/opt/penstock/bin/python3", str(Path(sys.executable).resolve())))
    return file


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def test_systemd_takes_the_unit(unit: Path) -> None:
    done = analyze("verify", str(unit))
    assert done.returncode == 0, done.stderr
    assert "penstock.service" not in done.stderr, done.stderr
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHome=perhaps"))
    assert "protect home" in analyze("verify", str(unit)).stderr


def test_the_unit_is_exposed_to_little(unit: Path) -> None:
    """1.5 of 10, in systemd's own measure; a unit without hardening has 9.6."""
    done = analyze("security", "--offline=true", "--threshold=15", str(unit))
    if "Unknown" in done.stderr or "unrecognized" in done.stderr:
        pytest.skip("this systemd cannot measure a unit that is not loaded")
    assert done.returncode == 0, done.stdout[-3000:]


def test_what_is_not_ready_is_not_started_again() -> None:
    """As in the chart: a part that is away at the start comes back without that."""
    (waits,) = re.findall(r"^ExecStartPost=(.*)$", UNIT, re.MULTILINE)
    assert waits.startswith("-/opt/penstock/bin/python3 -m proxy.health --wait")


def test_the_unit_waits_long_enough() -> None:
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert int(seconds) > Settings.model_fields["drain_timeout"].default


DENIED = """
import ctypes, runpy, sys
assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0  # PR_SET_MDWE
sys.argv[0] = "penstock"
runpy.run_module("proxy", run_name="__main__")
"""


def test_it_works_where_no_memory_is_both_written_and_run() -> None:
    """MemoryDenyWriteExecute: patterns and the learned model work under it."""
    done = subprocess.run(
        [sys.executable, "-c", DENIED, "check", "baseline", "--live"], capture_output=True, text=True, check=False,
        cwd=DEPLOY.parent,
    )  # fmt: skip
    if "AssertionError" in done.stderr:
        pytest.skip("this kernel cannot deny it to a process (Linux 6.3 or later)")
    assert done.returncode == 0, done.stdout + done.stderr

"""`penstock doctor`: each part of the world broken in turn, and what it says of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import json
import os
import resource
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from classifiers import encoder
from proxy import doctor_cli
from proxy.cli import app
from proxy.config import load
from proxy.doctor import checks, disk
from proxy.doctor.base import Finding, Place, State
from proxy.serve import OPTIONS
from tests.bench.candidates import free_port
from tests.encoder_service import EncoderService
from tests.proxy.conftest import DEFAULTS, RULES, Make
from tests.proxy.keyring import give
from tests.proxy.test_heartbeat import CASES
from tests.upstream import Reply, Upstream, replies

RUN = CliRunner()


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """Settings that are well."""
    (tmp_path / "policy.yaml").write_text(RULES.format(**DEFAULTS) + CASES)
    return {"policy": str(tmp_path / "policy.yaml"), "data_dir": tmp_path / "data", "port": 0, "admin_port": 0}


def looked(given: dict[str, Any], *only: str) -> list[Finding]:
    place = Place(load(None, **given), (time.time(), time.monotonic()))
    return list(doctor_cli.look(place, only))


def worst(found: list[Finding]) -> Finding:
    severity = [State.WELL, State.SKIPPED, State.WARNING, State.WRONG]
    return max(found, key=lambda finding: severity.index(finding.state))


def test_all_is_well(given: dict[str, Any]) -> None:
    found = looked({**given, "max_in_flight": 200}, *(set(checks.CHECKS) - {"upstream"}))  # on a small machine, too
    unwell = [each for each in found if each.state is not State.WELL and "lies on" not in each.detail]
    assert [each for each in unwell if "sync" not in each.detail and "free" not in each.detail] == []
    assert {each.check for each in found} == set(checks.CHECKS) - {"upstream"}


def test_it_leaves_nothing_behind(given: dict[str, Any], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    looked(given, "audit", "policy", "ports")
    assert sorted(tmp_path.iterdir()) == before


# The command


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    done = RUN.invoke(
        app, ["doctor", *arguments], env={"PENSTOCK_PORT": "0", "PENSTOCK_ADMIN_PORT": "0", **environment}
    )
    return done.exit_code, done.output


def test_what_is_wrong_has_a_mend_and_an_exit_code() -> None:
    code, said = run("--only", "upstream", "--only", "ports")
    assert code == 1
    assert "wrong    upstream  no upstream is set" in said
    assert "-> add --upstream" in said
    assert said.splitlines()[-1] == "doctor: 2 well, 1 wrong"


def test_json_is_for_programs() -> None:
    code, said = run("--only", "upstream", "--output", "json")
    told = json.loads(said)
    assert (code, told["ok"]) == (1, False)
    (finding,) = told["findings"]
    assert finding["check"] == "upstream"
    assert finding["state"] == "wrong"
    assert "--upstream" in finding["mend"]
    assert json.loads(run("--only", "files", "--output", "json")[1])["ok"] is True


def test_wrong_usage() -> None:
    code, said = run("--only", "nothing")
    assert code == 2
    assert "packages" in said


def test_it_takes_the_options_that_serve_takes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, said = run(
            "--port", port, "--host", "127.0.0.1", "--workers", "3", "--only", "ports", "--only", "workers"
        )
    assert code == 1
    assert f"127.0.0.1:{port} is taken" in said
    assert "3 workers" in said
    asked = inspect.signature(doctor_cli.doctor).parameters
    assert {name.replace("-", "_") for name, _, _ in OPTIONS} - set(asked) == {"log_level"}


def test_settings_that_cannot_be_read() -> None:
    assert run(PENSTOCK_SEND_TIMEOUT="soon")[0] == 1
    for injected in ({"PENSTOCK_SERVICE_HOST": "10.0.0.1"}, {"PENSTOCK_PORT": "tcp://10.0.0.1:8700"}):
        code, said = run(**injected)
        assert code == 1
        assert "enableServiceLinks: false" in said


def test_a_check_that_fails_is_a_finding(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(place: Place) -> Iterator[Finding]:
        raise KeyError("secret text")

    monkeypatch.setitem(checks.CHECKS, "clock", (broken,))
    (found,) = looked(given, "clock")
    assert found.state is State.WRONG
    assert "KeyError" in found.detail
    assert "secret text" not in found.detail


# Packages, policy, models


def test_a_stranger_of_the_same_name(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "packages_distributions", lambda: {"proxy": ["penstock", "proxy.py"]})
    (found,) = looked(given, "packages")
    assert found.state is State.WRONG
    assert "proxy.py" in found.detail


def test_a_policy_with_an_error(given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(RULES.format(**DEFAULTS) + "rool: 1\n")
    found = worst(looked(given, "policy"))
    assert found.state is State.WRONG
    assert "rool" in found.detail


def test_a_case_that_fails(given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(RULES.format(**DEFAULTS) + CASES.replace("See the MARK.", "See nothing."))
    found = worst(looked(given, "policy"))
    assert found.state is State.WRONG
    assert "the mark is stopped" in found.detail


def test_a_classifier_that_the_heartbeat_cannot_probe(given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(RULES.format(**DEFAULTS))
    found = worst(looked(given, "policy"))
    assert found.state is State.WARNING
    assert "canary, veil" in found.detail


def test_an_altered_model(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "models" / "minilm-heads"
    there.mkdir(parents=True)
    for file in (encoder.MODELS / "minilm-heads").iterdir():
        (there / file.name).write_bytes(file.read_bytes())
    (there / "tokenizer.json").write_bytes(b"{}")
    monkeypatch.setattr(encoder, "MODELS", tmp_path / "models")
    found = worst(looked(given, "models"))
    assert found.state is State.WRONG
    assert "tokenizer.json was altered" in found.detail


# The upstream

MODELS = {"object": "list", "data": [{"id": "a"}, {"id": "b"}]}
ANSWERS: dict[str, tuple[Reply, dict[str, Any], State, str]] = {
    "well": (replies.json(MODELS), {}, State.WELL, "names 2 models"),
    "asks for a key": (replies.json({"error": {}}, status=401), {}, State.WELL, "callers bring their own"),
    "refuses our key": (replies.json({"error": {}}, status=401), {"upstream_key": "sk-x"}, State.WRONG, "our key"),
    "no list": (replies.json({"error": {}}, status=404), {}, State.WARNING, "404"),
    "failing": (replies.json({"error": {}}, status=503), {}, State.WRONG, "503"),
    "a web page": (replies.content(b"<html>", content_type="text/html"), {}, State.WRONG, "no list of models"),
    "a redirect": (replies.redirect("http://127.0.0.1:1/"), {}, State.WRONG, "redirects"),
    "another protocol": ([b"SSH-2.0-OpenSSH\r\n"], {}, State.WRONG, "upstream"),
}


@pytest.mark.parametrize(("reply", "more", "state", "words"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_what_the_upstream_says(
    given: dict[str, Any], reply: Reply, more: dict[str, Any], state: State, words: str
) -> None:
    async with Upstream() as upstream:
        upstream.reply = reply
        (found,) = await asyncio.to_thread(looked, {**given, **more, "upstream": upstream.url}, "upstream")
        assert found.state is state, found
        assert words in found.detail
        assert bool(found.mend) is (state is not State.WELL)
        assert "sk-x" not in f"{found}"
        assert [request.path for request in upstream.requests] == ["/v1/models"]


def test_nobody_is_there(given: dict[str, Any]) -> None:
    (found,) = looked({**given, "upstream": f"http://127.0.0.1:{free_port()}/v1"}, "upstream")
    assert found.state is State.WRONG
    assert "refused" in found.detail


# The encoder's server

ENCODERS: dict[str, tuple[Reply | None, str, State, str]] = {
    "well": (None, "none", State.WELL, "scores as the weights here do"),
    "another key": (replies.error(401, "no"), "none", State.WRONG, "refused: HTTP 401"),
    "another model": (replies.error(404, "no"), "none", State.WRONG, "unfit: HTTP 404"),
    "it can do without": (replies.error(500, "no"), "embedded", State.WARNING, "failing: HTTP 500"),
}


@pytest.mark.parametrize(("reply", "fallback", "state", "words"), ENCODERS.values(), ids=ENCODERS.keys())
async def test_what_the_encoder_s_server_says(
    given: dict[str, Any], reply: Reply | None, fallback: str, state: State, words: str
) -> None:
    service = EncoderService()
    service.reply = reply
    async with Upstream(service) as upstream:
        more = {"encoder": upstream.url, "encoder_fallback": fallback, "encoder_timeout": 30.0}
        (found,) = await asyncio.to_thread(looked, {**given, **more}, "encoder")
        assert found.state is state, found
        assert words in found.detail
        assert bool(found.mend) is (state is not State.WELL)


def test_an_encoder_in_the_open(given: dict[str, Any]) -> None:
    warning, wrong = looked({**given, "encoder": "http://encoder.invalid", "encoder_timeout": 5.0}, "encoder")
    assert (warning.state, "in the clear" in warning.detail) == (State.WARNING, True)
    assert (wrong.state, "away" in wrong.detail) == (State.WRONG, True)
    (only,) = looked({**given, "encoder": "http://encoder.models.svc", "encoder_timeout": 5.0}, "encoder")
    assert only.state is State.WRONG


# The audit


def test_a_folder_where_nobody_can_write(given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", Path("/proc/none")):
        found = worst(looked({**given, "data_dir": place}, "audit"))
        assert found.state is State.WRONG
        assert "--data-dir" in found.mend


async def test_a_log_that_was_edited(stand: Make, given: dict[str, Any]) -> None:
    async with stand() as s:
        await s.chat("Hello.")
        await s.chat("Hello again.")
    well = await asyncio.to_thread(looked, {**given, "data_dir": s.data}, "audit")
    assert any("is whole" in each.detail for each in well)
    with contextlib.closing(sqlite3.connect(s.data / "audit.db")) as db, db:
        db.execute("UPDATE records SET body = replace(body, 'chat', 'chit') WHERE seq = 2")
    found = worst(await asyncio.to_thread(looked, {**given, "data_dir": s.data}, "audit"))
    assert found.state is State.WRONG
    assert "broken at row 2" in found.detail


def test_a_slow_disk(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def slow(file: int) -> None:
        time.sleep(2 * disk.SLOW)
        real(file)

    monkeypatch.setattr("proxy.doctor.disk.os.fsync", slow)
    found = worst(looked(given, "audit"))
    assert found.state in {State.WARNING, State.WRONG}
    assert any("sync" in each.detail and each.state is not State.WELL for each in looked(given, "audit"))


@pytest.mark.parametrize(
    ("code", "mend"), [(errno.ENOSPC, "free space"), (errno.EROFS, "mount it writable"), (errno.EACCES, "chown USER")]
)
def test_a_disk_that_takes_nothing(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, code: int, mend: str
) -> None:
    def failing(*args: object, **more: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("proxy.doctor.disk.tempfile.mkstemp", failing)
    found = worst(looked(given, "audit"))
    assert found.state is State.WRONG
    assert mend in found.mend


def test_a_start_that_a_full_disk_cut_short(given: dict[str, Any]) -> None:
    given["data_dir"].mkdir()
    (given["data_dir"] / "audit.db").touch()
    assert not [each for each in looked(given, "audit") if each.state is State.WRONG and "free" not in each.detail]


def test_a_directory_that_cannot_even_be_looked_at(given: dict[str, Any], tmp_path: Path) -> None:
    """As one of another user, where we are not root: the error of the system is told, and is no fault of ours."""
    far = tmp_path / ("x" * 300)
    found = looked({**given, "data_dir": far, "credentials": "keys"}, "audit", "state", "content", "callers")
    assert not [each for each in found if "the check itself failed" in each.detail]
    assert "File name too long" in worst(found).detail
    for words in (["account", "list"], ["audit", "tail"], ["keys", "list"], ["policy", "status"]):
        done = RUN.invoke(app, words, env={"PENSTOCK_DATA_DIR": str(far), "PENSTOCK_CREDENTIALS": "keys"})
        assert done.exit_code in {1, 2}, done.output
        assert isinstance(done.exception, SystemExit), done.exception


@pytest.mark.parametrize(("limit", "state"), [("LITTLE", State.WARNING), ("TOO_LITTLE", State.WRONG)])
def test_a_full_disk(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, limit: str, state: State) -> None:
    monkeypatch.setattr(disk, limit, 1 << 60)
    assert any("GiB free" in each.detail and each.state is state for each in looked(given, "audit"))


def test_the_kind_of_the_file_system() -> None:
    mounts = "overlay / overlay rw 0 0\ntmpfs /run tmpfs rw 0 0\nserver:/x /mnt/my\\040logs nfs4 rw 0 0\n"
    kinds = {"/srv": "overlay", "/run": "tmpfs", "/run/x": "tmpfs", "/runs": "overlay", "/mnt/my logs/a": "nfs4"}
    assert {place: disk.filesystem(Path(place), mounts) for place in kinds} == kinds
    assert disk.filesystem(Path("/srv"), "") == ""


# Ports, files, clock


def test_a_taken_port(given: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = worst(looked({**given, "admin_port": port}, "ports"))
    assert found.state is State.WRONG
    assert f"127.0.0.1:{port} is taken" in found.detail
    assert "--admin-port" in found.mend


async def test_a_penstock_that_serves_already(stand: Make, given: dict[str, Any]) -> None:
    async with stand() as s:
        there = {**given, "port": s.running.address[1], "admin_port": s.running.admin_address[1]}
        found = await asyncio.to_thread(looked, there, "ports")
    assert [each.state for each in found] == [State.WARNING, State.WARNING]


def test_an_address_that_is_not_ours(given: dict[str, Any]) -> None:
    assert worst(looked({**given, "host": "192.0.2.1", "port": 8700}, "ports")).state is State.WRONG


def test_few_files(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    (found,) = looked(given, "files")
    assert found.state is State.WARNING
    assert "8320" in found.detail
    (found,) = looked({**given, "max_in_flight": 1000}, "files")
    assert found.state is State.WELL


@pytest.mark.parametrize(
    ("group", "machine", "workers", "state", "words"),
    [
        ("max", 8, 1, State.WELL, "4,096 exchanges whose readers do not read take 3.1 GiB of 8.0 GiB"),
        ("max", 2, 1, State.WARNING, "lower max_in_flight to 2,500"),
        (str(1 << 30), 64, 1, State.WARNING, "lower max_in_flight to 1,100"),
        (str(8 << 30), 64, 4, State.WARNING, "lower max_in_flight to 2,600"),
        (str(100 << 20), 64, 1, State.WRONG, "100 MiB is not enough"),
        ("", None, 1, State.SKIPPED, "says how much"),
    ],
)
def test_memory_for_all_exchanges(
    given: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    group: str,
    machine: int | None,
    workers: int,
    state: State,
    words: str,
) -> None:
    for name, text in (("GROUP", group), ("MACHINE", f"MemTotal:  {machine and machine << 20} kB\nMemFree: 1 kB\n")):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(f"proxy.doctor.memory.{name}", tmp_path / name)
    (found,) = looked({**given, "workers": workers}, "memory")
    assert found.state is state
    assert words in f"{found.detail} {found.mend}"


def test_a_clock_that_jumps(given: dict[str, Any]) -> None:
    settings = load(None, **given)
    (found,) = checks.check_clock(Place(settings, (time.time() - 3600, time.monotonic())))
    assert found.state is State.WARNING
    assert "+3600" in found.detail


@pytest.mark.parametrize(("skew", "state"), [(1.0, State.WELL), (-30.0, State.WARNING), (4000.0, State.WRONG)])
def test_a_clock_that_differs(given: dict[str, Any], skew: float, state: State) -> None:
    place = Place(load(None, **given), (time.time(), time.monotonic()), skews=[("https://x/v1", skew)])
    (found,) = checks.check_clock(place)
    assert found.state is state


def test_a_clock_that_was_never_set(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.doctor.checks.time.time", lambda: 100.0)
    (found,) = checks.check_clock(Place(load(None, **given), (100.0, time.monotonic())))
    assert found.state is State.WRONG
    assert "1970" in found.detail


async def test_each_of_several_upstreams(given: dict[str, Any]) -> None:
    async with Upstream() as first, Upstream() as second:
        first.reply, second.reply = replies.json(MODELS), replies.json({"error": {}}, status=401)
        several = {
            "ours": {"url": first.url},
            "theirs": {"url": second.url, "key": "sk-x", "serves": ["anthropic"]},
        }
        more = {**given, "upstreams": several, "default_upstream": "ours"}
        found = await asyncio.to_thread(looked, more, "upstream")
        assert [each.state for each in found] == [State.WELL, State.WRONG]
        (asked,) = second.requests
        assert asked.header("x-api-key") == "sk-x"
        assert first.requests[0].header("x-api-key") is None


KEYED = {"upstreams": {"a": {"url": "http://127.0.0.1:1", "key": "sk-operator"}}}
# settings, keys by name, the worst that is found, words of it
CALLERS: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]], State, str]] = {
    "their own keys": ({"upstream": "http://127.0.0.1:1"}, {}, State.WELL, "passed through"),
    "ours, here": (KEYED, {}, State.WELL, "anybody"),
    "ours, for everybody": ({**KEYED, "host": "0.0.0.0"}, {}, State.WARNING, "operator's key"),
    "theirs, to several": (
        {"upstreams": {n: {"url": "http://127.0.0.1:1"} for n in "ab"}, "default_upstream": "a"}, {}, State.WARNING,
        "whichever",
    ),
    "no key": ({**KEYED, "credentials": "keys", "host": "0.0.0.0"}, {}, State.WARNING, "nobody can ask"),
    "a key": ({**KEYED, "credentials": "keys", "host": "0.0.0.0"}, {"ci": {}}, State.WELL, "1 of 1 keys"),
    "none that works": ({"credentials": "keys"}, {"ci": {"revoked": 1.0}}, State.WARNING, "nobody can ask"),
    "one that ends": (
        {"credentials": "keys"}, {"ci": {"expires": time.time() + 100 * 3600}}, State.WARNING, "expires in",
    ),
    "one whose policy is gone": ({"credentials": "keys"}, {"ci": {"policy": "gone"}}, State.WRONG, "'gone'"),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "keys", "state", "word"), CALLERS.values(), ids=CALLERS.keys())
def test_who_may_ask(
    given: dict[str, Any], settings: dict[str, Any], keys: dict[str, dict[str, Any]], state: State, word: str
) -> None:
    for name, more in keys.items():
        give(given["data_dir"], name, **more)
    found = worst(looked({**given, **settings}, "callers"))
    assert (found.state, word in found.detail) == (state, True), found
    assert state is State.WELL or found.mend
    assert "sk-operator" not in repr(found)


def test_keys_that_cannot_be_read(given: dict[str, Any]) -> None:
    give(given["data_dir"], "ci")
    (given["data_dir"] / "keys.json").write_text("{")
    found = worst(looked({**given, "credentials": "keys"}, "callers"))
    assert (found.state, "keys.json" in found.detail) == (State.WRONG, True)


def test_keys_without_their_secret(given: dict[str, Any]) -> None:
    give(given["data_dir"], "ci")
    (given["data_dir"] / "keys.key").unlink()
    found = worst(looked({**given, "credentials": "keys"}, "callers"))
    assert (found.state, "keys.key" in found.detail) == (State.WRONG, True)
    assert not (given["data_dir"] / "keys.key").exists()


def test_each_policy_is_looked_at(given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("no policy")
    found = looked({**given, "policies": {"same": given["policy"], "other": str(tmp_path / "other.yaml")}}, "policy")
    assert worst(found).state is State.WRONG
    assert any(each.state is State.WELL and each.detail.startswith("same: ") for each in found)


@pytest.mark.parametrize(
    ("settings", "files", "state", "said"),
    [
        ({}, {}, State.WELL, "none is kept"),
        ({"keep_content": "all"}, {}, State.WRONG, "no master key is set"),
        ({"keep_content": "all", "content_key": "ab" * 32}, {}, State.WELL, "begins with the first exchange"),
        ({"keep_content": "all", "content_key": "ab" * 32}, {"content.db": "x" * 99}, State.WRONG, "nothing at"),
    ],
)
def test_content(
    given: dict[str, Any], settings: dict[str, Any], files: dict[str, str], state: State, said: str
) -> None:
    for name, text in files.items():
        given["data_dir"].mkdir(exist_ok=True)
        (given["data_dir"] / name).write_text(text)
    found = worst(looked({**given, **settings}, "content"))
    assert (found.state, said in found.detail) == (state, True), found
    assert found.mend if state is State.WRONG else not found.mend
    assert "abab" not in found.detail


def test_a_rule_that_keeps_where_nothing_is_kept(given: dict[str, Any], tmp_path: Path) -> None:
    text = RULES.format(**DEFAULTS).replace("    action: block\n", "    action: block\n    keep: content\n", 1)
    (tmp_path / "policy.yaml").write_text(text + CASES)
    found = worst(looked(given, "policy", "content"))
    assert (found.check, found.state) == ("content", State.WARNING)
    assert "no-mark" in found.detail


async def test_content_under_another_master_key(stand: Make, key_file: Path, given: dict[str, Any]) -> None:
    async with stand(settings={"keep_content": "all"}) as s:
        data = s.data
    found = worst(looked({**given, "data_dir": data, "keep_content": "all"}, "content"))
    assert (found.state, "opens" in found.detail) == (State.WELL, True)
    key_file.write_text("cd" * 32)
    found = worst(looked({**given, "data_dir": data, "keep_content": "all"}, "content"))
    assert (found.state, "another master key" in found.detail) == (State.WRONG, True)


def test_files_of_all_workers(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 20_000))
    (found,) = looked({**given, "workers": 4}, "files")
    assert (found.state, "in each of 4 workers" in found.detail) == (State.WELL, True)
    (tmp_path / "file-max").write_text("30000\n")
    monkeypatch.setattr(checks, "FILE_MAX", tmp_path / "file-max")
    (found,) = looked({**given, "workers": 4}, "files")
    assert (found.state, "33,280 are needed" in found.detail) == (State.WARNING, True)
    (found,) = looked({**given, "workers": 1}, "files")
    assert found.state is State.WELL


@pytest.mark.parametrize(
    ("workers", "quota", "state", "words"),
    [
        (1, "max 100000", State.WELL, "1 worker on 4 cores (`workers: 0` uses all)"),
        (4, "max 100000", State.WELL, "4 workers on 4 cores"),
        (8, "max 100000", State.WARNING, "8 workers on 4 cores: they take turns"),
        (4, "150000 100000", State.WARNING, "4 workers on 2 cores: they take turns"),
        (0, "150000 100000", State.WELL, "2 workers on 2 cores"),
        (1, "50000 100000", State.WELL, "1 worker on 1 core"),
        (1, "", State.WELL, "1 worker on 4 cores (`workers: 0` uses all)"),
    ],
)
def test_workers_and_cores(
    given: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    workers: int,
    quota: str,
    state: State,
    words: str,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr("proxy.workers.cores.cores.__defaults__", (tmp_path / "cpu.max",))
    (found,) = looked({**given, "workers": workers}, "workers")
    assert (found.state, found.detail) == (state, words)

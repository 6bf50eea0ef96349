"""Settings: where they come from, which wins, and what an operator reads when one is wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from proxy.cli import app
from proxy.config import ConfigError, Settings, load
from proxy.state.base import StateUnavailable
from proxy.state.opening import store_of


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PENSTOCK_"):
            monkeypatch.delenv(name)


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "penstock.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_who_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, "host: file\nport: 1\nadmin_port: 1\nlog_level: debug\n")
    monkeypatch.setenv("PENSTOCK_PORT", "2")
    monkeypatch.setenv("PENSTOCK_ADMIN_PORT", "2")
    settings = load(file, admin_port=3, log_level=None)
    assert (settings.host, settings.port, settings.admin_port, settings.log_level) == ("file", 2, 3, "debug")
    assert settings.admin_host == "127.0.0.1"


READ: dict[str, tuple[str, dict[str, str], str, Any]] = {
    "nothing": ("", {}, "port", 8700),
    "only a comment": ("# none yet\n", {}, "port", 8700),
    "a list": ("metrics_models: [a, b]", {}, "metrics_models", ["a", "b"]),
    "a list in the environment": ("", {"PENSTOCK_METRICS_MODELS": "a, b,,c"}, "metrics_models", ["a", "b", "c"]),
    "a flag in the environment": ("", {"PENSTOCK_DECISION_HEADERS": "true"}, "decision_headers", True),
    "a value from the environment": ("host: ${WHERE}", {"WHERE": "h"}, "host", "h"),
    "a default": ("host: ${WHERE:-h}", {}, "host", "h"),
    "a default not needed": ("host: ${WHERE:-h}", {"WHERE": "x"}, "host", "x"),
    "an empty value takes the default": ("host: ${WHERE:-h}", {"WHERE": ""}, "host", "h"),
    "an empty default": ("policy: base${WHERE:-}line", {}, "policy", "baseline"),
    "several": ("host: a${A}b${B}c", {"A": "1", "B": "2"}, "host", "a1b2c"),
    "a dollar alone": ("policy: a$b", {}, "policy", "a$b"),
    "a value that looks like one": ("policy: ${A}", {"A": "${B}"}, "policy", "${B}"),
    "in a list": ("metrics_models: ['${A}']", {"A": "m"}, "metrics_models", ["m"]),
    "a number": ("port: ${P}", {"P": "99"}, "port", 99),
}


@pytest.mark.parametrize(("text", "environment", "name", "expected"), READ.values(), ids=READ.keys())
def test_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, environment: dict[str, str], name: str, expected: Any
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert getattr(load(written(tmp_path, text)), name) == expected


# (the file, words of the one line that an operator reads)
WRONG: dict[str, tuple[str | bytes, list[str]]] = {
    "unknown key": ("upstram: https://x", ["upstram", "penstock config"]),
    "an endpoint for an upstream": (
        "upstream: http://127.0.0.1:9/v1/chat/completions/",
        ["upstream", "names one endpoint", "https://api.example.com/v1"],
    ),
    "an address alone": ("upstreams: {a: http://x}", ["upstreams.a", "{url: https://"]),
    "a list of upstreams": ("upstreams: [a]", ["upstreams", "write it as a mapping"]),
    "a name for a route": ("routes: [gpt]", ["routes.0", "models: ['gpt-*']"]),
    "twice": ("port: 1\nport: 2\n", ["penstock.yaml:2:1", "port"]),
    "no mapping": ("- port", ["mapping"]),
    "a word": ("port", ["mapping"]),
    "bad YAML": ("port: [1\nhost: x", ["penstock.yaml:2"]),
    "a tab": ("a:\n\tport: 1", ["penstock.yaml:2"]),
    "not UTF-8": (b"host: \xff", ["UTF-8"]),
    "a control character": (b"host: \x01", ["penstock.yaml"]),
    "a tag": ("host: !!python/object:os.system x", ["penstock.yaml:1"]),
    "port no number": ("port: many", ["port", "integer"]),
    "port too high": ("port: 70000", ["port", "65535"]),
    "timeout nought": ("gap_timeout: 0", ["gap_timeout", "greater than 0"]),
    "timeout endless": ("gap_timeout: .inf", ["gap_timeout"]),
    "timeout not a number": ("gap_timeout: .nan", ["gap_timeout"]),
    "log level": ("log_level: loud", ["log_level", "debug"]),
    "upstream": ("upstream: api.example.com", ["upstream", "https://"]),
    "upstream with a key": ("upstream: https://u:hunter2@api.example.com", ["upstream", "credentials"]),
    "upstream's port": ("upstream: http://x:port", ["upstream", "ort"]),
    "variable not set": ("upstream_key: ${NOT_SET_ANYWHERE}", ["NOT_SET_ANYWHERE", "not set"]),
    "variable not set, in a list": ("metrics_models: ['${NOT_SET_ANYWHERE}']", ["NOT_SET_ANYWHERE", "not set"]),
    "variable never closed": ("host: ${WHERE", ["host", "}"]),
    "key empty": ("upstream_key: ''", ["upstream_key", "empty"]),
    "key with a line end": ('upstream_key: "hunter2\\nx"', ["upstream_key"]),
    "key with a blank": ('upstream_key: "hunter2 x"', ["upstream_key"]),
    "one upstream and several": (
        "upstream: http://x\nupstreams: {a: {url: http://y}}",
        ["`upstream` and `upstreams`", "name them all"],
    ),
    "an upstream without a url": ("upstreams: {a: {key: hunter2}}", ["upstreams.a.url", "required"]),
    "an upstream's url": ("upstreams: {a: {url: x}}", ["upstreams.a.url", "https://"]),
    "an upstream's name": ("upstreams: {A B: {url: http://x}}", ["upstreams.A B"]),
    "an unknown key of an upstream": ("upstreams: {a: {url: http://x, ky: hunter2}}", ["upstreams.a.ky"]),
    "a family that nobody knows": ("upstreams: {a: {url: http://x, serves: [mistral]}}", ["serves.0", "anthropic"]),
    "a family too few": ("upstreams: {a: {url: http://x, serves: []}}", ["upstreams.a.serves"]),
    "two keys": ("upstreams: {a: {url: http://x, key: hunter2, key_env: HOME}}", ["upstreams.a", "leave one out"]),
    "an authority": ("upstreams: {a: {url: https://x, ca_file: /no/such.pem}}", ["upstreams.a.ca_file", "PEM"]),
    "routes to nowhere": ("routes: [{models: [x], upstream: a}]", ["`routes`", "`upstreams`"]),
    "a route to nowhere": (
        "upstreams: {a: {url: http://x}, b: {url: http://y}}\nroutes: [{models: ['*'], upstream: c}]",
        ["routes.0.upstream", "a, b"],
    ),
    "a route without models": (
        "upstreams: {a: {url: http://x}}\nroutes: [{models: [], upstream: a}]",
        ["routes.0.models"],
    ),
    "a default to nowhere": ("upstreams: {a: {url: http://x}}\ndefault_upstream: b", ["default_upstream", "a"]),
    "several, no default, and batches": (
        "upstreams: {a: {url: http://x}, b: {url: http://y}}\njudge_batches: true\n"
        "routes: [{models: [m], upstream: a}]",
        ["`default_upstream`"],
    ),
    "several, and no default": ("upstreams: {a: {url: http://x}, b: {url: http://y}}", ["`default_upstream`"]),
    "an encoder that is no URL": ("encoder: ray", ["encoder: must be an http or https URL", "or embedded"]),
    "a key of the encoder in the open": (
        "encoder: http://example.com\nencoder_key: k-123",
        ["encoder_key: the key would travel unencrypted", "https://"],
    ),
    "an authority that is not there": (
        "encoder: https://e\nencoder_ca_file: /nowhere.pem",
        ["encoder_ca_file: there is no such file"],
    ),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG.keys())
def test_wrong(tmp_path: Path, text: str | bytes, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message, message
    assert "hunter2" not in message


def test_each_problem_has_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, "port: x\nadmin_port: y\nnone: 1\n"))
    assert len(str(caught.value).splitlines()) == 3


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match=path.name):
            load(path)


def test_an_unknown_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_UPSTRAEM", "x")
    with pytest.raises(ConfigError, match="PENSTOCK_UPSTRAEM"):
        load()


def test_a_key_is_never_shown(tmp_path: Path) -> None:
    settings = load(written(tmp_path, "upstream_key: hunter2"))
    assert settings.upstream_key is not None
    assert settings.upstream_key.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings) + str(settings)
    named = load(written(tmp_path, "upstreams: {a: {url: http://x, key: '${K:-hunter2}'}}"))
    assert named.upstreams["a"].secret == "hunter2"
    assert "hunter2" not in repr(named) + str(named)


def test_tables_are_printed_as_the_file_has_them(tmp_path: Path) -> None:
    file = written(tmp_path, "upstreams: {a: {url: http://x, key: hunter2}}\nroutes: [{models: [m], upstream: a}]")
    printed = CliRunner().invoke(app, ["config", "--config", str(file)]).output
    assert "hunter2" not in printed
    tree = YAML(typ="safe", pure=True).load(printed)
    assert tree["routes"] == [{"models": ["m"], "upstream": "a"}]
    assert tree["upstreams"]["a"]["url"] == "http://x"
    assert set(tree) == set(Settings.model_fields)


def test_settings_are_listed_where_one_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_PORT", "none")
    result = CliRunner().invoke(app, ["config"])
    assert result.exit_code == 1
    assert "setting port" in result.stderr
    assert set(YAML(typ="safe", pure=True).load(result.stdout)) == set(Settings.model_fields)


def test_a_table_is_not_for_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_UPSTREAMS", "a")
    with pytest.raises(ConfigError, match=r"PENSTOCK_UPSTREAMS.*file"):
        load()


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description or name in {"log_level"}, name


WHERE = {
    "redis://host": "",
    f"rediss://user:a-secret@host:6380/2?ssl_ca_certs={__file__}": "",
    "unix:///run/redis.sock": "",
    "unix:///run/redis.sock?db=1": "",
    "host:6379": "is no address of Redis",
    "http://:a-secret@host": "is no address of Redis",
    "redis://:a secret@host": "is no address of Redis",
    "redis://:a-secret@host/db": "is no address of Redis",
    "redis+sentinel://:a-secret@one:26379,two,[::1]:3/main": "",
    "redis+sentinel://one/main/2?sentinel_password=a-secret": "",
    f"rediss+sentinel://:a-secret@one/main?ssl_ca_certs={__file__}": "",
    "redis+sentinel://:a-secret@one:26379": "is no address of Sentinels",
    "redis+sentinel://:a-secret@/main": "is no address of Sentinels",
    "redis-sentinel://:a-secret@one:26379/main": "is no address of Sentinels",
    "redis+sentinel://:a-secret@one:26379/main?password=a-secret": "a parameter that is not known",
    f"redis+sentinel://:a-secret@one/main?ssl_ca_certs={__file__}": "no TLS: write rediss+sentinel://",
    "redis+cluster://:a-secret@host:6379": "a Cluster, which is not spoken to",
    "redis://:a-secret@one:6379,two:6379/0": "if they are Sentinels, write redis+sentinel://",
    "redis://:a-secret@host?sentinel_password=a-secret": "a parameter that is not known",
    "rediss://:a-secret@host?ssl_ca_certs=/none": "ssl_ca_certs: there is no such file",
    "rediss://:a-secret@host?ssl_cert_reqs=none": "a parameter that is not known",
    "redis://:a-secret@host?decode_responses=yes": "a parameter that is not known",
    f"redis://:a-secret@host?ssl_ca_certs={__file__}": "no TLS: write rediss://",
}


@pytest.mark.parametrize(("url", "problem"), WHERE.items())
def test_where_state_is_shared(url: str, problem: str) -> None:
    if not problem:
        settings = load(None, state=url)
        assert settings.state is not None
        assert settings.state.get_secret_value() == url
        assert "secret" not in repr(settings)
        return
    with pytest.raises(ConfigError, match=f"state: .*{re.escape(problem)}") as found:
        load(None, state=url)
    assert "secret" not in str(found.value)


def test_a_port_that_is_none_is_told_without_the_password() -> None:
    with pytest.raises(StateUnavailable, match="no address of Redis") as found:
        store_of(load(None, state="redis://:a-secret@host:a-secret"))
    assert "secret" not in str(found.value)

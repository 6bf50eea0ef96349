"""`penstock explain`: what was seen, each rule with its values, and why; never the text unless it was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from proxy.cli import app
from tests.conformance.cases import Answer, Send
from tests.conformance.speak import _STREAMS, request

POLICY = """\
id: demo
version: 1
owner: tests
description: Words of our own.
classifiers:
  words: {kind: patterns, patterns: {codename: {words: [bluebird]}, hint: {words: [bird], score: 0.4}}}
  broken: {kind: canary, crash: "yes"}
rules:
  - id: codename
    description: The code name is blocked.
    stages: [input, output]
    roles: [user, assistant]
    when: {any: [{finding: words.codename, at_least: 0.9}, {finding: words.hint, at_least: 0.5}]}
    action: block
    stream: whole
  - id: noted
    description: Hints are noted.
    stages: [input]
    when: {all: [{finding: words.hint, at_least: 0.3}, {finding: words.codename, at_least: 0.9}]}
    action: log
  - id: idle
    description: Switched off.
    stages: [input]
    when: {finding: words.hint, at_least: 0.3}
    action: block
    mode: "off"
  - id: unsure
    description: Its classifier does not answer.
    stages: [input]
    when: {finding: broken.mark, at_least: 0.5}
    action: log
    on_error: log
"""
CHAT = {"model": "m", "messages": [{"role": "system", "content": "bluebird"}, {"role": "user", "content": "The bluebird sings, a bird"}]}  # fmt: skip  # noqa: E501
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "It is a bird."}}]}


def run(*args: object, **more: Any) -> Result:
    result = CliRunner().invoke(app, ["explain", *map(str, args)], **more)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tests.proxy.kinds.Canary.classify", _crash)
    for name, body in (("request.json", CHAT), ("answer.json", ANSWER)):
        (tmp_path / name).write_text(json.dumps(body))
    (tmp_path / "p.yaml").write_text(POLICY.replace(', crash: "yes"', ""))
    return tmp_path


def _crash(self: Any, messages: Any) -> Any:
    raise RuntimeError("as told")


def test_everything_that_led_to_it(files: Path) -> None:
    told = run(files / "request.json", "--policy", files / "p.yaml", "--response", files / "answer.json")
    assert told.exit_code == 0, told.output
    lines = told.output.splitlines()
    assert lines[0].startswith("read as chat (POST /v1/chat/completions)")
    assert "input: block by rule 'codename' of policy 'demo'" in lines
    assert "output: pass, no rule fired" in lines
    assert "  words was to read 3 of 3" in lines
    assert "  saw words.codename 1.0000 in text 2 (user), characters 4 to 12" in lines
    start = lines.index("* rule codename (block): met")
    assert lines[start : start + 10] == [
        "* rule codename (block): met",
        "      words.codename: 1.0000 >= 0.9 (+0.1000): met",
        "      or words.hint: 0.4000 < 0.5 (-0.1000): not met",
        "  rule noted (log): met",
        "      words.hint: 0.4000 >= 0.3 (+0.1000): met",
        "      and words.codename: 1.0000 >= 0.9 (+0.1000): met",
        "  rule idle (block, off): off",
        "      words.hint: 0.4000 >= 0.3 (+0.1000): met",
        "  rule unsure (log): not evaluated (not evaluated: on_error is log)",
        "      broken.mark >= 0.5: nobody answered",
    ]
    assert "sings" not in told.output
    assert "'bluebird'" not in told.output


def test_an_expression_is_shown_with_its_scores(files: Path) -> None:
    text = (files / "p.yaml").read_text()
    old = "{any: [{finding: words.codename, at_least: 0.9}, {finding: words.hint, at_least: 0.5}]}"
    assert old in text
    (files / "p.yaml").write_text(text.replace(old, "'score(\"words.codename\") >= 0.9 && request.settings.n < 2'"))
    told = run(files / "request.json", "--policy", files / "p.yaml")
    assert told.exit_code == 0, told.output
    lines = told.output.splitlines()
    at = next(at for at, line in enumerate(lines) if "rule codename" in line)
    assert lines[at + 1] == '      when score("words.codename") >= 0.9 && request.settings.n < 2'
    assert lines[at + 2] == "      request.settings.n is 1"
    assert lines[at + 3].startswith("      words.codename: 1.0000 >= 0.9")


def test_what_an_expression_reads_is_shown_without_texts(files: Path) -> None:
    condition = "calls.exists(c, c.name == 'pay' && c.arguments.to == 'Bob') || follows('tool_call:pay', 'user') || account.history['x'] > 2"  # noqa: E501
    old = "{any: [{finding: words.codename, at_least: 0.9}, {finding: words.hint, at_least: 0.5}]}"
    text = (files / "p.yaml").read_text().replace("stages: [input, output]", "stages: [output]", 1)
    (files / "p.yaml").write_text(text.replace(old, f'"{condition}"'))
    call = {"id": "1", "type": "function", "function": {"name": "pay", "arguments": '{"to": "Bob"}'}}
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [call]}}]}
    (files / "answer.json").write_text(json.dumps(answer))
    told = run(files / "request.json", "--policy", files / "p.yaml", "--response", files / "answer.json").output
    lines = told.splitlines()
    at = lines.index(f"      when {condition}")
    assert lines[at + 1 : at + 4] == [
        '      account.history is {"x": 0}',
        '      calls is ["pay"]',
        '      the conversation is ["system", "user", "tool_call:pay"]',
    ]
    assert "Bob" not in told.replace(condition, "")


def test_a_reading_is_named(files: Path) -> None:
    text = (files / "p.yaml").read_text()
    old = "{any: [{finding: words.codename, at_least: 0.9}, {finding: words.hint, at_least: 0.5}]}"
    (files / "p.yaml").write_text(text.replace(old, '\'score("words.codename", "leet") >= 0.9\''))
    told = run(files / "request.json", "--policy", files / "p.yaml").output
    assert "      words.codename read as leet: 0.0000 < 0.9 (-0.9000): not met" in told.splitlines()
    (files / "request.json").write_text(json.dumps(CHAT).replace("bluebird", "b1uebird"))
    told = run(files / "request.json", "--policy", files / "p.yaml").output
    assert "characters 4 to 12, read as leet_l" in told
    assert "      words.codename read as leet: 1.0000 >= 0.9 (+0.1000): met" in told.splitlines()


def test_a_policy_for_other_requests_is_named(files: Path) -> None:
    (files / "set").mkdir()
    (files / "set" / "a.yaml").write_text((files / "p.yaml").read_text())
    other = (
        (files / "p.yaml")
        .read_text()
        .replace("id: ", "id: other-")
        .replace("version: 1", "version: 1\napplies_to: {models: [x]}")
    )
    (files / "set" / "b.yaml").write_text(other)
    told = run(files / "request.json", "--policy", files / "set")
    assert "policy other-demo is not for this request" in told.output
    assert "rule codename" in told.output
    assert "rule other-codename" not in told.output


def test_text_is_shown_where_it_is_asked_for(files: Path) -> None:
    told = run(files / "request.json", "--policy", files / "p.yaml", "--show-text")
    assert "characters 4 to 12  'bluebird'" in told.output
    plain = run(files / "request.json", "--policy", files / "p.yaml", "--output", "json")
    assert "bluebird" not in plain.output


def test_json_has_all_of_it(files: Path) -> None:
    told = run("-", "--policy", files / "p.yaml", "--output", "json", input=json.dumps(CHAT))
    plain = json.loads(told.stdout)
    assert plain["input"]["action"] == "block"
    assert plain["input"]["failures"] == {"broken": "crash"}
    rules = {each["rule"]: each for each in plain["input"]["rules"]}
    assert [each["state"] for each in rules.values()] == ["met", "met", "off", "not evaluated"]
    assert rules["codename"]["decided"]
    assert rules["codename"]["parts"][1] == {
        "findings": ["words.hint"],
        "at_least": 0.5,
        "score": 0.4,
        "distance": -0.1,
        "state": "not met",
        "reading": None,
    }
    assert {"classifier": "words", "label": "hint", "score": 0.4, "message": 2, "role": "user",
            "origin": "/messages/1/content", "span": [22, 26], "view": "raw"} in plain["input"]["findings"]  # fmt: skip
    assert "output" not in plain


SHAPES = [
    (CHAT, "/v1/chat/completions"),
    ({"model": "m", "max_tokens": 5, "system": "s", "messages": [{"role": "user", "content": "x"}]}, "/v1/messages"),
    ({"model": "m", "input": "x"}, "/v1/responses"),
    ({"model": "m", "input": "x", "dimensions": 5}, "/v1/embeddings"),
    ({"model": "m", "prompt": "x"}, "/v1/completions"),
]


@pytest.mark.parametrize(("body", "path"), SHAPES, ids=[path for _, path in SHAPES])
def test_the_shape_tells_the_api(files: Path, body: dict[str, Any], path: str) -> None:
    told = run("-", "--policy", files / "p.yaml", "--output", "json", input=json.dumps(body))
    assert json.loads(told.stdout)["path"] == path


def test_what_cannot_be_judged(files: Path) -> None:
    for body, more, word in (
        ("{", [], "before it is judged"),
        ("[]", [], "no JSON object"),
        ('{"a": 1}', [], "--path"),
        (json.dumps(CHAT), ["--path", "/v1/files"], "/v1/files is not judged"),
        ('{"messages": 3}', [], "before it is judged"),
    ):
        told = run("-", "--policy", files / "p.yaml", *more, input=body)
        assert told.exit_code == 1
        assert word in told.output
    assert run(files / "none.json").exit_code == 1
    assert run("-", "--output", "github", input="{}").exit_code == 2


ROUTED = """\
id: demo
version: 1
owner: tests
description: Birds are for a small model.
classifiers:
  words: {kind: patterns, patterns: {bird: {words: [bluebird]}}}
rules:
  - id: birds
    description: Another model.
    stages: [input]
    when: {finding: words.bird, at_least: 0.5}
    action: route
    route_to: small
  - id: none-of-it
    description: Not even that one.
    stages: [input]
    when: score("words.bird") >= 0.5 && request.model == "small"
    action: rewrite
    rewrite_with: No birds here.
"""


def test_a_request_that_goes_elsewhere_is_judged_twice(files: Path) -> None:
    (files / "p.yaml").write_text(ROUTED)
    lines = run(files / "request.json", "--policy", files / "p.yaml").output.splitlines()
    assert [line.split(" of ")[0] for line in lines if line.startswith("input:")] == [
        "input: route by rule 'birds'",
        "input: rewrite by rule 'none-of-it'",
    ]
    assert "  birds: small is asked, and by what is for it the request is judged again" in lines
    assert lines.count("  none-of-it: the caller gets the rule's words") == 1
    told = json.loads(run(files / "request.json", "--policy", files / "p.yaml", "--output", "json").stdout)
    assert [each["rule"] for each in told["input"]["rules"] if each["state"] == "met"] == ["birds"]
    assert told["input_elsewhere"]["rule"] == "none-of-it"


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("dialect", ["chat", "messages", "responses"])
def test_a_streamed_answer(files: Path, dialect: str, size: int) -> None:
    _, path, body, _ = request(dialect, Send(text="Hi"), True)
    (files / "request.json").write_bytes(body)
    (files / "answer.sse").write_bytes(b"".join(_STREAMS[dialect](Answer(text="It is a bluebird.", size=size))))
    told = run(
        files / "request.json", "--policy", files / "p.yaml", "--response", files / "answer.sse", "--path", path,
        "--output", "json",
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    tree = json.loads(told.stdout)
    assert (tree["output"]["action"], tree["output"]["rule"]) == ("block", "codename")
    assert tree["input"]["action"] != "block"


def test_what_is_neither_json_nor_a_stream(files: Path) -> None:
    (files / "answer.html").write_text("<html>")
    told = run(files / "request.json", "--policy", files / "p.yaml", "--response", files / "answer.html")
    assert (told.exit_code, "neither JSON nor a stream" in told.output) == (1, True)

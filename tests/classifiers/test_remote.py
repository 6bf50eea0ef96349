"""The remote classifier: against a real MLServer, and against servers that lie, break and linger."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import Any

import httpx2
import pytest

from classifiers.base import Classifier, Message, NoAnswer, Role
from classifiers.catalog import OptionError, create
from classifiers.options import Options
from classifiers.remote import OPTIONS, Remote, _tensors
from tests.bench.candidates import free_port
from tests.classifiers.services import FAULTS, ask
from tests.classifiers.tables import table
from tests.packages import packages
from tests.upstream import Upstream, replies
from tests.upstream.server import Request

CASES = table("remote")
MODEL = Path(__file__).with_name("shouting")


def remote(url: str, **options: Any) -> Classifier:
    return create("remote", "remote", {"url": url, "model": "m", "labels": ["calm", "loud"], **options})


def scored(*rows: tuple[float, float]) -> dict[str, Any]:
    data = [score for row in rows for score in row]
    return {
        "model_name": "m",
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [len(rows), 2], "data": data}],
    }


def shouts(request: Request) -> Any:
    """Answers as the protocol has it: how many of a text's letters are capitals."""
    [tensor] = request.json()["inputs"]
    shares = [sum(letter.isupper() for letter in text) / max(1, len(text)) for text in tensor["data"]]
    answer = scored(*[(1 - share, share) for share in shares]) | {"id": request.json()["id"]}
    return replies.json(answer)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_readings(case: dict[str, Any]) -> None:
    options = {"model": "m", "labels": ["calm", "loud"]} | case.get("asked", {})
    tensors = _tensors(Options(options, OPTIONS))
    answer = {"id": "c", "outputs": case["outputs"]} | case.get("top", {})
    if "problem" in case:
        with pytest.raises(NoAnswer) as caught:
            tensors.read(answer, 2, "c")
        assert str(caught.value.reason) == "bad_answer"
        assert case["problem"] in caught.value.detail
    else:
        assert tensors.read(answer, 2, "c") == [pytest.approx(row, abs=1e-6) for row in case["scores"]]


async def test_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_KEY", "k-1")
    options = {
        "model": "a b/c",
        "version": "2",
        "input": "TEXT",
        "column": True,
        "input_parameters": {"content_type": "str"},
        "key_env": "GUARD_KEY",
        "batch": 2,
    }
    async with Upstream(replies.json(scored((0, 1), (0, 1)))) as up:
        await ask(remote(up.url + "/v2/", **options), "one", "tw\ud800")
        [request] = up.requests
        assert request.path == "/v2/models/a%20b%2Fc/versions/2/infer"
        assert request.header("authorization") == "Bearer k-1"
        body = request.json()
        assert body.pop("id")
        assert body == {
            "inputs": [
                {
                    "name": "TEXT",
                    "shape": [2, 1],
                    "datatype": "BYTES",
                    "data": ["one", "tw?"],
                    "parameters": {"content_type": "str"},
                }
            ],
            "outputs": [{"name": "scores"}],
        }


@pytest.mark.parametrize("batch", [1, 3, 256])
async def test_findings_and_their_places(batch: int) -> None:
    long = "word " * 100 + "SHOUTING OUT LOUD, ALL OF IT, TO THE END" + " word" * 100
    async with Upstream(shouts) as up:
        found = (await ask(remote(up.url, window=80, overlap=20, batch=batch), "calm", "LOUD", " ", long)).found
    scores = {(f.message, f.label): f for f in found}
    assert {place: scores[place].score for place in [(0, "calm"), (1, "loud")]} == {(0, "calm"): 1.0, (1, "loud"): 1.0}
    assert (0, "loud") not in scores
    assert {message for message, _ in scores} == {0, 1, 3}
    best = scores[3, "loud"]
    assert best.score > 0.3
    assert best.span is not None
    assert "OUT LOUD" in long[slice(*best.span)]


async def test_one_bad_answer_hides_no_finding() -> None:
    def script(request: Request) -> Any:
        return replies.json({}) if request.json()["inputs"][0]["data"] == ["bad"] else shouts(request)

    async with Upstream(script) as up:
        answer = await ask(remote(up.url), "LOUD", "bad", "calm")
    assert {finding.message for finding in answer.found} == {0, 2}
    assert answer.reason == "bad_answer"
    assert "1 of 3" in str(answer.silence)


async def test_a_text_of_too_many_windows_is_not_asked_about() -> None:
    async with Upstream(shouts) as up:
        answer = await ask(remote(up.url, max_windows=5, window=50), "".join(f"{n:07} " for n in range(200)))
        assert (answer.reason, up.requests) == ("queue_full", [])


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_is_a_reason(fault: str) -> None:
    reply, reason = FAULTS[fault]
    async with Upstream(reply(scored((1, 0)))) as up:
        answer = await ask(remote(up.url, timeout_ms=300 if reason == "timeout" else 20_000), "MARK")
    assert (answer.found, answer.reason) == ([], reason)
    assert "MARK" not in str(answer.silence)


# Options


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"model": None}, "model: is missing"),
        ({"version": 1}, "version: must be a text .quote it"),
        ({"labels": None}, "labels: is missing"),
        ({"labels": "loud"}, "labels: must be a list"),
        ({"labels": []}, "labels: must be a list"),
        ({"labels": [None]}, "labels: none is wanted"),
        ({"labels": ["loud", "loud"]}, "the same label twice"),
        ({"labels": ["two words"]}, "is no label"),
        ({"labels": [""]}, "is no label"),
        ({"labels_output": "names"}, "labels: must be a mapping"),
        ({"labels_output": "names", "labels": {"A": None}}, "labels: none is wanted"),
        ({"labels_output": "names", "labels": {"A": "two words"}}, "is no label"),
        ({"activation": "relu"}, "activation: 'relu' is unknown"),
        ({"column": 1}, "column: must be true or false"),
        ({"input_parameters": {"a": float("nan")}}, "input_parameters: holds what JSON cannot"),
        ({"batch": 0}, "batch: must be a whole number"),
        ({"window": 1}, "window: must be a whole number"),
        ({"parity": {}}, "parity: is no list"),
        ({"parity": [{"text": "x"}]}, "parity: text 1 needs text and scores"),
        ({"parity": [{"text": " ", "scores": {"loud": 1}}]}, "parity: text 1 needs text and scores"),
        ({"parity": [{"text": "x", "scores": {"quiet": 1}}]}, "no score of a known label"),
        ({"parity": [{"text": "x", "scores": {"loud": 2}}]}, "no score of a known label"),
        ({"parity": [{"text": "x", "scores": {"loud": 1}}], "check": False}, "would never be looked at"),
        ({"parity_tolerance": -1}, "parity_tolerance: must be a number"),
        ({"url": "guard.example"}, "url: must be an http or https URL"),
        ({"threshold": 0.5}, "threshold: no such option"),
    ],
)
def test_wrong_options_say_what_to_write(options: dict[str, Any], complaint: str) -> None:
    right: dict[str, Any] = {"url": "http://127.0.0.1:9", "model": "m", "labels": ["calm", "loud"]}
    with pytest.raises(OptionError, match=complaint):
        create("remote", "remote", {key: value for key, value in (right | options).items() if value is not None})


def test_labels_and_digest() -> None:
    plain = remote("http://x")
    assert plain.labels == {"calm", "loud"}
    assert remote("http://x", labels=[None, "loud"]).labels == {"loud"}
    assert remote("http://x", labels_output="names", labels={"A": "calm", "B": None}).labels == {"calm"}
    assert not plain.inline
    assert plain.digest == remote("http://x/v2/", timeout_ms=1).digest
    others: list[dict[str, Any]] = [
        {"model": "n"},
        {"version": "1"},
        {"labels": ["loud", "calm"]},
        {"input": "i"},
        {"output": "o"},
        {"activation": "softmax"},
        {"column": True},
        {"input_parameters": {"a": 1}},
        {"window": 60},
        {"batch": 2},
        {"min_score": 0.5},
        {"parity_tolerance": 0.2},
    ]
    digests = [plain.digest, remote("http://y").digest, *[remote("http://x", **other).digest for other in others]]
    assert len(set(digests)) == len(digests)


# A real MLServer, with a small model of ours


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of an MLServer that serves `shouting`."""
    installed = packages("mlserver")
    folder = tmp_path_factory.mktemp("mlserver") / "shouting"
    shutil.copytree(MODEL, folder)
    http, grpc, metrics = free_port(), free_port(), free_port()
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
    }
    (folder / "settings.json").write_text(dumps(settings), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), str(folder)])}
    command = [sys.executable, "-c", "from mlserver.cli import main; main()", "start", str(folder)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{http}"
        try:
            for _ in range(600):
                assert process.poll() is None, (folder / "log").read_text("utf-8")
                with contextlib.suppress(httpx2.TransportError):
                    if httpx2.get(f"{url}/v2/models/shouting/ready", trust_env=False).status_code == 200:
                        break
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


REAL: dict[str, Any] = {
    "model": "shouting",
    "version": "v3",
    "output": "logits",
    "activation": "softmax",
    "timeout_ms": 30_000,
}
CALM_IS_LOUD_BY = 0.018  # softmax of (2, -2)


async def test_a_real_server_judges(mlserver: str) -> None:
    classifier = remote(mlserver, **REAL, labels=[None, "loud"], batch=2)
    answer = await ask(classifier, "hush now", "LISTEN", "Grüße, 你好 😀", Message(Role.TOOL_RESULT, "OH NO", "/y"))
    assert answer.reason == "", answer.silence
    loud = {finding.message: finding.score for finding in answer.found}
    assert loud[0] == pytest.approx(CALM_IS_LOUD_BY, abs=1e-3)
    assert loud[1] > 0.99
    assert loud[2] < 0.2
    assert loud[3] > 0.8


async def test_a_real_server_names_its_labels(mlserver: str) -> None:
    options = REAL | {"labels_output": "names", "labels": {"CALM": "calm", "SHOUTING": "loud"}}
    answer = await ask(remote(mlserver, **options), "hush now")
    assert answer.reason == "", answer.silence
    assert answer.scores == {
        "calm": pytest.approx(1 - CALM_IS_LOUD_BY, abs=1e-3),
        "loud": pytest.approx(0.018, abs=1e-3),
    }


async def test_a_real_server_that_fails(mlserver: str) -> None:
    real = REAL | {"labels": ["calm", "loud"]}
    assert (await ask(remote(mlserver, **real), "BOOM")).reason == "unavailable"
    assert (await ask(remote(mlserver, **real | {"version": "v9"}), "x")).reason == "unavailable"
    assert (await ask(remote(mlserver, **real | {"model": "other"}), "x")).reason == "unavailable"
    assert (await ask(remote(mlserver, **real | {"activation": "none"}), "x")).reason == "bad_answer"
    assert (await ask(remote(mlserver, **real | {"labels": ["a", "b", "c"]}), "x")).reason == "bad_answer"
    assert (await ask(remote(mlserver, **real | {"output": "names"}), "x")).reason == "bad_answer"
    assert (await ask(remote(mlserver, **real | {"timeout_ms": 1}), "x")).reason == "timeout"


def test_a_real_server_is_checked(mlserver: str) -> None:
    def checked(**options: Any) -> Classifier:
        return remote(mlserver, **REAL | {"check": True} | options)

    parity = [{"text": "hush now", "scores": {"loud": CALM_IS_LOUD_BY}}, {"text": "LISTEN", "scores": {"loud": 1.0}}]
    assert isinstance(checked(parity=parity, parity_tolerance=0.02), Remote)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"parity": [*parity, {"text": "LISTEN", "scores": {"loud": 0.5}}]}, r"parity: text [23]: loud is"),
        ({"parity": [{"text": "BOOM", "scores": {"loud": 0.5}}]}, "parity: text 1 has no answer"),
        ({"model": "other"}, "url: model other is not ready"),
        ({"version": "v9"}, "url: model shouting is not ready"),
        ({"input": "texts"}, "input: the model has no input 'texts' .did you mean 'text'"),
        ({"output": "scores"}, "output: the model has no output 'scores'"),
        ({"output": "names"}, "output: 'names' is BYTES, not FP16"),
    ]
    for options, complaint in wrong:
        with pytest.raises(OptionError, match=complaint) as caught:
            checked(**options)
        assert "LISTEN" not in str(caught.value)


def test_a_server_that_is_not_there_is_seen_when_it_is_checked() -> None:
    port = free_port()
    assert remote(f"http://127.0.0.1:{port}").labels  # nobody is asked
    with pytest.raises(OptionError, match=r"not ready \(no connection"):
        remote(f"http://127.0.0.1:{port}", check=True)

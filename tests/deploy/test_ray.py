"""What deploy/ray serves, without Ray: which rows share a pass, and the protocol. With Ray: test_kill_each."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_ray.batches import Backlog, Job
from penstock_ray.engine import Engine
from penstock_ray.protocol import LARGEST, MOST_ROWS, Protocol
from ruamel.yaml import YAML

from tests.deploy.tools import DEPLOY, ROOT

BUDGET = 100
JOBS = st.builds(
    Job, st.integers(1, 12), st.integers(1, 30), st.sampled_from([("logits",), ("logits", "embedding")]), st.integers()
)


@given(st.lists(st.one_of(JOBS, st.none())))
def test_batches(steps: list[Job[int] | None]) -> None:
    """Jobs come, and where there is none a batch is taken."""
    backlog: Backlog[int] = Backlog(BUDGET)
    waiting: list[Job[int]] = []
    for step in [*steps, *[None] * len(steps)]:
        if step is not None:
            backlog.add(step)
            waiting.append(step)
            continue
        batch = backlog.take()
        assert bool(batch) is bool(waiting)
        if batch:
            assert batch[0] is waiting[0]
            assert len({(job.length, job.outputs) for job in batch}) == 1
            assert len(batch) == 1 or sum(job.tokens for job in batch) <= BUDGET
            alike = [job for job in waiting if (job.length, job.outputs) == (batch[0].length, batch[0].outputs)]
            assert all(a is b for a, b in zip(batch, alike, strict=False))
            assert len(batch) == len(alike) or sum(job.tokens for job in alike[: len(batch) + 1]) > BUDGET
            waiting = [job for job in waiting if not any(job is taken for taken in batch)]
        assert len(backlog) == len(waiting)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(budget=64)


@pytest.fixture
def shapes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The rows of each pass."""
    seen: list[tuple[int, ...]] = []
    real = engine._runs.run_many

    def run_many(passes: Any, outputs: Any) -> Any:
        seen.extend(ids.shape for ids in passes)
        return real(passes, outputs)

    monkeypatch.setattr(engine._runs, "run_many", run_many)
    return seen


async def test_rows_that_wait_together_share_passes_and_score_as_if_alone(
    engine: Engine, shapes: list[tuple[int, ...]]
) -> None:
    rng = np.random.default_rng(7)
    rows = [rng.integers(1000, 20_000, (1 + place % 3, 4 + place % 2)) for place in range(40)]
    made = await asyncio.gather(*(engine.run(ids, ["logits"]) for ids in rows))
    assert len(shapes) < len(rows) / 2
    assert max(count * length for count, length in shapes) <= 64
    for ids, [logits] in zip(rows, made, strict=True):
        for row, alone in zip(logits, ids, strict=True):
            [[found]] = engine._runs.run_many([alone[None]], ["logits"])
            assert (row == found[0]).all()


async def test_who_left_costs_no_pass(engine: Engine, shapes: list[tuple[int, ...]]) -> None:
    left = [asyncio.ensure_future(engine.run(np.full((2, 5 + place), 2000), ["logits"])) for place in range(40)]
    await asyncio.sleep(0)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    async with asyncio.timeout(60):
        await engine.run(np.full((1, 5), 2000), ["logits"])
    assert len(shapes) <= 2  # that which had begun, and the last


INFER = "/v2/models/minilm-heads/infer"
TENSOR = {"name": "input_ids", "shape": [1, 4], "datatype": "INT64", "data": [101, 2129, 2079, 102]}


def _asked(**changes: Any) -> dict[str, Any]:
    return {"id": "7", "inputs": [{**TENSOR, **changes}], "outputs": [{"name": "logits"}]}


ANSWERS: dict[str, tuple[str, str, Any, int, str]] = {
    "the server": ("GET", "/v2", b"", 200, "penstock-encoder"),
    "it lives": ("GET", "/v2/health/live", b"", 200, '"live":true'),
    "it is ready": ("GET", "/v2/health/ready", b"", 200, '"ready":true'),
    "the model": ("GET", "/v2/models/minilm-heads", b"", 200, '"INT64"'),
    "the model is ready": ("GET", "/v2/models/minilm-heads/ready", b"", 200, '"ready":true'),
    "another model": ("GET", "/v2/models/other", b"", 404, "no such model"),
    "another version": ("GET", "/v2/models/minilm-heads/versions/9", b"", 404, "no such model"),
    "a question": ("POST", INFER, _asked(), 200, '"id":"7"'),
    "all outputs": ("POST", INFER, {"inputs": [TENSOR]}, 200, '"embedding"'),
    "GET for POST": ("GET", INFER, b"", 405, "POST only"),
    "POST for GET": ("POST", "/v2", b"", 405, "GET only"),
    "no JSON": ("POST", INFER, b"{", 400, "no JSON"),
    "a list": ("POST", INFER, [], 400, "no object"),
    "nothing": ("POST", INFER, {}, 400, "one input"),
    "two inputs": ("POST", INFER, {"inputs": [TENSOR, TENSOR]}, 400, "one input"),
    "another name": ("POST", INFER, _asked(name="text"), 400, "one input"),
    "texts": ("POST", INFER, _asked(datatype="BYTES"), 400, "one input"),
    "words": ("POST", INFER, _asked(data=["x"] * 4), 400, "one input"),
    "another shape": ("POST", INFER, _asked(shape=[2, 4]), 400, "one input"),
    "no rows": ("POST", INFER, _asked(shape=[0, 4], data=[]), 400, "at most"),
    "too many rows": ("POST", INFER, _asked(shape=[MOST_ROWS + 1, 1], data=[5] * (MOST_ROWS + 1)), 400, "at most"),
    "too long": ("POST", INFER, _asked(shape=[1, 500], data=[5] * 500), 400, "at most"),
    "no such token": ("POST", INFER, _asked(data=[101, 2129, 10**6, 102]), 400, "token id"),
    "less than nought": ("POST", INFER, _asked(data=[101, -1, 5, 102]), 400, "token id"),
    "a huge number": ("POST", INFER, _asked(data=[101, 1e99, 5, 102]), 400, "one input"),
    "no such output": ("POST", INFER, {"inputs": [TENSOR], "outputs": [{"name": "x"}]}, 400, "each once"),
    "an output twice": ("POST", INFER, {"inputs": [TENSOR], "outputs": [{"name": "logits"}] * 2}, 400, "each once"),
    "outputs that are none": ("POST", INFER, {"inputs": [TENSOR], "outputs": [3]}, 400, "no list of names"),
    "too large": ("POST", INFER, b" " * (LARGEST + 1), 413, "at most"),
}  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "status", "words"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_the_protocol(engine: Engine, method: str, path: str, body: Any, status: int, words: str) -> None:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    found, said = await Protocol(engine).answer(method, path, raw)
    assert (found, words in said.decode()) == (status, True), said


def _read(name: str) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all((DEPLOY / "ray" / name).read_text()))


def test_the_config_names_what_there_is() -> None:
    [config] = _read("serve.yaml")
    [application] = config["applications"]
    module, _, name = application["import_path"].partition(":")
    source = (DEPLOY / "ray" / f"{module.replace('.', '/')}.py").read_text()
    assert f"def {name}(" in source
    for deployment in application["deployments"]:
        assert f'name="{deployment["name"]}"' in source


def test_the_cluster_serves_the_same() -> None:
    service, policy = _read("rayservice.yaml")
    assert YAML(typ="safe", pure=True).load(service["spec"]["serveConfigV2"]) == _read("serve.yaml")[0]
    cluster = service["spec"]["rayClusterConfig"]
    assert f"ray=={cluster['rayVersion']} " in (ROOT / "requirements" / "ray.lock").read_text()
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    callers = [rule["ports"][0]["port"] for rule in policy["spec"]["ingress"] if "ports" in rule]
    assert callers == [8000, 8265]


def test_the_image_tells_nobody_and_holds_what_is_served() -> None:
    stage = (DEPLOY / "Dockerfile").read_text().split("\nFROM debian:12-slim AS encoder\n")[1].split("\nFROM ")[0]
    assert "RAY_USAGE_STATS_ENABLED=0" in stage
    assert "USER 65532:65532" in stage
    assert orjson.loads(stage.split("CMD ")[1]) == ["run", "/opt/encoder/serve.yaml"]
    assert "COPY deploy/ray /opt/encoder" in (DEPLOY / "Dockerfile").read_text()

"""The mix of traffic is what it says it is, its requests are judged as the proxy judges them, and memory saves work."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from classifiers.base import Role
from classifiers.encoder import Encoder, Passes
from policies.load import load
from tests.bench import mix


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for sources in mix.SOURCES.values():
        for part, name in sources:
            (tmp_path / part).mkdir(exist_ok=True)
            with gzip.open(tmp_path / part / f"{name}.jsonl.gz", "wt", encoding="utf-8") as out:
                for number in range(20):
                    role = "tool_result" if name.startswith("tau") and number % 2 else "prompt"
                    out.write(json.dumps({"text": f"{name} says {number}", "role": role}) + "\n")
    return tmp_path


def test_the_mix_is_what_it_says(data: Path) -> None:
    requests = list(mix.conversations(mix.texts(data), 1000, random.Random(1)))
    first = [r for r in requests if len(r.messages) == 2]
    for kind, share in mix.SHARES.items():
        assert sum(r.kind == kind for r in first) == pytest.approx(10 * share, abs=45)
    for request in requests:
        last = Role.TOOL_RESULT if request.kind == "agent" and len(request.messages) > 2 else Role.USER
        assert request.messages[-1].role is last
        assert [m.role for m in request.messages[2::2]] == [Role.ASSISTANT] * (len(request.messages) // 2 - 1)


async def test_each_request_is_judged_and_memory_spares_the_history(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = list(mix.conversations(mix.texts(data), 5, random.Random(1)))
    counted: list[int] = []
    kept = Encoder.read_all

    def counting(self: Encoder, texts: Sequence[tuple[str, str]]) -> list[Passes]:
        counted.append(len(texts))
        return kept(self, texts)

    monkeypatch.setattr(Encoder, "read_all", counting)
    seen = {}
    for cold in (False, True):
        counted.clear()
        costs = await mix.measure(load("baseline"), requests, cold)
        assert len(costs) == len(requests)
        assert min(costs) > 0
        seen[cold] = sum(counted)
    users = [[m.text for m in r.messages if m.role in {Role.USER, Role.TOOL_RESULT}] for r in requests]
    assert seen[True] == sum(len(set(texts)) for texts in users)
    assert seen[False] == len({text for texts in users for text in texts})
    assert len(mix.table(requests, costs)) >= 3

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from policies.evaluate.dataset import Dataset, Options
from policies.evaluate.evaluation import Evaluation, evaluate, policy_subject

SMALL = Path(__file__).parent / "small"


@pytest.fixture(scope="session")
def small() -> Evaluation:
    """The run that can be counted by hand."""
    return evaluate(Dataset.open([SMALL / "rows.jsonl"], Options()), policy_subject(str(SMALL / "policy.yaml")))


def walk(value: object, path: Sequence[str]) -> object:
    """What stands at a dotted path of objects and lists."""
    for part in path:
        value = value[int(part)] if isinstance(value, list) else value[part]  # type: ignore[index]
    return value

"""Every target on its corpus, and on a fixed number of mutations of it."""

from __future__ import annotations

import pytest

from tests.fuzz.corpus import FOLDER, seeds
from tests.fuzz.mutate import mutations
from tests.fuzz.targets import TARGETS

COUNT = {"answers": 250, "policies": 60, "requests": 200, "sse": 150, "streams": 150, "normaliser": 300}
"""Mutations, so that each target takes a second or two; 600 of the others."""
LARGEST = 6000
"""Bytes of a seed that is mutated; larger ones are run as they are."""


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus(target: str) -> None:
    for data in seeds(target):
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_mutations(target: str) -> None:
    known = [data for data in seeds(target) if len(data) <= LARGEST] or seeds(target)[:1]
    for data in mutations(known, COUNT.get(target, 600), seed=20261128):
        try:
            TARGETS[target](data)
        except Exception as error:
            raise AssertionError(f"{target}: {data!r}") from error


def test_the_corpus_is_of_known_targets() -> None:
    assert {path.name for path in FOLDER.glob("*") if path.is_dir()} <= set(TARGETS)

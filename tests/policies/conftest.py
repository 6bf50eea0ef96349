from __future__ import annotations

import pytest

from classifiers import catalog

from .words import KIND


@pytest.fixture
def words_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog holds one kind, `words`, so that no test here hangs on real classifiers or on their number."""
    for kind in list(catalog.KINDS):
        monkeypatch.delitem(catalog.KINDS, kind)
    monkeypatch.setitem(catalog.KINDS, "words", KIND)

"""Few files: fewer exchanges at once, said at the start."""

from __future__ import annotations

import resource

import pytest

from proxy.config import load
from proxy.files import fitted, needed
from proxy.logs import captured

INFINITY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("files", "asked", "room"),
    [(48, 4096, 12), (1024, 4096, 448), (1024, 100, 100), (8320, 4096, 4096), (INFINITY, 4096, 4096), (3, 4096, 1)],
)
def test_no_more_exchanges_than_find_room(monkeypatch: pytest.MonkeyPatch, files: int, asked: int, room: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, files))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: None)
    settings = load(None, max_in_flight=asked)
    with captured() as lines:
        assert fitted(settings).max_in_flight == room
    assert len(lines) == (room < asked)
    if lines:
        assert f"LimitNOFILE={needed(settings)}" in lines[0]["mend"]

"""Parts outside of the process: states with names, told once each."""

from __future__ import annotations

from proxy.logs import captured
from proxy.metrics import Metrics
from proxy.parts import Parts


def test_a_change_is_told_once() -> None:
    parts = Parts(Metrics())
    with captured() as lines:
        parts.well("store")
        assert lines == []
        for detail in ("no connection", "no connection", "no answer within 1 s"):
            parts.ill("store", "away", detail, mend="start it", meanwhile="counted here")
        (line,) = lines
        assert (line["part"], line["state"], line["detail"]) == ("store", "away", "no connection")
        assert (line["mend"], line["meanwhile"], line["level"]) == ("start it", "counted here", "error")
        parts.ill("store", "refused", "HTTP 401", mend="put in a key")
        parts.well("store")
        assert [line["event"] for line in lines[1:]] == ["part is not well", "part is well again"]


def test_states_readiness_and_metric() -> None:
    metrics = Metrics()
    parts = Parts(metrics)
    parts.well("one", "version 3")
    parts.ill("two", "away", "no connection", mend="start it")
    parts.ill("three", "full", "", mend="make room", needed=True)
    assert parts.states() == {"one": "ready: version 3", "two": "away: no connection", "three": "full"}
    assert parts.missing() == {"three": "full"}
    page = metrics.page()[1].decode()
    assert 'penstock_part_up{part="one"} 1.0' in page
    assert 'penstock_part_up{part="three"} 0.0' in page
    parts.well("three")
    assert parts.missing() == {}

"""The chain shows every change, names the first one, and accuses nobody of what was not done."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.audit import AuditUnavailable, Key, Reader, Record, new_id
from proxy.audit.chain import Head, Row, link, verify
from proxy.audit.entry import COLUMNS
from proxy.audit.head import path_of
from proxy.audit.key import sealer
from proxy.audit.record import encode
from proxy.audit.seal import genesis, sealed
from proxy.audit.store import SqliteStore

KEY = Key(b"k" * 32)
ROWS = 12


def body(n: int) -> dict[str, object]:
    return {"action": "pass", "rule": None, "model": f"model-{n}", "scores": {"injection": n / 100}, "status": 200}


def ids(n: int) -> str:
    return f"pn_{n:026d}"


def write(path: Path, rows: int = ROWS, key: Key | None = KEY) -> Head:
    store = SqliteStore.open(path, sealer(key))
    # Outcomes throughout: an intent without one would be answered when the store closes.
    head = store.write([encode(Record(ids(n), "outcome", 1000.0 + n, body(n))) for n in range(1, rows + 1)])
    store.close()
    return head


def tamper(path: Path, script: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(script)
    db.close()


RENUMBER = "UPDATE records SET seq = -seq WHERE seq {}; UPDATE records SET seq = -seq {} WHERE seq < 0;"
SWAP = "UPDATE records SET seq = -1 WHERE seq = {0}; UPDATE records SET seq = {0} WHERE seq = {1}; "
SWAP += "UPDATE records SET seq = {1} WHERE seq = -1;"
COPY = "INSERT INTO records SELECT {}, id, kind, at, writer, {}, body, hash FROM records WHERE seq = {};"
NAMES = ", ".join(COLUMNS)

TAMPERING: dict[str, tuple[str, str, int, str]] = {
    # name: (SQL, what, seq of the break, id)
    "body": ("UPDATE records SET body = replace(body, 'pass', 'block') WHERE seq = 5", "edited", 5, ids(5)),
    "score": ("UPDATE records SET body = replace(body, '0.05', '0.95') WHERE seq = 5", "edited", 5, ids(5)),
    "body is no JSON": ("UPDATE records SET body = '{' WHERE seq = 5", "edited", 5, ids(5)),
    "body is no text": ("UPDATE records SET body = x'ff00' WHERE seq = 5", "edited", 5, ids(5)),
    "body is not UTF-8": ("UPDATE records SET body = CAST(x'ff80' AS TEXT) WHERE seq = 5", "edited", 5, ids(5)),
    "column": ("UPDATE records SET action = 'block' WHERE seq = 5", "edited", 5, ids(5)),
    "status": ("UPDATE records SET status = 403 WHERE seq = 12", "edited", 12, ids(12)),
    "status as text": ("UPDATE records SET status = '200' WHERE seq = 3", "edited", 3, ids(3)),
    "model": ("UPDATE records SET model = NULL WHERE seq = 1", "edited", 1, ids(1)),
    "time": ("UPDATE records SET at = at + 60 WHERE seq = 7", "edited", 7, ids(7)),
    "kind": ("UPDATE records SET kind = 'intent' WHERE seq = 7", "edited", 7, ids(7)),
    "id": ("UPDATE records SET id = 'pn_other' WHERE seq = 7", "edited", 7, "pn_other"),
    "writer": ("UPDATE records SET writer = 9 WHERE seq = 7", "edited", 7, ids(7)),
    "hash": ("UPDATE records SET hash = zeroblob(32) WHERE seq = 7", "edited", 7, ids(7)),
    "last row": ("UPDATE records SET at = 0 WHERE seq = 12", "edited", 12, ids(12)),
    "first of two": ("UPDATE records SET at = 0 WHERE seq IN (4, 9)", "edited", 4, ids(4)),
    "delete the first": ("DELETE FROM records WHERE seq = 1", "deleted", 1, "-"),
    "delete one": ("DELETE FROM records WHERE seq = 6", "deleted", 6, "-"),
    "delete some": ("DELETE FROM records WHERE seq BETWEEN 6 AND 8", "deleted", 6, "-"),
    "delete and renumber": (
        "DELETE FROM records WHERE seq = 6;" + RENUMBER.format("> 6", "- 1"),
        "deleted",
        6,
        "-",
    ),
    "delete two and renumber": (
        "DELETE FROM records WHERE seq IN (6, 7);" + RENUMBER.format("> 7", "- 2"),
        "deleted",
        6,
        "-",
    ),
    "swap neighbours": (SWAP.format(4, 5), "reordered", 4, ids(5)),
    "swap the first two": (SWAP.format(1, 2), "reordered", 1, ids(2)),
    "swap far": (SWAP.format(3, 9), "reordered", 3, ids(9)),
    "swap with the last": (SWAP.format(3, 12), "reordered", 3, ids(12)),
    "insert": (RENUMBER.format(">= 5", "+ 1") + COPY.format(5, NAMES, 9), "reordered", 5, ids(8)),
    "insert something new": (
        RENUMBER.format(">= 5", "+ 1")
        + COPY.format(5, NAMES, 9)
        + "UPDATE records SET id = 'pn_new', hash = randomblob(32) WHERE seq = 5",
        "inserted",
        5,
        "pn_new",
    ),
    "add at the end": (COPY.format(13, NAMES, 12), "reordered", 13, ids(12)),
    "cut one": ("DELETE FROM records WHERE seq = 12", "truncated", 12, ids(12)),
    "cut some": ("DELETE FROM records WHERE seq > 7", "truncated", 8, "-"),
    "cut all": ("DELETE FROM records", "truncated", 1, "-"),
    "other uuid": ("UPDATE meta SET value = 'x' WHERE name = 'uuid'", "edited", 1, ids(1)),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_the_first_break_is_named(tmp_path: Path, name: str) -> None:
    script, what, seq, id = TAMPERING[name]
    path = tmp_path / "a.db"
    write(path)
    with Reader(path) as log:
        assert log.verify(KEY).broken is None
    tamper(path, script)
    with Reader(path) as log:
        broken = log.verify(KEY).broken
    assert broken is not None
    assert (broken.what, broken.seq, broken.id) == (what, seq, id), broken


@pytest.mark.parametrize("name", ["cut one", "cut some", "cut all"])
def test_a_cut_tail_is_not_built_upon(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.db"
    write(path)
    tamper(path, TAMPERING[name][0])
    with pytest.raises(AuditUnavailable, match="gone") as error:
        SqliteStore.open(path, sealer(KEY))
    assert "verify" in error.value.mend


def test_without_a_key_a_recomputed_chain_is_still_caught_by_the_head(tmp_path: Path) -> None:
    """Whoever has the database alone can compute an unkeyed chain anew; the head file then disagrees."""
    path = tmp_path / "a.db"
    write(path, key=None)
    db = sqlite3.connect(path, isolation_level=None)
    seal = sealer(None)
    (uuid,) = db.execute("SELECT value FROM meta WHERE name = 'uuid'").fetchone()
    db.execute("UPDATE records SET at = 5 WHERE seq = 5")
    prev = genesis(seal, uuid).hash
    for row in db.execute("SELECT seq, id, kind, at, writer, body FROM records ORDER BY seq").fetchall():
        prev = link(seal, prev, *row)
        db.execute("UPDATE records SET hash = ? WHERE seq = ?", (prev, row[0]))
    db.close()
    with Reader(path) as log:
        broken = log.verify().broken
    assert broken is not None
    assert (broken.what, broken.seq, broken.id) == ("rewritten", 12, ids(12))


def test_an_older_head_file_put_back_is_caught_by_a_head_noted_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    write(path, 6)
    old = Path(path_of(path)).read_bytes()
    noted = write(path, 6)
    tamper(path, "DELETE FROM records WHERE seq > 6")
    Path(path_of(path)).write_bytes(old)
    with Reader(path) as log:
        assert log.verify(KEY).broken is None  # the documented limit
        broken = log.verify(KEY, noted).broken
    assert broken is not None
    assert (broken.what, broken.seq) == ("truncated", 7)


@pytest.mark.parametrize("damage", [b"", b"x", b"penstock-audit-head 1 0 00 - 00\n"])
def test_a_damaged_head_file_is_a_break(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.db"
    write(path)
    Path(path_of(path)).write_bytes(damage)
    with Reader(path) as log:
        broken = log.verify(KEY).broken
    assert broken is not None
    assert broken.what == "head"


def test_a_head_file_that_went_missing_leaves_a_note_in_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    write(path)
    Path(path_of(path)).unlink()
    with Reader(path) as log:
        verdict = log.verify(KEY)
        assert verdict.broken is None
        assert "missing" in verdict.notes[0]
    SqliteStore.open(path, sealer(KEY)).close()
    with Reader(path) as log:
        verdict = log.verify(KEY)
    assert verdict.broken is None
    assert verdict.rows == ROWS + 1
    assert "head file was missing" in verdict.notes[0]


def test_damage_to_the_file_itself_is_a_break(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    write(path, 400)
    page = bytearray(path.read_bytes())
    page_of_row = page.index(b'"model":"model-200","scores"') // 4096 * 4096  # what a body alone has
    page[page_of_row : page_of_row + 4096] = bytes(4096)
    path.write_bytes(page)
    with Reader(path) as log:
        assert log.verify(KEY).broken is not None


SEAL = KEY.seal
START = genesis(SEAL, "u")


def chain(count: int) -> list[Row]:
    rows, prev = [], START.hash
    for n in range(1, count + 1):
        entry = encode(Record(ids(n), "outcome", float(n), body(n)))
        text = entry[4].decode()
        prev = link(SEAL, prev, n, *entry[1:4], 1, text)
        rows.append(Row(n, *entry[1:4], 1, text, prev, entry[5:]))
    return rows


GOOD = chain(9)
EDITS: list[Callable[[Row], Row]] = [
    lambda r: r._replace(at=r.at + 0.5),
    lambda r: r._replace(writer=2),
    lambda r: r._replace(id=r.id + "x"),
    lambda r: r._replace(kind="intent"),
    lambda r: r._replace(body=r.body.replace("pass", "mask")),
    lambda r: r._replace(hash=r.hash[::-1]),
    lambda r: r._replace(columns=("block", *r.columns[1:])),
]
changes = st.one_of(
    st.tuples(st.just("edit"), st.integers(0, 8), st.sampled_from(range(len(EDITS)))),
    st.tuples(st.just("delete"), st.integers(0, 8), st.integers(1, 9)),
    st.tuples(st.just("swap"), st.integers(0, 8), st.integers(0, 8)),
    st.tuples(st.just("cut"), st.integers(0, 8), st.just(0)),
)


@settings(max_examples=300, deadline=None)
@given(changes)
def test_one_change_is_found_where_it_was_made(change: tuple[str, int, int]) -> None:
    """A property over the pure heart: the break is at the first touched row, and an untouched chain is whole."""
    how, at, other = change
    rows = list(GOOD)
    first = at + 1
    if how == "edit":
        rows[at] = EDITS[other](rows[at])
    elif how == "delete":
        del rows[at : at + other]
    elif how == "cut":
        del rows[at:]
    else:
        rows[at], rows[other] = (
            rows[other]._replace(seq=rows[at].seq),
            rows[at]._replace(seq=rows[other].seq),
        )
        first = min(at, other) + 1
    verdict = verify(lambda: rows, SEAL, START, [Head(9, GOOD[-1].hash, GOOD[-1].id)])
    if rows == GOOD:
        assert verdict.broken is None
        assert verdict.rows == 9
        return
    assert verdict.broken is not None
    assert verdict.broken.seq == first
    assert verdict.rows == first - 1
    named = {"edit": {"edited"}, "delete": {"deleted", "truncated"}, "cut": {"truncated"}, "swap": {"reordered"}}
    assert verdict.broken.what in named[how]


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(st.sampled_from(COLUMNS) | st.text(max_size=5), json, max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(bodies, st.floats(0, 2e9)), max_size=5), max_size=4), st.booleans())
def test_any_json_goes_in_and_verifies(
    tmp_path_factory: pytest.TempPathFactory, commits: list[list[tuple[dict[str, object], float]]], keyed: bool
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.db"
    key = KEY if keyed else None
    store = SqliteStore.open(path, sealer(key))
    for commit in commits:
        store.write([encode(Record(new_id(), "outcome", at, body)) for body, at in commit])
    store.close()
    with Reader(path) as log:
        verdict = log.verify(key)
    assert verdict.broken is None, verdict
    assert verdict.rows == sum(map(len, commits))


names = st.from_regex(r"[A-Za-z0-9_.:-]{1,64}", fullmatch=True)
times = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=300, deadline=None)
@given(names, st.sampled_from(["intent", "outcome"]), times, bodies, st.integers(1, 2**40), st.booleans())
def test_the_writer_seals_as_the_chain_is_defined(
    id: str, kind: Literal["intent", "outcome"], at: float, body: dict[str, object], seq: int, keyed: bool
) -> None:
    entry = encode(Record(id, kind, at, body))
    seal = sealer(KEY if keyed else None)
    stamp, body_ = entry[0], entry[4]
    assert sealed(seal, b"p" * 32, seq, stamp, 7, body_) == link(seal, b"p" * 32, seq, id, kind, at, 7, body_.decode())


@settings(max_examples=100, deadline=None)
@given(bodies)
def test_what_is_marked_as_aborted_verifies(tmp_path_factory: pytest.TempPathFactory, body: dict[str, object]) -> None:
    """Its body is made from the columns by the database: both must say the same, whatever they hold."""
    path = tmp_path_factory.mktemp("log") / "a.db"
    store = SqliteStore.open(path, KEY.seal)
    store.write([encode(Record("x", "intent", 1.0, body))])
    store.close()
    with Reader(path) as log:
        assert log.verify(KEY).broken is None
        found = log.exchange("x")
    assert found is not None
    assert found.outcome is not None
    assert found.outcome["status"] == "aborted"
    for name in ("policy", "model", "account"):
        if isinstance(body.get(name), str):
            assert found.outcome[name] == body[name]


def test_the_key_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.key"
    first = Key.load(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    again = Key.load(path)
    assert again.keyed_hash("alice") == first.keyed_hash("alice") != first.keyed_hash("bob")
    assert Key(b"x" * 32).keyed_hash("alice") != first.keyed_hash("alice")
    assert len(first.keyed_hash("alice")) == 32
    assert "alice" not in first.keyed_hash("alice")


@pytest.mark.parametrize(
    ("content", "mode", "problem", "mend"),
    [
        ("ab" * 32, 0o644, "open to every user", "chmod 600"),
        ("zz", 0o600, "hex digits", "put the old key back"),
        ("ab" * 8, 0o600, "fewer than 64", "put the old key back"),
        ("", 0o600, "fewer than 64", "put the old key back"),
    ],
)
def test_a_bad_key_file_is_refused(tmp_path: Path, content: str, mode: int, problem: str, mend: str) -> None:
    path = tmp_path / "audit.key"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(AuditUnavailable, match=problem) as error:
        Key.load(path)
    assert mend in error.value.mend
    assert "ab" * 8 not in str(error.value)


def test_no_directory_for_the_key(tmp_path: Path) -> None:
    with pytest.raises(AuditUnavailable, match="cannot make the key file"):
        Key.load(tmp_path / "no" / "audit.key")
    with pytest.raises(AuditUnavailable, match="No such file"):
        Key.load(tmp_path / "audit.key", create=False)


def test_hmac_is_hmac() -> None:
    import hashlib
    import hmac

    secret = b"s" * 32
    sub = hmac.digest(secret, b"penstock audit chain 1", hashlib.sha256)
    assert Key(secret).seal(b"data") == hmac.digest(sub, b"data", hashlib.sha256)

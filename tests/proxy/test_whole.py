"""A disk that takes a part of what is written: nothing good is replaced by half of it, and nobody is told it is well.

The kernel stands in for the disk: no file of this process may grow past so many bytes (RLIMIT_FSIZE), and a write
across that line is cut there, as on a disk that is nearly full.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy import whole
from proxy.accounts import revoked
from proxy.accounts.file import KeyFile, KeysUnavailable
from proxy.accounts.record import KeyRecord
from proxy.audit import AuditUnavailable, Key
from proxy.audit.head import HeadFile
from proxy.audit.seal import Head
from proxy.policy_store import Store, StoreError

ID = "key_0123456789ab"


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """No file may grow past `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def record(number: int) -> KeyRecord:
    return KeyRecord(id=f"key_{number:012x}", digest=f"{number:064x}", name=f"k{number}", account="team-a", created=1.0)


def test_a_part_is_followed_by_the_rest() -> None:
    """A socket that takes little at once: what is written in one piece arrives in one piece."""
    ours, theirs = socket.socketpair()
    data, got = os.urandom(4 << 20), bytearray()
    with ours, theirs:
        ours.settimeout(None)

        def read() -> None:
            while part := theirs.recv(1 << 16):
                got.extend(part)

        thread = threading.Thread(target=read)
        thread.start()
        whole.write(ours.fileno(), data)
        ours.shutdown(socket.SHUT_WR)
        thread.join(30)
    assert bytes(got) == data


def test_what_is_cut_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, room(100), pytest.raises(OSError, match="too large"):
        whole.write(file.fileno(), bytes(101))
    assert (tmp_path / "file").stat().st_size == 100


def test_keys_outlast_a_full_disk(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.change(lambda keys: [record(number) for number in range(30)])
    good = file.path.read_bytes()
    with room(len(good) // 2), pytest.raises(KeysUnavailable, match=r"keys\.json: .*\(nothing was changed\)"):
        file.change(lambda keys: [*keys, record(99)])
    assert file.path.read_bytes() == good
    assert len(file.read()) == 30
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("keys.json.")] == ["keys.json.lock"]


def test_a_revocation_that_is_not_on_the_disk_is_not_said_to_be(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    with room(8), pytest.raises(KeysUnavailable, match=r"keys\.revoked"):
        file.revoke(ID, 5)
    assert revoked.read(file.revoked_path) == {}
    file.revoke(ID, 5)  # behind what was cut short
    assert revoked.read(file.revoked_path) == {ID: 5}


def test_half_a_secret_is_none(tmp_path: Path) -> None:
    path = tmp_path / "audit.key"
    with room(20), pytest.raises(AuditUnavailable, match="cannot make the key file"):
        Key.load(path)
    assert list(tmp_path.iterdir()) == []
    Key.load(path)


def test_half_a_head_is_an_error(tmp_path: Path) -> None:
    file = HeadFile(str(tmp_path / "audit.db-head"), Key(bytes(32)).seal)
    head = Head(7, bytes(32), "pn_7")
    with room(60), pytest.raises(OSError, match="too large"):
        file.write(head)
    file.write(head)
    assert file.read() == head
    file.close()


def test_a_line_of_history_that_was_cut_takes_no_other_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "policies")
    store.note("loaded", "aa", source="x")
    size = (store.root / "history.jsonl").stat().st_size
    with room(size + 20), pytest.raises(StoreError):
        store.note("pinned", "aa")
    store.note("loaded", "bb", source="x")
    store.note("loaded", "cc", source="x")
    assert [line["revision"] for line in store.history()] == ["aa", "bb", "cc"]

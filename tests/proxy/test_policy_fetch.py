"""A signed policy from a web server: what is taken, what is not, and what serves when the server does not."""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from proxy import keeper, policy_fetch
from proxy.bundle import BundleError, make_key, opened, pack, sign, verify
from proxy.cli import app
from proxy.config import ConfigError, load
from proxy.doctor.base import Place, State
from proxy.doctor.checks import check_policy
from proxy.policy_fetch import Fetched
from proxy.policy_store import FetchError, Files
from proxy.server import CannotServe, serving
from tests.proxy.conftest import DEFAULTS, RULES, Make
from tests.servers.names import hanging

pytest.importorskip("cryptography")

PRIVATE, PUBLIC = make_key()
FIRST = RULES.format(**DEFAULTS)
SECOND = FIRST.replace("kind: canary, inline", "kind: canary, word: ODD, inline", 1)


class Site:
    """A web server of some files, with ETags; `asked` are the paths and the answers."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, int]] = []
        self.tag = ""
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                raw = site.files.get(self.path)
                tag = site.tag or f'"{hash(raw)}"'
                status = 404 if raw is None else 304 if self.headers.get("if-none-match") == tag else 200
                site.asked.append((self.path, status))
                self.send_response(status)
                if status == 200:
                    self.send_header("etag", tag)
                    self.send_header("content-length", str(len(raw or b"")))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(raw if status == 200 and raw else b"")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/bundle.tar"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def put(self, raw: bytes, private: bytes = PRIVATE) -> None:
        self.files = {"/bundle.tar": raw, "/bundle.tar.sig": sign(raw, private).encode()}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def bundle(text: str, created: float = 1.0) -> bytes:
    return pack(Files((("/somewhere/p.yaml", text.encode()),)), "r1", created)


def test_what_is_packed_comes_out(tmp_path: Path) -> None:
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "h.json").write_text("{}")
    files = Files(
        ((str(tmp_path / "p" / "a.yaml"), b"a"), (str(tmp_path / "p" / "b.yaml"), b"b")),
        (tmp_path / "p" / ".." / "heads" / "h.json",),
    )
    raw = pack(files, "r1", 5.0)
    assert raw == pack(files, "r1", 5.0)
    found = opened(raw)
    assert (found.revision, found.created, found.entry) == ("r1", 5.0, "p")
    assert found.files == {"p/a.yaml": b"a", "p/b.yaml": b"b", "heads/h.json": b"{}"}
    with pytest.raises(BundleError, match="absolute path"):
        pack(Files(files.sources, (tmp_path / "heads",)), "r1", 5.0)


def tar_of(*members: tuple[str, bytes, Any]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = (len(content), kind) if kind == tarfile.REGTYPE else (0, kind)
            info.linkname = "/etc/passwd" if kind != tarfile.REGTYPE else ""
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


GOOD_HEAD = ("bundle.json", b'{"format": 1, "revision": "r", "created": 1, "entry": "p.yaml"}', tarfile.REGTYPE)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no tar",
        tar_of(),
        tar_of(("bundle.json", b"[]", tarfile.REGTYPE)),
        tar_of(("bundle.json", GOOD_HEAD[1].replace(b": 1,", b": 2,", 1), tarfile.REGTYPE)),
        tar_of(("bundle.json", GOOD_HEAD[1].replace(b"p.yaml", b"../p"), tarfile.REGTYPE)),
        tar_of(GOOD_HEAD, ("files/../../evil", b"x", tarfile.REGTYPE)),
        tar_of(GOOD_HEAD, ("/etc/evil", b"x", tarfile.REGTYPE)),
        tar_of(GOOD_HEAD, ("evil", b"x", tarfile.REGTYPE)),
        tar_of(GOOD_HEAD, ("files/p.yaml", b"", tarfile.SYMTYPE)),
        tar_of(GOOD_HEAD, ("files/p.yaml", b"", tarfile.LNKTYPE)),
        tar_of(GOOD_HEAD, ("files/p.yaml", b"", tarfile.CHRTYPE)),
        tar_of(GOOD_HEAD, *((f"files/{n}", b"", tarfile.REGTYPE) for n in range(1001))),
    ],
)
def test_a_tar_that_is_not_ours(raw: bytes) -> None:
    with pytest.raises(BundleError):
        opened(raw)


def test_signatures() -> None:
    raw, other = bundle(FIRST), make_key()
    signature = sign(raw, PRIVATE)
    verify(raw, signature + "\n", PUBLIC)
    for wrong in (
        (raw + b"\0", signature, PUBLIC),
        (raw, sign(raw, other[0]), PUBLIC),
        (raw, signature, other[1]),
        (raw, "penstock-signature-1:AAAA", PUBLIC),
        (raw, signature.removeprefix("penstock-"), PUBLIC),
        (raw, signature, "penstock-ed25519:AAAA"),
        (raw, signature, ""),
        (raw, "", PUBLIC),
    ):
        with pytest.raises(BundleError):
            verify(*wrong)
    with pytest.raises(BundleError, match="not a private key"):
        sign(raw, b"-----BEGIN nothing-----")


def test_only_what_is_signed_is_taken_and_nothing_older(site: Site, tmp_path: Path) -> None:
    fetched = Fetched(tmp_path / "f", site.url, PUBLIC)

    def refused(word: str) -> None:
        with pytest.raises(FetchError, match=word):
            fetched.refresh()
        assert word in fetched.problem

    refused("404")
    assert (fetched.newest, fetched.accepted) == (None, None)
    site.put(bundle(FIRST, 5), make_key()[0])
    refused("does not fit")
    assert not (tmp_path / "f").exists()
    site.put(bundle(FIRST, 5))
    fetched.refresh()
    first = fetched.newest
    assert first is not None
    assert Path(first).read_text() == FIRST
    assert fetched.problem == ""
    before = len(site.asked)
    fetched.refresh()
    assert site.asked[before:] == [("/bundle.tar", 304)]
    assert fetched.accepted is None
    fetched.accept("elsewhere")
    assert fetched.accepted is None
    fetched.accept(first)
    assert Fetched(tmp_path / "f", site.url, PUBLIC).newest == first
    site.put(bundle(SECOND, 4))
    refused("packed before")
    site.put(bundle(SECOND, 6))
    fetched.refresh()
    assert fetched.newest != first
    site.files["/bundle.tar"] = b"x" * (17 << 20)
    refused("larger than")
    site.close()
    refused("cannot be reached")


@pytest.mark.parametrize("ahead", [policy_fetch.AHEAD + 60, 10 * 365 * 86_400, 1e300, math.inf, math.nan])
def test_a_packers_clock_that_is_ahead_keeps_nothing_out(site: Site, tmp_path: Path, ahead: float) -> None:
    fetched = Fetched(tmp_path / "f", site.url, PUBLIC)
    site.put(bundle(FIRST, time.time() + ahead))
    with pytest.raises(FetchError, match=r"it says that it was packed at .*, and here it is 2\d\d\d-"):
        fetched.refresh()
    assert not (tmp_path / "f").exists()
    site.put(bundle(FIRST, time.time() + policy_fetch.AHEAD / 2))
    fetched.refresh()
    assert fetched.newest is not None


def test_one_in_force_from_a_clock_that_was_ahead_is_told_with_its_mend(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an older Penstock took it, or this machine before its own clock was set right."""
    home, now = tmp_path / "f", time.time()
    fetched = Fetched(home, site.url, PUBLIC)
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda: now + 1e8)
        site.put(bundle(FIRST, now + 1e8))
        fetched.refresh()
        fetched.accept(str(fetched.newest))
    site.put(bundle(SECOND, now))
    with pytest.raises(FetchError, match=f"remove {home / 'accepted.json'}, and this one is taken"):
        fetched.refresh()
    (home / "accepted.json").unlink()
    fetched.refresh()
    assert Path(str(fetched.newest)).read_text() == SECOND


@pytest.mark.parametrize("tag", ['"\xe9"', "x" * 30_000, '"\xff\xfe"', ""])
def test_a_server_with_strange_tags(site: Site, tmp_path: Path, tag: str) -> None:
    """What cannot be sent back is not: the next one is fetched all the same."""
    fetched, site.tag = Fetched(tmp_path / "f", site.url, PUBLIC), tag
    for number, text in enumerate((FIRST, SECOND)):
        site.put(bundle(text, number))
        fetched.refresh()
        assert fetched.newest is not None
        assert Path(fetched.newest).read_text() == text


async def test_a_look_that_fails_does_not_end_the_watch(
    stand: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOOK", 0.02)
    look, failed = keeper.Keeper._look, [0]

    def failing(kept: keeper.Keeper, **how: Any) -> dict[str, object]:
        if failed[0] < 2 and not how:
            failed[0] += 1
            raise RuntimeError("a fault of ours")
        return look(kept, **how)

    monkeypatch.setattr(keeper.Keeper, "_look", failing)
    async with stand(settings={"watch_policy": True}) as s:
        first = s.running.keepers[""].revision
        await until(lambda: failed[0] == 2)
        (tmp_path / "policy.yaml").write_text(SECOND)
        await until(lambda: s.running.keepers[""].revision != first)


class Drip(threading.Thread):
    """A server that sends a letter of its bundle now and then, for ever."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/bundle.tar"
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                there, _ = self.socket.accept()
                with contextlib.suppress(OSError), there:
                    there.recv(10_000)
                    there.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
                    while True:
                        there.sendall(b"x")
                        time.sleep(0.01)


def test_a_server_that_drips_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_fetch, "WHOLE", 0.3)
    drip = Drip()
    fetched = Fetched(tmp_path, drip.url, PUBLIC)
    with pytest.raises(FetchError, match="it is not there after"):
        fetched.refresh()
    drip.socket.close()


async def test_nobody_waits_for_the_servers_name(site: Site, stand: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs: pins hold at once, and the process ends."""
    monkeypatch.setattr(keeper, "LOOK", 0.02)
    port = site.url.rpartition(":")[2].partition("/")[0]
    settings = {"policy": site.url, "policy_public_key": PUBLIC, "policy_poll": 0.02}
    site.put(bundle(FIRST, 1))
    async with stand(settings=settings) as s:
        kept = s.running.keepers[""]
        first = kept.revision
        site.put(bundle(SECOND, 2))
        await until(lambda: kept.revision != first)
        fetched = kept._fetched
        assert fetched is not None
        fetched.url = f"http://slow.example:{port}/bundle.tar"
        with hanging(monkeypatch, "slow.example") as asked:
            await until(lambda: asked)
            kept.store.pin(first)
            await until(lambda: kept.revision == first)
            assert [thread.daemon for thread in threading.enumerate() if thread.name == "policy"] == [True]
            assert len(asked) == 1
    assert len(asked) == 1


async def until(true: Any, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)


async def test_a_fleet_follows_its_server(
    site: Site, stand: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOOK", 0.05)
    settings: dict[str, Any] = {"policy": site.url, "policy_public_key": PUBLIC, "policy_poll": 0.1}
    site.put(bundle(FIRST, 1))
    async with stand(settings=settings) as s:
        kept = s.running.keepers[""]
        first = kept.revision
        assert (await s.chat("MARK")).status_code == 400
        site.put(bundle(SECOND, 2))
        await until(lambda: kept.revision != first)
        second = kept.revision
        assert (await s.chat("ODD")).status_code == 400
        site.put(bundle("id: broken", 3))
        await until(lambda: kept.state["last_failure"])
        assert "p.yaml" in kept.state["last_failure"]["problem"]
        assert kept.revision == second
        site.files = {}
        await until(lambda: "404" in kept.state["last_failure"]["problem"])
    # A restart without the server, and one with a server that has only a broken one: the last good one serves.
    async with stand(settings=settings) as s:
        assert s.running.keepers[""].revision == second
    site.put(bundle("id: broken", 9))
    async with stand(settings=settings) as s:
        assert s.running.keepers[""].revision == second
        site.put(bundle(FIRST, 10))
        await until(lambda: s.running.keepers[""].revision == first)
        assert s.running.keepers[""].state["last_failure"] is None
    site.files = {}
    with pytest.raises(CannotServe, match="the server answered 404"):
        async with serving(load(None, upstream="http://127.0.0.1:9", data_dir=tmp_path / "new", port=0, **settings)):
            pass


def test_the_doctor_asks_the_server(site: Site) -> None:
    settings = load(None, policy=site.url, policy_public_key=PUBLIC)
    place = Place(settings, (0.0, 0.0))
    (missing,) = check_policy(place)
    assert (missing.state, "404" in missing.detail) == (State.WRONG, True)
    site.put(bundle(FIRST))
    assert State.WELL in {found.state for found in check_policy(place)}


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"policy": "https://a.example/b.tar"}, "policy_public_key"),
        ({"policy": "https://a.example/b.tar", "policy_public_key": "x"}, "penstock-ed25519:"),
        ({"policy": "http://a.example/b.tar", "policy_public_key": PUBLIC}, "https"),
        ({"policy": "https://me:word@a.example/b.tar", "policy_public_key": PUBLIC}, "leave out"),
        ({"policies": {"strict": "https://a.example/b.tar"}}, "policy_public_key"),
    ],
)
def test_settings_of_a_url(given: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        load(None, **given)


def run(*args: object) -> Result:
    result = CliRunner().invoke(app, ["policy", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_by_hand(tmp_path: Path) -> None:
    tar, key = tmp_path / "b.tar", tmp_path / "k"
    public = run("keygen", key).output.strip()
    assert key.stat().st_mode & 0o077 == 0
    assert run("keygen", key).exit_code == 1
    assert run("pack", "observe", "-o", tar).exit_code == 0
    assert run("verify", tar, "--public-key", public).exit_code == 1
    assert run("sign", tar, "--key", key).exit_code == 0
    told = run("verify", tar, "--public-key", public)
    assert told.exit_code == 0
    assert "observe.yaml" in told.output
    assert run("verify", tar, "--public-key", PUBLIC).exit_code == 1
    (tmp_path / "bad.yaml").write_text("id: x")
    assert run("pack", tmp_path / "bad.yaml", "-o", tar).exit_code == 1
    assert run("pack", tmp_path / "none", "-o", tar).exit_code == 1
    assert run("sign", key, "--key", key).exit_code == 1

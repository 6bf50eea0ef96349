"""P3 and P4: one whole policy at a time, the last good one whatever is written, and back with one command."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from classifiers.catalog import OptionError
from policies.load import load, sources
from proxy import keeper, outside, policy_store
from proxy.policy_store import Files, Store, StoreError
from proxy.reloading import reload
from proxy.server import CannotServe, bound
from tests.proxy import kinds
from tests.proxy.conftest import DEFAULTS, RULES, Make, Stand

FIRST = RULES.format(**DEFAULTS)
SECOND = FIRST.replace("kind: canary, inline", "kind: canary, word: ODD, inline", 1)
THIRD = FIRST.replace("kind: canary, inline", "kind: canary, word: EVEN, inline", 1)
BROKEN = ["", "rules: [", FIRST[: len(FIRST) // 2], FIRST.replace("canary.mark", "canary.none"), "id: 3", "\x00"]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "LOOK", 0.05)
    monkeypatch.setattr(outside, "LOOK", 0.05)


def policy(*args: object) -> Result:
    from proxy.cli import app

    result = CliRunner().invoke(app, ["policy", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


async def told(*args: object) -> Result:
    return await asyncio.to_thread(policy, *args)


async def until(true: Callable[[], Any], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)


def revision(s: Stand) -> str:
    return s.running.plane.guards[""].policies.revision


async def write_in_place(path: Path, text: str) -> None:
    path.write_text(text)


async def write_aside(path: Path, text: str) -> None:
    """As most editors do: another file takes the place."""
    aside = path.with_suffix(".tmp")
    aside.write_text(text)
    aside.replace(path)


async def write_in_steps(path: Path, text: str) -> None:
    """As the others do: emptied, then written."""
    with path.open("w") as out:
        out.flush()
        await asyncio.sleep(0.02)
        out.write(text[:50])
        out.flush()
        await asyncio.sleep(0.02)
        out.write(text[50:])


async def write_with_backup(path: Path, text: str) -> None:
    path.rename(path.with_suffix(".yaml~"))
    path.write_text(text)


@pytest.mark.parametrize("save", [write_in_place, write_aside, write_in_steps, write_with_backup])
async def test_a_saved_file_is_in_force_soon(
    stand: Make, tmp_path: Path, save: Callable[[Path, str], Awaitable[None]]
) -> None:
    async with stand(settings={"watch_policy": True}) as s:
        before = revision(s)
        await save(tmp_path / "policy.yaml", SECOND)
        await until(lambda: revision(s) != before)
        assert (await s.chat("ODD")).status_code == 400
        second, failures = revision(s), list[Any]()
        for text in BROKEN:
            failures.append(s.running.keepers[""].state["last_failure"])
            await save(tmp_path / "policy.yaml", text)
            await until(lambda: s.running.keepers[""].state["last_failure"] not in failures)
            assert revision(s) == second
        await save(tmp_path / "policy.yaml", FIRST)
        await until(lambda: revision(s) == before)
        assert s.running.keepers[""].state["last_failure"] is None


async def test_an_unwatched_file_waits_to_be_loaded(stand: Make, tmp_path: Path) -> None:
    async with stand() as s:
        before = revision(s)
        (tmp_path / "policy.yaml").write_text(SECOND)
        await asyncio.sleep(0.3)
        assert revision(s) == before
        response = await s.client.post(s.admin_url + "/policy/reload")
        assert response.status_code == 200
        assert response.json()["revision"] == revision(s) != before


async def test_the_admin_listener_says_what_is_wrong(stand: Make, tmp_path: Path) -> None:
    async with stand() as s:
        before = revision(s)
        (tmp_path / "policy.yaml").write_text(FIRST.replace("at_least: 0.5", "at_least: 0", 1))
        response = await s.client.post(s.admin_url + "/policy/reload")
        assert response.status_code == 409
        assert response.json()["revision"] == before
        assert "at_least" in response.json()["last_failure"]["problem"]
        page = (await s.client.get(s.admin_url + "/metrics")).text
        assert 'penstock_policy_reloads_total{result="refused"} 1.0' in page
        (line,) = [x for x in page.splitlines() if x.startswith("penstock_policy_reload_failed_timestamp_seconds ")]
        assert float(line.split()[1]) > 1e9


TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("settings", "headers", "status"),
    [
        ({}, {}, 200),
        ({}, {"origin": "https://evil.example"}, 403),
        ({}, {"host": "evil.example:8701"}, 403),
        ({}, {"host": "localhost.evil.example"}, 403),
        ({}, {"host": "[::1]:8701"}, 200),
        ({}, {"host": "LOCALHOST"}, 200),
        ({"admin_token": TOKEN}, {"authorization": f"Bearer {TOKEN}", "host": "penstock.internal"}, 200),
        ({"admin_host": "0.0.0.0"}, {}, 403),
        ({"admin_token": TOKEN}, {}, 401),
        ({"admin_token": TOKEN}, {"authorization": f"Bearer {TOKEN}x"}, 401),
        ({"admin_token": TOKEN, "admin_host": "0.0.0.0"}, {"authorization": f"Bearer {TOKEN}"}, 200),
    ],
)
async def test_who_may_load_a_policy(
    stand: Make, settings: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    async with stand(settings=settings) as s:
        url = f"http://127.0.0.1:{s.running.admin_address[1]}/policy/reload"
        assert (await s.client.post(url, headers=headers)).status_code == status
        reviews = url.replace("/policy/reload", "/reviews")
        assert (await s.client.get(reviews, headers=headers)).status_code == status
        assert (await s.client.get(url, headers=headers)).status_code == 405


async def test_back_with_one_command(stand: Make, tmp_path: Path) -> None:
    data = ("--data-dir", tmp_path / "data")
    async with stand() as s:
        revisions = [revision(s)]
        for text in (SECOND, THIRD):
            (tmp_path / "policy.yaml").write_text(text)
            assert await reload(s.running)
            revisions.append(revision(s))
        for expected, word in ((revisions[1], "ODD"), (revisions[0], "MARK")):
            result = await told("rollback", *data)
            assert result.exit_code == 0, result.output
            assert revision(s) == expected
            assert (await s.chat(word)).status_code == 400
        assert (await told("rollback", *data)).exit_code == 1
        # What is pinned stays, whatever is written or loaded.
        assert await reload(s.running)
        assert revision(s) == revisions[0]
        status = json.loads((await told("status", "--json", *data)).stdout)
        assert status["pinned"] == revisions[0]
        assert [(each["pid"], each["revision"]) for each in status["processes"]] == [(os.getpid(), revisions[0])]
        assert (await told("activate", revisions[2][:6], *data)).exit_code == 0
        assert revision(s) == revisions[2]
        assert (await told("activate", revisions[1], *data)).exit_code == 0
    async with stand(FIRST) as s:
        assert revision(s) == revisions[1]  # it survives a restart
        assert "the setting" in (await told("unpin", *data)).output
        await until(lambda: revision(s) == revisions[0])
        events = [json.loads(line)["event"] for line in (await told("history", "--json", *data)).stdout.splitlines()]
        assert events[:5] == ["loaded", "loaded", "loaded", "pinned", "loaded"]
        shown = (await told("show", revisions[2], *data)).output
        assert "word: EVEN" in shown
    assert "no process" in (await told("status", *data)).output


async def test_a_start_with_a_broken_file_after_a_good_one(stand: Make, tmp_path: Path) -> None:
    """P3: refused, with the way to start all the same; and that way, told everywhere until the file is mended."""
    path, data = tmp_path / "policy.yaml", ("--data-dir", tmp_path / "data")
    async with stand() as s:
        path.write_text(SECOND)
        assert await reload(s.running)
        second = revision(s)
    broken = FIRST.replace("at_least: 0.5", "at_least: 0", 1)
    with pytest.raises(CannotServe, match="at_least") as refused:
        async with stand(broken):
            pass
    assert f"on_broken_policy: last_good starts with it, and `penstock policy activate {second}`" in str(refused.value)
    async with stand(broken, settings={"on_broken_policy": "last_good"}) as s:
        assert (await s.chat("ODD")).status_code == 400
        failure = s.running.keepers[""].state["last_failure"]
        assert "at_least" in failure["problem"]
        page = (await s.client.get(s.admin_url + "/metrics")).text
        assert 'penstock_policy_reloads_total{result="refused"} 1.0' in page
        await until(lambda: s.running.states()["parts"].get("policy", "").startswith("refused: "))
        status = await told("status", *data)
        assert status.exit_code == 1
        assert second in status.output
        assert "at_least" in status.output
        # No change of a file: what keeps the newest from being loaded may lie elsewhere.
        assert not await reload(s.running)
        assert revision(s) == second
        path.write_text(THIRD)  # nobody asked for its files to be watched, and yet
        await until(lambda: revision(s) != second)
        await until(lambda: s.running.states()["parts"]["policy"] == "ready")
        assert (await s.chat("EVEN")).status_code == 400
        assert s.running.keepers[""].state["last_failure"] is None
        third = revision(s)
        path.write_text(FIRST)
        await asyncio.sleep(0.3)
        assert revision(s) == third  # from here on it is as ever


async def test_a_fault_of_ours_while_it_is_loaded_is_told(
    stand: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stand(settings={"watch_policy": True}) as s:
        first = revision(s)
        with monkeypatch.context() as broken:
            broken.setattr(keeper, "check", lambda *_, **__: 1 / 0)
            (tmp_path / "policy.yaml").write_text(SECOND)
            await until(lambda: s.running.states()["parts"].get("policy", "").startswith("refused: "))
            assert "a fault of ours" in s.running.keepers[""].state["last_failure"]["problem"]
            assert revision(s) == first
        assert await reload(s.running)
        assert revision(s) != first
    monkeypatch.setattr(keeper, "check", lambda *_, **__: 1 / 0)
    with pytest.raises(CannotServe, match=r"policy\.yaml: a fault of ours while it was loaded: ZeroDivisionError"):
        async with stand(settings={"policy": str(tmp_path / "policy.yaml")}):
            pass


async def test_what_stands_in_is_tried_again(stand: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps a policy from being loaded may be a file that it names, or a server: none of its own files changes."""
    monkeypatch.setattr(keeper, "AGAIN", 0.2)
    async with stand(FIRST) as s:
        first = revision(s)
    back = away(monkeypatch)
    async with stand(SECOND, settings={"on_broken_policy": "last_good"}) as s:
        assert revision(s) == first
        assert "its server is away" in s.running.keepers[""].state["last_failure"]["problem"]
        back()
        await until(lambda: revision(s) != first)
        assert (await s.chat("ODD")).status_code == 400


async def test_what_is_watched_is_tried_again(stand: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise where the policy was saved while a server was away."""
    monkeypatch.setattr(keeper, "AGAIN", 0.2)
    back = away(monkeypatch)
    async with stand(settings={"watch_policy": True}) as s:
        first = revision(s)
        (tmp_path / "policy.yaml").write_text(SECOND)
        await until(lambda: s.running.keepers[""].state["last_failure"])
        back()
        await until(lambda: revision(s) != first)
        assert s.running.keepers[""].state["last_failure"] is None
        kept = Store(tmp_path / "data" / "policies")
        await until(lambda: len(list(kept.history())) >= 3)  # written once the new revision decides
        events = [line["event"] for line in kept.history()]
        assert events == ["loaded", "refused", "loaded"]  # said once, however often it was tried


def away(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """SECOND cannot be loaded, until what is answered is called."""
    made, gone = kinds.Canary.from_options, [True]

    def from_options(name: str, options: Mapping[str, Any]) -> kinds.Canary:
        if gone and options.get("word") == "ODD":
            raise OptionError("word", "its server is away")
        return made(name, options)

    monkeypatch.setattr(kinds.Canary, "from_options", from_options)
    return gone.clear


def test_a_history_that_has_not_begun_says_so(tmp_path: Path) -> None:
    assert policy("history", "--data-dir", tmp_path).output.startswith("nothing was loaded under ")
    assert policy("history", "--json", "--data-dir", tmp_path).output == ""


@pytest.mark.parametrize("before", ["nothing", "another file", "changed since"])
async def test_a_start_with_nothing_to_begin_with(stand: Make, tmp_path: Path, before: str) -> None:
    """No revision of this policy was ever good, or it decides otherwise by now: nothing else takes its place."""
    settings = {"on_broken_policy": "last_good"}
    if before != "nothing":
        (tmp_path / "other.yaml").write_text(FIRST)
        async with stand(settings={"policy": str(tmp_path / "other.yaml")} if before == "another file" else {}) as s:
            kept = Path(Store(tmp_path / "data" / "policies").get(revision(s)).entry)
        if before == "changed since":
            kept.write_text(SECOND)
    with pytest.raises(CannotServe, match="decides otherwise" if before == "changed since" else "policy.yaml:1") as no:
        async with stand("rules: [", settings=settings):
            pass
    assert "policy.yaml:1" in str(no.value)


async def test_what_cannot_be_put_back(stand: Make, tmp_path: Path) -> None:
    data = ("--data-dir", tmp_path / "data")
    async with stand() as s:
        first = revision(s)
        (tmp_path / "policy.yaml").write_text(SECOND)
        assert await reload(s.running)
        second = revision(s)
        assert "no such revision" in (await told("activate", "0" * 12, *data)).output
        kept = Path(Store(tmp_path / "data" / "policies").get(first).entry)
        kept.write_text(THIRD)
        assert "decides otherwise" in (await told("activate", first, *data)).output
        kept.write_text("id: [")
        assert (await told("activate", first, *data)).exit_code == 1
        assert revision(s) == second
        # Somebody pins it by hand: it is refused, seen, and nothing changes.
        Store(tmp_path / "data" / "policies").pin(first)
        await until(lambda: s.running.keepers[""].state["last_failure"])
        assert revision(s) == second
        status = await told("status", *data)
        assert status.exit_code == 1
        assert "not loaded" in status.output


async def test_a_thousand_loads_under_traffic(stand: Make, tmp_path: Path) -> None:
    """P3: truncated, invalid, empty and swapped files; each row names one revision that was whole, and what was done is
    what that revision does."""
    async with stand() as s:
        path, words = tmp_path / "policy.yaml", {revision(s): "MARK"}
        for text, word in ((SECOND, "ODD"), (THIRD, "EVEN")):
            path.write_text(text)
            assert await reload(s.running)
            words[revision(s)] = word
        over = asyncio.Event()
        answers: list[tuple[str, int]] = []

        async def ask() -> None:
            while not over.is_set():
                for word in ("MARK", "ODD", "EVEN", "plain"):
                    status = (await s.chat(word)).status_code
                    answers.append((word, status))

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        good = [FIRST, SECOND, THIRD]
        # The files of a thousand loads, most of them broken; each is seen whole or not at all.
        texts = [good[n % 3] if n % 10 == 0 else BROKEN[n % len(BROKEN)] for n in range(LOADS)]
        loaded = 0
        for text in texts:
            path.write_text(text)
            loaded += await reload(s.running)
        over.set()
        await asyncio.gather(*asking)
        assert loaded == len([text for text in texts if text in good])
        rows = await s.rows()
        assert answers
        for row in rows:
            assert row["revision"] in words
        stopped = {(row["revision"], row["action"]) for row in rows}
        assert {action for _, action in stopped} == {"pass", "block"}
        assert {status for word, status in answers if word == "plain"} == {200}


LOADS = int(os.environ.get("RELOADS", "100"))
"""A whole thousand is for `RELOADS=1000 pytest ...`."""


def test_two_processes_keep_one_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several workers load the same policy at the same moment: the second finds it kept already."""
    (tmp_path / "policy.yaml").write_text(PLAIN)
    policies = load(str(tmp_path / "policy.yaml"))
    files = Files(((str(tmp_path / "policy.yaml"), PLAIN.encode()),))
    store, real = Store(tmp_path / "store"), policy_store._copy

    def beaten(files: Files, home: Path) -> tuple[str, list[str]]:
        monkeypatch.setattr(policy_store, "_copy", real)
        assert Store(tmp_path / "store").keep(policies, files)
        return real(files, home)

    monkeypatch.setattr(policy_store, "_copy", beaten)
    store.keep(policies, files)
    assert [kept.revision for kept in store.all()] == [policies.revision]
    assert [path.name for path in (tmp_path / "store" / "revisions").iterdir()] == [policies.revision]


PLAIN = FIRST.replace("kind: canary, inline: true", "kind: patterns, patterns: {mark: {words: [MARK]}}").replace(
    "kind: canary, word: SECRET, inline: true", "kind: patterns, patterns: {mark: {words: [SECRET]}}"
)


def test_files_beside_a_policy_are_kept_at_their_distance(tmp_path: Path) -> None:
    store, home = Store(tmp_path / "store"), tmp_path / "work" / "policies"
    home.mkdir(parents=True)
    (home / "a.yaml").write_text("x")
    (tmp_path / "work" / "head.json").write_text("{}")
    (tmp_path / "work" / "model").mkdir()
    (tmp_path / "work" / "model" / "weights").write_text("w")
    from policies.load import load

    files = Files(
        ((str(home / "a.yaml"), b"x"),),
        (home / ".." / "head.json", home / ".." / "model"),
    )
    ready = load("observe")
    assert store.keep(ready, files)
    assert not store.keep(ready, files)
    kept = Path(store.get(ready.revision[:5]).entry)
    assert kept.read_text() == "x"
    assert (kept.parent.parent / "head.json").read_text() == "{}"
    assert (kept.parent.parent / "model" / "weights").read_text() == "w"
    assert [each.revision for each in store.all()] == [ready.revision]
    for wrong in ("..", "", "zzz", "/etc"):
        with pytest.raises(StoreError):
            store.get(wrong)
    shutil.rmtree(tmp_path / "store" / "revisions" / ready.revision / "files")
    (tmp_path / "store" / "revisions" / ready.revision / "manifest.json").write_text("[")
    assert store.all() == []


CLASSIFIERS = """
id: shared
version: 1
owner: tests
description: Classifiers that all files use.
classifiers:
  j: {kind: judge, url: "http://127.0.0.1:9/v1", model: m, policy_file: heads/j.md, labels: {bad: bad things}}
"""
"""A file without rules, which names another by a relative path."""


@pytest.fixture
def divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which the classifiers stand in a file of their own, and no file of the same name here."""
    home = tmp_path / "divided"
    (home / "heads").mkdir(parents=True)
    (home / "a.yaml").write_text(CLASSIFIERS)
    (home / "b.yaml").write_text(PLAIN)
    (home / "heads" / "j.md").write_text("What is bad.")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return home


def test_what_a_file_without_rules_names_is_kept_too(tmp_path: Path, divided: Path) -> None:
    store, policies = Store(tmp_path / "store"), load(str(divided))
    assert policy_store.referred(policies) == (divided / "heads" / "j.md",)
    store.keep(policies, Files(tuple(sources(str(divided))), policy_store.referred(policies)))
    shutil.rmtree(divided)
    assert load(store.get(policies.revision).entry).revision == policies.revision


@pytest.mark.parametrize("damage", ["a file", "the list of files", "the manifest"])
def test_a_copy_that_is_not_whole_is_made_anew(tmp_path: Path, divided: Path, damage: str) -> None:
    """As an older Penstock left it, or a disk."""
    store, policies = Store(tmp_path / "store"), load(str(divided))
    files = Files(tuple(sources(str(divided))), policy_store.referred(policies))
    assert store.keep(policies, files)
    first = store.get(policies.revision)
    (Path(first.entry) / "heads" / "j.md").unlink()
    manifest = tmp_path / "store" / "revisions" / policies.revision / "manifest.json"
    if damage == "the list of files":
        manifest.write_text(json.dumps({k: v for k, v in json.loads(manifest.read_text()).items() if k != "files"}))
    elif damage == "the manifest":
        manifest.write_text("[")
    assert store.keep(policies, files)
    assert not store.keep(policies, files)
    again = store.get(policies.revision)
    assert load(again.entry).revision == policies.revision
    assert (again.at == first.at) == (damage != "the manifest")
    assert [path.name for path in manifest.parent.parent.iterdir()] == [policies.revision]


async def test_what_a_file_without_rules_names_is_watched_too(tmp_path: Path, divided: Path) -> None:
    kept, changed = keeper.Keeper(Store(tmp_path / "store"), str(divided), True), asyncio.Event()
    before = await kept.load()

    async def told() -> None:
        changed.set()

    watching = asyncio.create_task(kept.watch(told))
    (divided / "heads" / "j.md").write_text("What is bad, in other words.")
    async with asyncio.timeout(20):
        await changed.wait()
    watching.cancel()
    assert (await kept.load()).revision != before.revision


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="policies are kept there"):
        Store(tmp_path / "file" / "below").pin("abc")


HOSTS = {
    "127.0.0.1": "Address already in use (choose another with --admin-port)",
    "192.0.2.1": "(--admin-host is an address of this machine",
    "no-such.invalid": "(--admin-host is an address of this machine",
}


@pytest.mark.parametrize(("host", "mend"), HOSTS.items())
def test_where_nobody_can_listen(host: str, mend: str) -> None:
    with (
        bound("127.0.0.1", 0, "port") as taken,
        pytest.raises(CannotServe) as told,
        bound(host, taken.getsockname()[1], "admin-port"),
    ):
        pass
    assert mend in str(told.value)
    assert "attempting" not in str(told.value)


def test_a_damaged_history_keeps_what_can_be_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.note("loaded", "a" * 12, "p.yaml")
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(b"\xff\xfe cut\n{\n[]\n")
    store.note("loaded", "b" * 12, "p.yaml")
    assert [line["revision"] for line in store.history()] == ["a" * 12, "b" * 12]

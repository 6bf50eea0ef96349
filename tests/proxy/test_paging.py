"""Whoever turns the pages of a list as official clients do sees all that is theirs, and nothing else."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.accounts.holder import Holder
from proxy.accounts.owned import Owned
from proxy.audit import Key
from proxy.paging import LIMIT, PAGES, onward, own_page
from proxy.strict import Malformed
from tests.proxy.conftest import Make
from tests.upstream import Reply, Request, replies

HASHED = Key(b"k" * 32).keyed_hash


def asked(target: bytes) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(target.partition(b"?")[2].decode()).items()}


def listed(ids: list[str], target: bytes) -> dict[str, Any]:
    """A provider's page: newest first, by `after`, or `after_id` as Anthropic has it."""
    given = asked(target)
    cursor, limit = given.get("after") or given.get("after_id"), int(given.get("limit", "20"))
    start = ids.index(cursor) + 1 if cursor else 0
    page = [{"id": name, "object": "batch"} for name in ids[start : start + limit]]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return {"object": "list", "data": page, **ends, "has_more": start + limit < len(ids)}


@given(st.lists(st.sampled_from("ab"), max_size=60), st.integers(1, 7), st.sampled_from(["openai", "anthropic"]))
@example(list("b" * 20 + "a"), 20, "openai")
@example(list("a" + "b" * 40), 3, "anthropic")
def test_turning_pages_shows_ones_own(owners: list[str], limit: int, family: str) -> None:
    ids = [f"batch_{number}" for number in range(len(owners))]
    cursor = "after" if family == "openai" else "after_id"
    with tempfile.TemporaryDirectory() as folder:
        owned = Owned(Path(folder) / "owned.db", HASHED)
        for who in "ab":
            owned.mint(who, [name for name, owner in zip(ids, owners, strict=True) if owner == who])
        holder = Holder(owned, "a")

        def own(tree: Any) -> bool:
            return holder.answered(tree, kept=True, all_of_them=True, must=True)

        async def page(target: bytes) -> bytes:
            return orjson.dumps(listed(ids, target))

        async def turn() -> list[str]:
            seen: list[str] = []
            target = f"/v1/batches?limit={limit}&x=1".encode()
            while True:
                raw, tree = await own_page(own, await page(target), target, family, page)
                assert raw is None or orjson.loads(raw) == tree
                some = [item["id"] for item in tree["data"]]
                assert len(some) <= limit
                assert (tree["first_id"], tree["last_id"]) == ((some[0], some[-1]) if some else (None, None))
                seen += some
                if not some or not tree["has_more"]:
                    return seen
                target = f"/v1/batches?limit={limit}&x=1&{cursor}={some[-1]}".encode()

        assert asyncio.run(turn()) == [name for name, owner in zip(ids, owners, strict=True) if owner == "a"]
        owned.close()


NEXT: dict[str, tuple[bytes, str, Any, bytes | None]] = {
    "a cursor": (
        b"/v1/files", "openai", {"data": [{"id": "a b"}], "has_more": True}, b"/v1/files?after=a%20b&limit=100",
    ),
    "as Anthropic has it": (
        b"/v1/files?limit=5&after_id=x&y=1", "anthropic", {"data": [{"id": "z"}], "has_more": True},
        b"/v1/files?y=1&after_id=z&limit=100",
    ),
    "long pages": (
        b"/v1/files?limit=1000", "openai", {"data": [{"id": str(n)} for n in range(LIMIT)], "has_more": True},
        b"/v1/files?limit=1000&after=99",
    ),
    "towards the beginning": (
        b"/v1/files?before=x&limit=2", "openai", {"data": [{"id": "v"}, {"id": "w"}], "has_more": True},
        b"/v1/files?limit=2&before=v",
    ),
    "a token": (b"/v1/skills?page=1", "anthropic", {"data": [], "next_page": "p=2"}, b"/v1/skills?page=p%3D2"),
    "the last": (b"/v1/files", "openai", {"data": [{"id": "a"}], "has_more": False}, None),
    "nobody says": (b"/v1/files", "openai", {"data": [{"id": "a"}]}, None),
    "nothing to go on from": (b"/v1/files", "openai", {"data": [], "has_more": True}, None),
    "no id": (b"/v1/files", "openai", {"data": [{"id": 3}], "has_more": True}, None),
    "no list": (b"/v1/files", "openai", [], None),
}  # fmt: skip


@pytest.mark.parametrize(("target", "family", "tree", "following"), NEXT.values(), ids=NEXT.keys())
def test_where_the_next_page_is(target: bytes, family: str, tree: Any, following: bytes | None) -> None:
    assert onward(target, family, tree) == following


@pytest.mark.parametrize("opened", [False, True])
async def test_what_lies_behind_pages_of_others_is_listed(stand: Make, opened: bool) -> None:
    ids = [f"batch_{number}" for number in range(150)]
    settings: dict[str, Any] = {"open_routes": ["/v1/batches"]} if opened else {"judge_batches": True}
    keys = {"a": {"scopes": ["open", "batches"]}}
    async with stand(settings=settings, keys=keys) as s:
        s.running.plane._owned.mint("a", ["batch_130"])  # type: ignore[union-attr]

        def provider(request: Request) -> Reply:
            return replies.json(listed(ids, request.target))

        s.upstream.reply = provider
        headers = {"authorization": f"Bearer {s.keys['a']}"}
        found = (await s.client.get("/v1/batches?limit=3", headers=headers)).json()
        assert [item["id"] for item in found["data"]] == ["batch_130"]
        assert (found["first_id"], found["last_id"]) == ("batch_130", "batch_130")
        assert [asked(request.target).get("after") for request in s.upstream.requests] == [None, "batch_2", "batch_102"]
        assert len({request.header("authorization") for request in s.upstream.requests}) == 1
        s.upstream.reply = lambda request: replies.error(500, "x") if b"after" in request.target else provider(request)
        broken = await s.client.get("/v1/batches?limit=3", headers=headers)
        assert (broken.status_code, broken.json()["error"]["code"]) == (502, "upstream_unreadable")


def test_a_list_without_end_has_one(tmp_path: Path) -> None:
    holder, count = Holder(Owned(tmp_path / "owned.db", HASHED), "a"), 0

    async def page(target: bytes) -> bytes:
        nonlocal count
        count += 1
        return orjson.dumps({"data": [{"id": f"file-{count}"}], "has_more": True})

    async def ask(raw: bytes) -> Any:
        return await own_page(
            lambda tree: holder.answered(tree, kept=True, all_of_them=True), raw, b"/v1/files", "openai", page
        )

    raw, tree = asyncio.run(ask(b'{"data":[{"id":"file-0"}],"has_more":true}'))
    assert (raw, tree["data"], count) == (None, [], PAGES)
    with pytest.raises(Malformed):
        asyncio.run(ask(b'{"files":[]}'))

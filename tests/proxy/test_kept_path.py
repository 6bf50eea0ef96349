"""What is written down of a path: mistakes stay readable, secrets do not stay."""

from __future__ import annotations

import base64
import random
import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounts.secret import PREFIX, mint
from proxy.app import DIALECTS, SERVED
from proxy.batches.table import TABLE
from proxy.kept_path import LONGEST, MARK, kept, kept_name
from proxy.surface import FAMILIES

WHOLE = """
/ /* /v1/chat/completion /chat/completions /v1/v1/chat/completions /v1//chat/completions /V1/Chat/Completions/
/v1/chat%2Fcompletions /v1/%66iles /v1/files/%2e%2e/x /v1/a;b /api/v1/models /openai/deployments/gpt-4o/chat/completions
/v1beta/models/gemini-2.5-flash-preview-05-20:streamGenerateContent /v1/engines/text-embedding-ada-002/embeddings
/v1/models/org%2Fname /v1/models/meta-llama/Meta-Llama-3.1-8B-Instruct-AWQ-INT4 /v1/models/{model} /${BASE_URL}/v1
/model/anthropic.claude-3-5-sonnet-20241022-v2:0/invoke /v1/models/mistralai/Mixtral-8x22B-Instruct-v0.1
/v1/models/qwen3-235b-a22b-instruct-2507 /v1/models/@cf/meta/llama-3 /favicon.ico /.env /wp-login.php /cgi-bin/luci
""".split()  # noqa: SIM905
"""As clients and robots ask for them by mistake."""

CUT = {
    "/v1/threads/thread_wsqxcxWL40XhC4Ny00AXgrUI/runs": "/v1/threads/thread_…/runs",
    "/v1/api_key=hunter2/models": "/v1/api_key=…/models",
    "/v1/user:password@host/models": "/v1/…/models",
    "/v1/john.doe@example.com": "/v1/…",
    "/v1/4111-1111-1111-1111": "/v1/…",
    "/v1/%D0%BF%D1%80%D0%B8%D0%B2%D0%B5%D1%82": "/v1/…",
    "/v1/a%0d%0ab": "/v1/…",
    "/v1/%2525252525252541": "/v1/…",
    "/v1/\xe2\x80\xa6": "/v1/…",
    "/sk-proj-4Ufg8aVt0L2mPq7sXc9yBn3w/v1/models": "/sk-…/v1/models",
    "/v1/models/" + "x" * 200: "/v1/models/…",
    "/a" * 300: "/a" * 99 + "/…",
}


@pytest.mark.parametrize("path", WHOLE)
def test_a_mistyped_path_is_kept_as_it_was_spelled(path: str) -> None:
    assert kept(path.encode()) == path


def test_every_path_that_is_known_reads_like_names() -> None:
    known = [path.decode() for path, _ in (*DIALECTS, *SERVED)] + [family.path for family in FAMILIES]
    known += [path.replace("{id}", "b-1") for _, path, _ in TABLE]
    assert [path for path in known if kept(path.encode()) != path] == []


@pytest.mark.parametrize(("path", "told"), CUT.items(), ids=range(len(CUT)))
def test_what_is_no_name_is_not_kept_whole(path: str, told: str) -> None:
    assert kept(path.encode("latin-1")) == told


def _credentials(chance: random.Random) -> dict[str, str]:
    letters = string.ascii_letters + string.digits
    base64url = base64.urlsafe_b64encode(chance.randbytes(48)).decode()
    return {
        "penstock": mint(),
        "without its prefix": mint().removeprefix(PREFIX),
        "openai": "sk-proj-" + base64url,
        "anthropic": "sk-ant-api03-" + base64url,
        "hexadecimal": f"{chance.getrandbits(128):032x}",
        "uuid": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "token": "".join(chance.choices(letters, k=24)),
        "aws": "AKIA" + "".join(chance.choices(string.ascii_uppercase + string.digits, k=16)),
        "github": "ghp_" + "".join(chance.choices(letters, k=36)),
        "jwt": f"eyJhbGciOiJIUzI1NiJ9.{base64url}.{base64url}",
        "base64url": base64url,
    }


def test_no_credential_is_kept_whole() -> None:
    chance = random.Random(20261129)  # the same ones each time
    for _ in range(1000):
        for kind, credential in _credentials(chance).items():
            for path in (f"/v1/models/{credential}", f"/{credential}/v1/chat/completions", f"/v1/x-{credential}"):
                told = kept(path.encode())
                assert MARK in told, (kind, path)
                assert credential[13:] not in told, (kind, path)


def test_where_ids_and_models_are_served_only_keys_are_cut() -> None:
    for path in ("/v1/models/org%2Fname", "/v1/files/file-4Ufg8aVt0L2mPq7sXc9yBn3w/content", "/v1/responses/resp_YQ=="):
        assert kept(path.encode(), served=True) == path
    assert kept(b"/v1/models/sk-proj-4Ufg8aVt0L2mPq7sXc9yBn3w", served=True) == "/v1/models/sk-…"
    assert kept(f"/v1/models/{mint()}".encode(), served=True) == "/v1/models/penstock_…"
    assert kept(f"/v1/models/%70{mint()[1:]}".encode(), served=True) == "/v1/models/penstock_…"


def _spelled(letter: str, times: int) -> str:
    """`letter`, escaped so many times."""
    text = letter
    for _ in range(times):
        text = "".join(f"%{ord(each):02x}" for each in text) if text == letter else text.replace("%", "%25")
    return text


# A key in letters that nothing else in these paths has.
KEYS = st.text("ABCDEFGHJKLMNPQRSTUVWXYZ23456789", min_size=49, max_size=49)
AROUND = st.lists(st.sampled_from(["v1", "chat", "models", "", "%2f", "a-b", "%", "é", "x" * 60]), max_size=6)


@given(AROUND, AROUND, KEYS, st.lists(st.integers(0, 3), min_size=58, max_size=58), st.booleans(), st.booleans())
def test_of_a_key_only_its_prefix_stays_however_it_is_spelled(
    before: list[str], after: list[str], body: str, escapes: list[int], loud: bool, served: bool
) -> None:
    key = (PREFIX.upper() if loud else PREFIX) + body
    spelled = "".join(_spelled(letter, times) for letter, times in zip(key, escapes, strict=True))
    path = "/" + "/".join([*before, spelled, *after])
    told = kept(path.encode(), served=served)
    assert not any(body[at : at + 4] in told for at in range(len(body) - 3))
    assert told.endswith(MARK)


@given(st.binary(max_size=700) | st.text("/%25aA0-_.é…", max_size=700).map(str.encode), st.booleans())
def test_any_path_is_kept_as_it_came_or_with_a_mark(path: bytes, served: bool) -> None:
    told = kept(path, served=served)
    assert len(told) <= LONGEST
    assert told.isprintable()
    assert told.replace(MARK, "").isascii()
    if MARK not in told:
        assert told.encode() == path


def test_a_key_in_a_models_place_is_cut() -> None:
    key = mint()
    assert kept_name("gpt-4o") == "gpt-4o"
    assert kept_name("m" * 300) == "m" * 200
    assert kept_name(f"openai/{key}") == "openai/penstock_…"
    assert key[20:] not in kept_name("m" * 150 + key)
    assert key[20:] not in kept_name("m" * 190 + key)

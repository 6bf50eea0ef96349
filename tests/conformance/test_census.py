"""T9: the census of the surface, taken from the router itself and from the official clients.

Every path of the table, and every path that the openai and anthropic packages know, is driven with MARK by every
method: it does what its posture says, and nothing that is refused reaches the upstream. `python -m
tests.conformance.test_census` writes proxy/SURFACE.md.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from classifiers.training.labels import LABELS as ENCODER
from proxy.app import DIALECTS, SERVED
from proxy.batches.table import TABLE
from proxy.config import ConfigError
from proxy.config import load as load_settings
from proxy.dialects.moderations import APPROXIMATED, CATEGORIES, LABELS
from proxy.relay import RELAYED
from proxy.surface import FAMILIES, METHODS, Opened, family_of, table
from tests.proxy.conftest import Make, Stand, _canary, stand  # noqa: F401 - pytest finds fixtures by name
from tests.upstream import End, replies

PAGE = Path(__file__).parent.parent.parent / "proxy" / "SURFACE.md"
HEAD = """# What passes, and what is judged of it

A request goes where its path and method lead, spelled exactly so; all else is refused. `open_routes` in the settings
opens a path and all below it: what passes there is **not judged**. It is counted (`penstock_unscanned_parts_total`,
kind `route`) and written into the audit (status `relayed`, detail `unjudged`). `open_routes: [/v1]` opens every
closed path but those that only their own name opens. A judged path stays judged whatever is opened. WebSockets are
never opened.
Answers to opened routes that are streams, or large, pass on as they come.

A closed path answers 404 (`route_closed`), a served path asked with another method 405, and an unknown path 404
(`unknown_url`). Each such refusal is in the audit (status `refused`, and the code as `detail`): one by one for callers
with a Penstock key; of others three a second, and beyond that a record a second for each code, where `times` says how
many, `seconds` in what time and `answered` with which status, and account, method and path stand only where all had
the same. Of the path what does not read like names is left out (`…`).

HEAD of the models is answered as GET is, without the body.

`cors_origins` names origins whose pages may call from a browser. Their preflights are answered here, before any key is
known; each answer, refusals and streams too, says that they may read it, and what the upstream says of origins is
dropped. All other pages are refused (403, `origin_not_allowed`), as all are where the setting is empty (405). There is
no `*`, and no answer allows cookies: a page brings its key itself.

## Moderations

`POST /v1/moderations` is answered by the classifiers of the loaded policy, in OpenAI's shape; the upstream is never
asked. It takes a string, a list of strings (one result each) or a list of parts (one result). Each is judged as a
user's message:

- `flagged` is the policy's own decision: true where a rule would block or mask. What is only logged is not flagged,
  so under the `observe` pack nothing ever is.
- `category_scores` are the highest scores of the labels that speak for a category (table `LABELS` in
  `proxy/dialects/moderations.py`), 0 where no classifier of the policy can tell. A policy without such classifiers
  says 0 everywhere. `category_applied_input_types` names `text` for the categories that somebody read the text for,
  and nothing else.
- Where no label stands for a category it is approximated by two labels of the shipped encoder (the table below), the
  lower of whose scores it gets: both must be there, and neither says that they belong together.
- `categories` are true in a flagged input for categories that a rule fired for, or whose score is 0.9 or more.
- An input can be flagged for something that is no category (a jailbreak, a part that nobody can read): then no
  category need be true, and `penstock` in the result tells the action, the policy, the reason and the scores of all
  other labels.
- Images are not judged: rules on `surface.unscannable` decide about them. They never appear among the applied types.
- Where a classifier that is needed is silent the answer is 503 with `x-should-retry: false`.

{categories}
## Batches

With `judge_batches: true` files of requests, batches and their results are judged, whatever is opened beside them:

- An upload (`POST /v1/files` with `purpose` batch, `POST /v1/messages/batches`) is read row by row; each row is judged
  as a request to its `url`. A row that a rule would block, and one that cannot be read, refuses the whole upload: 400
  in the caller's dialect, with the row's number and none of its text. So does one that a rule would hold for a person,
  send to another model or answer in words, and one of which it would mask more than what is asked (its `custom_id`):
  take the row out, and send it by itself. A row that a rule masks or adds a note to goes as the rule made it, all
  others byte for byte; nothing is put back into its results (`restore`), and the file's `bytes` are those of what was
  sent. A silent classifier refuses as its rule says (503). `max_batch_rows` and `max_request_bytes` bound an upload;
  other purposes than batch are refused.
- The form has one file, plain headers and a boundary that stands nowhere else. No `filename*`, no transfer encoding.
- A batch can be made for judged paths only. The provider may hold files that never came through Penstock: who must
  not use those needs a key of an account without them.
- Results (`GET /v1/files/{id}/content`, `GET /v1/messages/batches/{id}/results`) are judged row by row as answers while
  they arrive. A blocked row leaves as an error of its API (`invalid_prompt`, or `errored`), a masked one masked, all
  others byte for byte. A file that is no JSONL cannot be fetched (400). `Range` is not forwarded.
- `results_url` in Anthropic's answers is made relative: as the provider writes it, it leads past Penstock.
- Files and batches are the upstream's that takes what names no model; a row whose model leads elsewhere, or is renamed
  on its way, refuses the upload.
- Judging a row takes what judging a request takes, a few rows at a time: give clients a timeout to match. Large files
  in parts (`/v1/uploads`) stay closed, and must stay so for this to hold.

## What is stored at the provider

`previous_response_id`, `conversation`, `prompt`, items by reference and `background` of Responses, and a `thread` of
Messages that goes on, lead to texts that were not judged here, or to an answer that is fetched later: each is refused
until `open_fields` names it. Then it is a part that nobody can read (`surface.unscannable`; kind `stored` or
`background`), and the policy decides: `baseline` refuses. The tool runners of Anthropic's SDKs go on with a `thread` by
themselves; the refusal (`thread_unsupported_request`, the API's own word) has them send the whole conversation instead.
Thoughts of Responses that come back without `encrypted_content` are found there by their id, too; agents send them so
with every turn, and they pass under `baseline` like encrypted ones (`surface.opaque`; kind `recalled`). With keys those
that are known to be another account's answer 404.
`prompt_id`, `preset` and `@preset/` in a model's name lead to instructions that a gateway keeps: always such a part
(kind `stored`), and where a key has its models, refused (404), for they may name another.

With `credentials: keys` all callers share the operator's account at the provider, so what one stored there is kept
apart here: an id in a path or a request (of an answer, a file, a container, a skill, a voice, a tunnel and whatever
else the official clients can name) is found by the account that it was minted for through this Penstock, and answers
404 to all others (`previous_response_not_found` as OpenAI says it); lists hold what is one's own. A page of a list
with nothing of one's own is passed over, up to 50 of them, for clients stop at an empty one; a list that is none (not
JSON with `data` or `items`, or with two readings, or with others' ids beside them) is answered with 502. On open
routes, too, no query, form or JSON may name another's, or hold a word that looks like a provider's id (`file-`, `vs_`,
`batch_` and their like, with figures or capitals behind) in a field that leads to stored things (`file_ids`, `id`,
`training_file`, not `metadata`, `content` or what an answer cited) and is not one's own: what was stored elsewhere, by
another replica or more than 90 days ago is nobody's. JSON with two readings, and a compressed body, are refused there.
What was stored and could not be noted as somebody's is not told (503, `owner_unavailable`). Ids that all may name, of
a shared vector store or a file that the operator stored say, stand in `shared_ids`. The table is in the data directory
of each machine (`owned.db`): where replicas have one each, a load balancer must bring a caller who stores things back
to the same replica. Open routes need a key with the scope `open`, batches one with `batches`.

A model that may answer in the place of the one that is asked (`fallbacks`, `models`, further names behind commas) must
be one that the key may use, lead where the other leads, and be judged by the same policies; a rule that sends a
request elsewhere takes none. A model that a tool sets to work (an advisor, a painter) must be one that the key may
use, and so must those that a query, JSON or a form names on open routes: what stands there under a key `model`, at any
depth but in `metadata`. Open routes lead to `default_upstream` alone: one that names a model which `routes` lead
elsewhere, or by another name, is a 404.

## What differs from asking the provider directly

What is allowed passes byte for byte, both ways, but for this:

- Paths: ids in them may be escaped (`/v1/models/org%2Fname`), a model's or an id's slash too, and go on as they came.
  What has two readings is not found: `.`, `..`, nothing between slashes, an escape in an escape (`%252F`), `;`, `\\`
  and other letters than those of ids, escapes in a path that is judged, and with keys a slash in an id.
- Requests: hop-by-hop headers, `Host`, `Expect` and trailers; a body in chunks goes on with its length;
  `Accept-Encoding` says `identity`. `Forwarded`, `Via`, `X-Forwarded-*`, `X-Penstock-*`, other names for a method or a
  path, and names with an underscore are left out. With the operator's key so is all that says who asks and from where,
  or would choose among the operator's projects and, at a gateway, providers.
- Answers: hop-by-hop headers, interim answers (1xx), trailers, `Alt-Svc` and `X-Penstock-*`. Redirects and compressed
  answers are a 502. An error passes with its status; where it is neither JSON nor plain text (a page of HTML, say) its
  words are ours.
- Streams: a byte order mark, line ends that are a lone CR, lines of fields that do not exist and what stands behind the
  end do not pass.
- What has two readings is refused (400), or in an answer a 502: JSON with a key twice, with half a surrogate or with a
  number beyond a double.

## The table

"""
CALL = re.compile(
    r'self\._(get|post|put|patch|delete|get_api_list)\(\s*(?:path_template\(\s*)?f?"(/[^"?]*)[^"]*"(.{0,900})',
    re.DOTALL,
)
ESCAPED = ("/id%2D1", "/id%2D1/x", "/a%2Fb")
MISSPELLED = ("%2Fid-1", "/a%2F%2e%2e", "/%2e", "/%252e", "/a%252Fb", "/a%2F", "/a;b")
"""What may stand behind the name of a family, and what not."""


def page() -> str:
    judged = sorted((path.decode(), dialect.name) for path, dialect in DIALECTS)
    served = [(path.decode(), dialect.name) for path, dialect in SERVED]
    return HEAD.replace("{categories}", categories()) + table(
        judged, served, [path.decode() for path in RELAYED], TABLE
    )


def categories() -> str:
    """What each category of a moderation rests on, in Markdown. The labels are those of our own encoder."""
    own = {label.name for label in ENCODER}
    lines = ["| category | score | labels of the shipped encoder |", "| --- | --- | --- |"]
    for category in CATEGORIES:
        told = sorted(label for label, name in LABELS.items() if name == category and label in own)
        near = APPROXIMATED.get(category)
        how = "the highest of" if told else "approximated: the lower of" if near else "0: nothing tells it"
        lines.append(f"| `{category}` | {how} | {', '.join(told or near or ())} |")
    return "\n".join(lines) + "\n"


def known_to_clients() -> Iterator[tuple[str, str]]:
    """(method, path) of every call in the installed clients, with ids in their places."""
    for package in ("openai", "anthropic"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for file in sorted((Path(spec.origin).parent / "resources").rglob("*.py")):
            for verb, path, rest in CALL.findall(file.read_text("utf-8")):
                named = re.search(r'method="(\w+)"', rest.partition("def ")[0]) if verb == "get_api_list" else None
                method = (named[1] if named else "get" if verb == "get_api_list" else verb).upper()
                filled = re.sub(r"\{[^}]*\}", "id-1", path)
                yield method, filled if filled.startswith("/v1/") else "/v1" + filled


def census() -> list[tuple[str, str]]:
    methods = [*sorted(method.decode() for method in METHODS), "OPTIONS", "TRACE"]
    paths = [path.decode() for path, _ in (*DIALECTS, *SERVED)]
    paths += [path.decode() + below for path in RELAYED for below in ("", "/id-1", "/id-1/x")]
    paths += [family.path + below for family in FAMILIES for below in ("", "/id-1", "/id-1/items/id-2")]
    paths += [
        family + below
        for family in ("/v1/batches", "/v1/files", "/v1/messages", "/v1/models", "/v1/vaults")
        for below in (*ESCAPED, *MISSPELLED)
    ]
    paths += ["/v1", "/v1/", "/v1/unheard", "/v2/files", "/files", "/v1/files/", "/v1/filesystem"]
    return sorted({*((method, path) for path in paths for method in methods), *known_to_clients()})


def _shape(path: str) -> str:
    return path.replace("{id}", "[A-Za-z0-9_-]+")


def posture(method: str, path: str, opened: Opened, batches: bool = False) -> str:
    """What the table says, told without the router."""
    if path.endswith(MISSPELLED):
        return "unknown"
    one_name = path.replace("%2D", "-").replace("%2F", "-")
    path = path.replace("%2D", "-").replace("%2F", "/")
    if batches and any(method == row[0] and re.fullmatch(_shape(row[1]), path) for row in TABLE):
        return "batch"
    known = {path.decode(): "judged" for path, _ in DIALECTS} | {path.decode(): "served" for path, _ in SERVED}
    if method == "POST" and path in known:
        return known[path]
    models = re.fullmatch(r"/v1/models(/[\w.:@-]+)?", one_name)
    if method == "GET" and models:
        return "passed"
    plain = re.fullmatch(r"(/[\w.:@-]+)+", path)
    family = max(
        (f for f in FAMILIES if plain and (path + "/").startswith(f.path + "/")),
        key=lambda f: len(f.path),
        default=None,
    )
    if family and family in opened:
        return "relayed" if method.encode() in METHODS else "method"
    return "method" if models or path in known else "closed" if family else "unknown"


ANSWERS = {"method": (405, "method_not_allowed"), "closed": (404, "route_closed"), "unknown": (404, "unknown_url")}


async def drive(s: Stand, method: str, path: str) -> httpx2.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": "MARK"}], "input": "MARK", "max_tokens": 9}
    body["prompt"] = "MARK"
    return await s.client.request(method, "/", json=body, extensions={"target": path.encode()})


@pytest.mark.parametrize(
    ("opened", "batches"), [([], False), (["/v1"], False), (["/v1"], True)], ids=["closed", "opened", "batches"]
)
async def test_each_path_has_its_posture(stand: Make, opened: list[str], batches: bool) -> None:  # noqa: F811
    async with stand(settings={"open_routes": opened, "judge_batches": batches}) as s:
        s.upstream.reply = replies.json({"said": "MARK"})
        seen: set[str] = set()
        cases = [case for case in census() if not batches or "batch" in case[1] or "/files" in case[1]]
        for method, path in cases:
            s.upstream.requests.clear()
            kind = posture(method, path, Opened(opened), batches)
            response = await drive(s, method, path)
            place = f"{method} {path}: {kind}"
            if kind in ANSWERS:
                status, code = ANSWERS[kind]
                assert response.status_code == status, place
                assert code in response.text or path.startswith("/v1/messages"), place
            elif kind == "batch":  # no form, no JSONL, MARK in the body or in the answer
                assert response.status_code in {200, 400, 415}, place
                assert "MARK" not in response.text, place
                assert method == "GET" or s.upstream.requests == [], place
                s.upstream.requests.clear()
            elif kind == "judged":
                assert response.status_code == 400, place
                assert "MARK" not in response.text, place
            else:
                assert response.status_code == 200, place
            calls = 1 if kind in {"relayed", "passed"} else 0
            assert len(s.upstream.requests) == calls, place
            seen.add(kind)
        wanted_kinds = {"judged", "served", "passed", "unknown", "method", "closed"}
        assert seen == ({"batch", "relayed", "unknown", "method"} if batches else wanted_kinds | seen & {"relayed"})
        assert ("relayed" in seen) is bool(opened)
        metrics = (await s.client.get(s.admin_url + "/metrics")).text
        relayed = sum(posture(*case, Opened(opened), batches) == "relayed" for case in cases)
        wanted = f'penstock_unscanned_parts_total{{dialect="open",kind="route",stage="input"}} {float(relayed)}'
        assert (wanted in metrics) is bool(opened)


def test_every_call_of_the_official_clients_is_known() -> None:
    pytest.importorskip("openai", reason="the official client comes with the demo extra")
    calls = set(known_to_clients())
    assert len(calls) > 200
    assert not [(method, path) for method, path in calls if posture(method, path, Opened([])) == "unknown"]


def test_the_page_is_current() -> None:
    """`python -m tests.conformance.test_census` writes it anew."""
    assert PAGE.read_text("utf-8") == page()


async def test_an_open_route_passes_as_it_is(stand: Make) -> None:  # noqa: F811
    body = (
        b'--x\r\ncontent-disposition: form-data; name="file"; filename="MARK.pdf"\r\n\r\n%PDF MARK\x00\xff\r\n--x--\r\n'
    )
    kind = "multipart/form-data; boundary=x"
    async with stand(settings={"open_routes": ["/v1/files"]}) as s:
        s.upstream.reply = replies.content(b"ID3\x00MARK\xff", content_type="audio/mpeg")
        sent = await s.client.post("/v1/files?purpose=batch&x=%2e", content=body, headers={"content-type": kind})
        assert (sent.status_code, sent.content) == (200, b"ID3\x00MARK\xff")
        assert sent.headers["content-type"] == "audio/mpeg"
        got = await s.client.get("/v1/files/file-1/content")
        assert got.status_code == 200
        first, second = s.upstream.requests
        assert (first.method, first.target, first.body) == ("POST", b"/v1/files?purpose=batch&x=%2e", body)
        assert first.header("content-type") == kind
        assert (second.method, second.body, second.header("content-length")) == ("GET", b"", None)
        for path in ("/v1/uploads", "/v1/filesystem", "/v1/files/"):
            assert (await s.client.post(path, content=body, headers={"content-type": kind})).status_code == 404
        assert len(s.upstream.requests) == 2
        rows = [(row["status"], row["dialect"], row["action"], row["detail"]) for row in await s.rows()]
        assert rows.count(("relayed", "open", None, "unjudged")) == 2
        assert len(rows) == 5


async def test_what_is_open_ends_well_where_the_upstream_does_not(stand: Make) -> None:  # noqa: F811
    async with stand(settings={"open_routes": ["/v1/files"]}) as s:
        s.upstream.reply = [End.RESET]
        response = await s.client.get("/v1/files")
        assert response.status_code == 502
        (row,) = await s.rows()
        assert row["status"] == "upstream_fault"


async def test_a_judged_path_stays_judged(stand: Make) -> None:  # noqa: F811
    async with stand(settings={"open_routes": ["/v1/chat/completions", "/v1/messages", "/v1/responses"]}) as s:
        for path in (path.decode() for path, _ in DIALECTS):
            assert (await drive(s, "POST", path)).status_code == 400
        assert s.upstream.requests == []
        s.upstream.reply = replies.json({})
        assert (await drive(s, "GET", "/v1/chat/completions")).status_code == 200
        assert len(s.upstream.requests) == 1


async def test_a_refusal_names_the_mend(stand: Make) -> None:  # noqa: F811
    async with stand() as s:
        for method, path in (("POST", "/v1/images"), ("PUT", "/v1/files/file-1"), ("GET", "/v1/chat/completions")):
            message = (await drive(s, method, path)).json()["error"]["message"]
            family = family_of(path.encode())
            assert family is not None
            assert f"`open_routes: [{family.path}]`" in message
            assert "closed" in message
            assert "judge_batches" not in message


@pytest.mark.parametrize(("method", "path", "what"), TABLE, ids=[f"{method} {path}" for method, path, _ in TABLE])
async def test_a_refusal_names_judging_before_opening(
    stand: Make,  # noqa: F811
    method: str,
    path: str,
    what: str,
) -> None:
    """What can be judged is not to be opened unjudged for want of a word."""
    async with stand() as s:
        refused = await drive(s, method, path.replace("{id}", "file-1"))
        assert refused.status_code == 404
        message = refused.json()["error"]["message"]
        assert f"`judge_batches: true`: {what}" in message
        assert message.index("judge_batches") < message.index("`open_routes: [/v1/")
        assert "closed" in message


async def test_where_batches_are_judged_nothing_advises_it(stand: Make) -> None:  # noqa: F811
    async with stand(settings={"judge_batches": True}) as s:
        message = (await drive(s, "PUT", "/v1/batches/batch_1")).json()["error"]["message"]
        assert "judge_batches" not in message
        assert "`open_routes: [/v1/batches]`" in message


async def test_a_refusal_speaks_as_its_caller_does(stand: Make) -> None:  # noqa: F811
    version = {"anthropic-version": "2023-06-01"}
    async with stand() as s:
        for path, headers in (("/v1/files", version), ("/v1/unheard", version), ("/v1/messages/batches", {})):
            tree = (await s.client.get(path, headers=headers)).json()
            assert (tree["type"], tree["error"]["type"]) == ("error", "not_found_error")
            assert "Penstock" in tree["error"]["message"]
        assert (await s.client.get("/v1/files")).json()["error"]["code"] == "route_closed"


@pytest.mark.parametrize("name", ["/v1/chat", "/v1/moderation", "files", "/v1/files/x", "*", "", "/v1/realtime/x"])
def test_names_that_open_nothing(name: str) -> None:
    if name == "/v1/chat":  # a folder of known paths opens what is closed below it
        assert all(family.path.startswith("/v1/chat/") for family in FAMILIES if family in Opened([name]))
        return
    with pytest.raises(ConfigError, match=r"SURFACE\.md"):
        load_settings(None, upstream="http://127.0.0.1:1", open_routes=[name])


def test_what_leads_past_penstock_opens_by_its_own_name_only() -> None:
    alone = [family for family in FAMILIES if family.alone]
    assert {"/v1/realtime", "/v1/live", "/v1/organization"} <= {family.path for family in alone}
    everything = Opened(["/v1"])
    for family in alone:
        assert family not in everything
        assert family in Opened([family.path])


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

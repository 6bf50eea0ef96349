"""What is not judged, and what becomes of it: one table for every path of OpenAI's and Anthropic's APIs.

A request whose path and method lead to a dialect is judged; lists of models pass. All else that these APIs know is in
a family below, and closed: refused with words that say so, until an operator names it in `open_routes`. What is
opened is relayed unjudged, counted as unscanned (kind `route`) and written into the audit. A path in no family is
unknown, and no setting opens it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

METHODS = frozenset({b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"})
"""What may be sent to an open route."""

_NAME = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:@=~")


@dataclass(frozen=True, slots=True)
class Family:
    """A path and all below it. `holds` says what passes there. `alone`: only its own name opens it, for it leads past
    Penstock or rules over accounts."""

    path: str
    holds: str
    alone: bool = False


FAMILIES: tuple[Family, ...] = (
    Family("/v1/agents", "agents that run at the provider"),
    Family("/v1/assistants", "assistants: instructions and tools that are kept at the provider"),
    Family("/v1/audio", "speech and its transcripts"),
    Family("/v1/batches", "requests by the thousand, in files"),
    Family("/v1/beta", "assistants and chats under their old name"),
    Family("/v1/chat/completions", "stored chats: listed, read, changed, deleted"),
    Family("/v1/chatkit", "sessions and threads of ChatKit"),
    Family("/v1/complete", "Anthropic's text completions of old"),
    Family("/v1/containers", "sandboxes and the files in them"),
    Family("/v1/content_provenance_checks", "images and sound, asked for their origin"),
    Family("/v1/conversations", "conversations that are kept at the provider"),
    Family("/v1/decisions", "decisions about texts by the provider"),
    Family("/v1/deployment_runs", "runs of deployed agents"),
    Family("/v1/deployments", "deployed agents"),
    Family("/v1/dreams", "memories, put in order by the provider"),
    Family("/v1/edits", "text edits of old"),
    Family("/v1/engines", "completions and embeddings under their old names"),
    Family("/v1/environments", "machines for agents"),
    Family("/v1/evals", "evaluations: data, graders and answers"),
    Family("/v1/experimental", "prompts that are written by the provider"),
    Family("/v1/files", "files of any kind"),
    Family("/v1/fine_tuning", "training of models on files"),
    Family("/v1/fine-tunes", "training of models under its old name"),
    Family("/v1/images", "images and what is asked of them"),
    Family("/v1/live", "speech in both directions, and secrets that lead past Penstock", alone=True),
    Family("/v1/memory_stores", "memories of agents"),
    Family("/v1/messages", "batches of Messages, and whatever else lies below them"),
    Family("/v1/models", "models: deleted, or named by more than one word"),
    Family("/v1/organization", "administration of an account: keys, users, bills", alone=True),
    Family("/v1/organizations", "administration of an account: keys, users, bills", alone=True),
    Family("/v1/projects", "administration of an account: projects and roles", alone=True),
    Family("/v1/realtime", "speech in both directions, and secrets that lead past Penstock", alone=True),
    Family("/v1/responses", "kept answers: read, continued, cancelled, compacted, counted"),
    Family("/v1/safety", "the provider's findings about an account"),
    Family("/v1/sessions", "sessions of agents that run at the provider"),
    Family("/v1/skills", "skills: instructions and programs for models"),
    Family("/v1/threads", "threads of assistants: messages and runs"),
    Family("/v1/tunnels", "tunnels from the provider into a network", alone=True),
    Family("/v1/uploads", "large files in parts"),
    Family("/v1/user_profiles", "what is known about end users"),
    Family("/v1/vaults", "credentials of agents", alone=True),
    Family("/v1/vector_stores", "files made searchable"),
    Family("/v1/videos", "videos and what is asked of them"),
    Family("/v1/webhook_endpoints", "addresses that the provider calls", alone=True),
    Family("/v1/webhook_event_types", "names of events that the provider tells of"),
)

_BY_PATH = {family.path.encode(): family for family in FAMILIES}
_DEEPEST = max(family.path.count("/") for family in FAMILIES)


def plain(path: bytes) -> bytes | None:
    """`path` as servers read it, its escapes undone once; None for one that is spelled in an odd way.

    Decision: below a family there may be escapes, of what may stand there as it is, or of a slash. Why: clients escape
    the ids that they put into a path (`/v1/models/org%2Fname`). Cost: what is judged, has an owner or is for some
    models only must be looked for in what this returns, while the path goes on as it came."""
    if b"%" not in path:
        return path if _is_plain(path) else None
    undone = unquote_to_bytes(path)
    family = _found(undone) if _is_plain(undone) else None
    return undone if family is not None and path.startswith(family.path.encode() + b"/") else None


def family_of(path: bytes) -> Family | None:
    """The family of a path; None for one that is unknown, or spelled in any odd way."""
    undone = plain(path)
    return None if undone is None else _found(undone)


def _is_plain(path: bytes) -> bool:
    if not path.startswith(b"/"):
        return False
    return all(name and _NAME.issuperset(name) and name not in {b".", b".."} for name in path[1:].split(b"/"))


def _found(path: bytes) -> Family | None:
    segments = path.split(b"/")
    for length in range(min(_DEEPEST, len(segments) - 1), 0, -1):
        family = _BY_PATH.get(b"/".join(segments[: length + 1]))
        if family is not None:
            return family
    return None


class Opened:
    """The families that an operator opened. `names` as in the setting `open_routes`. Raises ValueError for a name
    that opens nothing."""

    def __init__(self, names: Iterable[str]) -> None:
        self._open: set[str] = set()
        for name in names:
            found = [family.path for family in FAMILIES if _opens(name, family)]
            if not found:
                raise ValueError(
                    f"{name!r} opens nothing: name a path of the table in proxy/SURFACE.md, like /v1/files"
                )
            self._open.update(found)

    def __contains__(self, family: Family) -> bool:
        return family.path in self._open


def _opens(name: str, family: Family) -> bool:
    if not name.startswith("/v1") or name.endswith("/"):
        return False
    return family.path == name or (family.path.startswith(name + "/") and not family.alone)


def closed(family: Family, judged: str = "") -> str:
    """What a caller reads who asks for a closed family. `judged` is what passes at this path with `judge_batches`."""
    if judged:
        return (
            f"This route of Penstock is closed. The operator opens it, judged, with `judge_batches: true`: {judged}. "
            f"`open_routes: [{family.path}]` would open it unjudged, with all below it."
        )
    return (
        f"Penstock cannot judge what passes at {family.path} ({family.holds}), so this route is closed. "
        f"The operator can open it unjudged: `open_routes: [{family.path}]`."
    )


def table(
    judged: Iterable[tuple[str, str]],
    served: Iterable[tuple[str, str]],
    passed: Iterable[str],
    batches: Iterable[tuple[str, str, str]],
) -> str:
    """The whole surface in Markdown. `judged` and `served` hold (path, dialect), `batches` (method, path, what
    passes)."""
    lines = ["| path | method | posture | what passes |", "| --- | --- | --- | --- |"]
    lines += [f"| `{path}` | POST | judged | {name}: requests and answers |" for path, name in judged]
    lines += [f"| `{path}` | POST | served here | {name}: the upstream is never asked |" for path, name in served]
    lines += [f"| `{path}`, `{path}/{{name}}` | GET, HEAD | passed | names of models |" for path in passed]
    lines += [
        f"| `{path}` | {method} | judged with `judge_batches`, else as below | {what} |"
        for method, path, what in batches
    ]
    for family in FAMILIES:
        posture = "closed; opened by its own name only" if family.alone else "closed"
        lines.append(f"| `{family.path}` and below | all others | {posture} | {family.holds} |")
    lines.append("| everything else | all | unknown | nothing, whatever the settings |")
    return "\n".join(lines) + "\n"

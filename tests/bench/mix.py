"""`python -m tests.bench.mix --data DIR`: what judging costs a request of chat traffic, in milliseconds of CPU.

The mix: of every 100 conversations 60 are chats (prompts of real users, 1 to 6 turns, 2.5 on average), 25 are short
questions to an assistant (1 turn) and 15 are agents (a task, then 1 to 6 tool results, one with each request). Every
request brings its whole history and a system prompt, as clients send it, and gets an answer of 900 characters, which is
judged too. Judged is as the proxy does it: by the policy, with what was judged before remembered for the account. No
HTTP and no audit are in the figures. `--cold` forgets after every request: what it would cost without memory.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from classifiers.base import Message, Role
from classifiers.panel import Panel
from classifiers.training import corpus
from policies.load import PolicyError, load
from policies.model import Stage
from policies.ready import PolicySet
from proxy.guard import Guard
from proxy.metrics import Metrics
from tests.upstream.api import WORDS

GOAL = 4.0
"""Milliseconds a request, on one core."""
SHARES = {"chat": 60, "short question": 25, "agent": 15}
SOURCES: Mapping[str, Sequence[tuple[str, str]]] = {
    "chat": (("dev", "wildchat_benign"), ("dev", "mtbench_vicuna"), ("train", "oasst_eval_prompts")),
    "short question": (("train", "clinc150"), ("train", "banking77")),
    "agent": (("train", "tau_bench_tool_results"),),
}
SYSTEM = "You are a helpful assistant. Answer briefly, and say so when you do not know."
ANSWER = (WORDS * 3)[:900]
MORE = 0.6
"""The chance that a conversation has another turn."""
LONGEST = 6

Texts = Mapping[str, Mapping[Role, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Request:
    """A request of a conversation of some kind, with all that was said before."""

    kind: str
    messages: list[Message]


def texts(data: Path) -> Texts:
    """The texts of each kind by the role that they are sent in. Raises CorpusError where there are none."""
    found: dict[str, dict[Role, list[str]]] = {}
    for kind, sources in SOURCES.items():
        found[kind] = {Role.USER: [], Role.TOOL_RESULT: []}
        for part, name in sources:
            for row in corpus.rows(data / part / f"{name}.jsonl.gz", ("text", "role")):
                role = Role.TOOL_RESULT if row["role"] == "tool_result" else Role.USER
                found[kind][role].append(row["text"])
    return found


def conversations(known: Texts, count: int, rng: random.Random) -> Iterator[Request]:
    """The requests of `count` conversations, those of one in their order."""
    for number in range(count):
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        turns = 1 + (kind == "agent")
        while kind != "short question" and turns < LONGEST + (kind == "agent") and rng.random() < MORE:
            turns += 1
        history = [Message(Role.SYSTEM, SYSTEM, "/messages/0")]
        for turn in range(turns):
            role = Role.TOOL_RESULT if kind == "agent" and turn else Role.USER
            text = f"{rng.choice(known[kind][role])}\n({number})" if turn == 0 else rng.choice(known[kind][role])
            history.append(Message(role, text, f"/messages/{len(history)}"))
            yield Request(kind, list(history))
            history.append(Message(Role.ASSISTANT, ANSWER, f"/messages/{len(history)}"))


async def measure(policies: PolicySet, requests: Sequence[Request], cold: bool = False) -> list[float]:
    """CPU milliseconds of this process for each of `requests`, its answer included."""
    panel = Panel(workers=1)
    guard = Guard(policies, panel, Metrics())
    costs = []
    try:
        for number, request in enumerate(requests):
            scope = f"account {number}" if cold else "account"
            begun = time.process_time()
            await guard.check(Stage.INPUT, "chat", request.messages, scope=scope)
            answer = [Message(Role.ASSISTANT, f"{ANSWER} {number}", "/choices/0")]
            await guard.check(Stage.OUTPUT, "chat", answer, before=request.messages[-1].text, scope=scope)
            costs.append(1000 * (time.process_time() - begun))
    finally:
        panel.close()
    return costs


def table(requests: Sequence[Request], costs: Sequence[float]) -> list[str]:
    """Lines of the report: each kind, and all."""
    lines = [f"{'':16} {'requests':>8} {'mean ms':>8} {'median':>7} {'p95':>7}  messages   new characters"]
    for kind in (*SHARES, "all"):
        places = [place for place, request in enumerate(requests) if kind in {request.kind, "all"}]
        if not places:
            continue
        mine = sorted(costs[place] for place in places)
        sent = statistics.mean(len(requests[place].messages) for place in places)
        fresh = statistics.mean(len(requests[place].messages[-1].text) for place in places)
        high = mine[min(len(mine) - 1, int(0.95 * len(mine)))]
        middle, mean = statistics.median(mine), statistics.mean(mine)
        lines.append(f"{kind:16} {len(mine):8} {mean:8.2f} {middle:7.2f} {high:7.2f}  {sent:8.1f} {fresh:16.0f}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 where the goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mix", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and dev/")
    parser.add_argument("--policy", default="baseline", help="a pack, a directory or a file (default baseline)")
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--cold", action="store_true", help="remember nothing between requests")
    options = parser.parse_args(arguments)
    try:
        policies, known = load(options.policy), texts(options.data)
    except (corpus.CorpusError, PolicyError, OSError) as error:
        print(f"mix: {error}", file=sys.stderr)
        return 1
    requests = list(conversations(known, options.conversations, random.Random(0)))
    costs = asyncio.run(measure(policies, requests, options.cold))
    print("\n".join(table(requests, costs)))
    mean = statistics.mean(costs)
    print(f"goal (mean of all <= {GOAL:.0f} ms): " + ("reached" if mean <= GOAL else "missed"))
    return int(mean > GOAL)


if __name__ == "__main__":
    sys.exit(main())

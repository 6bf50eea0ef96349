"""A simulated OpenAI upstream that does on command what a model will not do.

`Upstream` listens on a real loopback socket and answers each request by the script that a test gave it.
Three ideas:

- a *reply* is any iterable of steps: bytes to send, seconds to wait, an asyncio.Event to wait for, or an
  `End`;
- `replies` makes and twists replies (json, sse, cut, drip, gzip, redirect ...), `shapes` makes what OpenAI
  says (completions and stream events), `api` puts both together the way the real service does;
- every request is kept as it arrived, with what became of its answer: bytes sent, and whether the caller
  left.

    async with Upstream() as up:
        up.reply = replies.sse(shapes.stream("Hello"), gap=0.01)
        ...
        assert up.requests[0].json()["model"] == "gpt-4o-mini"

`python -m tests.upstream --port P` runs the same as a process; there the model name carries the script
(`api`).
"""

from tests.upstream import api, messages, replies, shapes
from tests.upstream.replies import End, Reply, Step
from tests.upstream.server import Request, Upstream

__all__ = ["End", "Reply", "Request", "Step", "Upstream", "api", "messages", "replies", "shapes"]

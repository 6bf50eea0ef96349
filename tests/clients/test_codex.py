"""Codex, led here by nothing but its base URL: it tries a WebSocket first, and runs what the model says in a shell."""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.clients.test_clients import FOLDER, WORDS
from tests.packages import node_packages
from tests.proxy.conftest import Stand, standing
from tests.upstream import Request, replies, responses

DONE = "The file is there."


def reply(folder: Path, *words: str) -> Any:
    """A model that has a file made for each of `words`, and then says so."""

    def answer(request: Request) -> replies.Reply:
        turn = len(request.json()["input"])
        items = [
            responses.call("exec_command", orjson.dumps({"cmd": f"touch {shlex.quote(str(folder / word))}"}).decode(),
                           id=f"fc_{turn}_{at}", call_id=f"call_{turn}_{at}")
            for at, word in enumerate(words)
        ]  # fmt: skip
        if b'"function_call_output"' in request.body or not words:
            items = [responses.message(responses.text(DONE), id=f"msg_{turn}")]
        return replies.sse(responses.stream(*items, id=f"resp_{turn}"), gap=0.001)

    return answer


async def codex(s: Stand, home: Path, prompt: str) -> str:
    """What a person reads."""
    program = node_packages(FOLDER / "coding") / "node_modules" / ".bin" / "codex"
    told = ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--model", "gpt-5"]
    process = await asyncio.create_subprocess_exec(
        program, *told, "-c", f"openai_base_url={s.url}/v1", prompt, cwd=home, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_HOME": str(home), "CODEX_API_KEY": "sk-test"},
    )  # fmt: skip
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    return said.decode()


@pytest.mark.clients
@pytest.mark.parametrize("pack", ["agents", ""], ids=["agents", "test"])
async def test_codex_works_and_runs_nothing_that_is_blocked(tmp_path: Path, pack: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    async with standing(tmp_path, settings={"policy": pack} if pack else {}) as s:

        async def ask(prompt: str, *words: str) -> tuple[str, int, list[str]]:
            """What is read, how often Penstock was asked, and which files were made."""
            made = tmp_path / f"made-{len(await s.rows())}"
            made.mkdir()
            s.upstream.reply = reply(made, *words)
            before = len(await s.rows())
            said = await codex(s, home, prompt)
            asked = [row for row in (await s.rows())[before:] if row["detail"] != "upgrade_refused"]
            assert len(await s.rows()) == before + len(asked) + 1  # one try of a WebSocket
            return said, len(asked), sorted(path.name for path in made.iterdir())

        said, asked, made = await ask("Make the file.", "honest")
        assert (DONE in said, asked, made) == (True, 2, ["honest"])
        if pack:
            return
        for words in (["MARK"], ["honest", "MARK"]):
            said, asked, made = await ask("Make the files.", *words)
            assert (WORDS in said, asked, made) == (True, 1, [])
        said, asked, made = await ask("What about MARK?")
        assert (WORDS in said, asked, made) == (True, 1, [])

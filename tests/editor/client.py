"""The engine of VS Code's YAML extension, spoken to as the editor does: the language server protocol over its pipes.

A text has a cursor where `CURSOR` stands.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

CURSOR = "‸"
SECONDS = 120  # for one answer, on whatever machine
_SETTINGS: dict[str, Any] = {
    "yaml": {"schemaStore": {"enable": False}, "completion": True, "hover": True, "validate": True},
    "http": {},
    "[yaml]": {},
}
"""As the extension's, but for the catalogue of schemas on the network."""
_CAN = {
    "textDocument": {
        "completion": {"completionItem": {"snippetSupport": True, "documentationFormat": ["markdown", "plaintext"]}},
        "hover": {"contentFormat": ["markdown", "plaintext"]},
    },
    "workspace": {"configuration": True},
}


class Editor:
    """One running server. A context manager."""

    def __init__(self, packages: Path) -> None:
        program = packages / "node_modules/yaml-language-server/bin/yaml-language-server"
        self._process = subprocess.Popen(["node", program, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._said: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._number = 0
        self._versions: dict[str, int] = {}
        threading.Thread(target=self._listen, daemon=True).start()
        self._ask("initialize", {"processId": None, "rootUri": None, "capabilities": _CAN})
        self._tell("initialized", {})
        self._tell("workspace/didChangeConfiguration", {"settings": _SETTINGS})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def underlined(self, file: Path, text: str) -> list[dict[str, Any]]:
        """What is wrong with a text that is opened, or typed, as that file."""
        self._type(file, text)
        while True:
            said = self._next()
            if said.get("method") != "textDocument/publishDiagnostics":
                continue
            told = said["params"]
            # Some servers send an empty list before the first validation; ours says the version that it looked at.
            if (
                told["uri"] == file.as_uri()
                and told.get("version", self._versions[told["uri"]]) == self._versions[told["uri"]]
            ):
                return cast(list[dict[str, Any]], told["diagnostics"])

    def offers(self, file: Path, text: str) -> dict[str, dict[str, Any]]:
        """What is offered at the cursor, by label."""
        at = self._type(file, text)
        found = self._ask("textDocument/completion", at)
        return {item["label"]: item for item in (found["items"] if isinstance(found, dict) else found or ())}

    def hover(self, file: Path, text: str) -> str:
        """What is shown of the word at the cursor."""
        found = self._ask("textDocument/hover", self._type(file, text))
        return "" if found is None else str(found["contents"]["value"])

    def _type(self, file: Path, text: str) -> dict[str, Any]:
        """Write the text, and say where its cursor is."""
        before, _, after = text.partition(CURSOR)
        uri, line = file.as_uri(), before.count("\n")
        version = self._versions[uri] = self._versions.get(uri, 0) + 1
        document: dict[str, Any] = {"uri": uri, "version": version}
        if version == 1:
            self._tell(
                "textDocument/didOpen", {"textDocument": {**document, "languageId": "yaml", "text": before + after}}
            )
        else:
            self._tell(
                "textDocument/didChange", {"textDocument": document, "contentChanges": [{"text": before + after}]}
            )
        place = {"line": line, "character": len(before) - before.rfind("\n") - 1}
        return {"textDocument": {"uri": uri}, "position": place}

    def _ask(self, method: str, params: dict[str, Any]) -> Any:
        self._number += 1
        self._send({"id": self._number, "method": method, "params": params})
        while True:
            said = self._next()
            if said.get("id") == self._number and "method" not in said:
                assert "error" not in said, said["error"]
                return said["result"]

    def _tell(self, method: str, params: dict[str, Any]) -> None:
        self._send({"method": method, "params": params})

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._process.stdin.flush()

    def _next(self) -> dict[str, Any]:
        """What the server says next. Its own questions are answered here."""
        while True:
            said = self._said.get(timeout=SECONDS)
            assert said is not None, "the language server ended"
            if "method" not in said or "id" not in said:
                return said
            asked = said["params"].get("items", ()) if isinstance(said.get("params"), dict) else ()
            answer = [_SETTINGS.get(item.get("section"), {}) for item in asked] or None
            self._send({"id": said["id"], "result": answer})

    def _listen(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        while head := pipe.readline():
            size = int(head.partition(b":")[2])
            while pipe.readline().strip():
                pass
            self._said.put(json.loads(pipe.read(size)))
        self._said.put(None)

"""A question to the admin listener of a running server, for commands and pages that operators use."""

from __future__ import annotations

import http.client
import json
from typing import Any

from pydantic import SecretStr

PATIENCE = 10.0
"""Seconds that the admin listener may take."""


class Refused(Exception):
    """The listener did not do it; the message is its own."""


class Silent(Exception):
    """The listener gave no answer that can be read; the message is the cause."""


def ask(where: str, token: SecretStr | None, method: str, path: str, told: Any = None) -> Any:
    """What the listener at `where` (HOST:PORT) answers to `told` as JSON. Raises Refused and Silent."""
    headers = {"content-type": "application/json"} if told is not None else {}
    if token is not None:
        headers["authorization"] = f"Bearer {token.get_secret_value()}"
    connection = http.client.HTTPConnection(where, timeout=PATIENCE)
    try:
        connection.request(method, path, None if told is None else json.dumps(told), headers)
        answer = connection.getresponse()
        tree = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Silent(str(error)) from None
    finally:
        connection.close()
    if answer.status != 200:
        raise Refused(str(tree["error"]["message"]))
    return tree

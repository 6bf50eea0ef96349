"""Reading of the tables beside the tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from classifiers.base import Finding, Message, Role

HERE = Path(__file__).parent


def table(name: str) -> Any:
    """The YAML table `name`_cases.yaml."""
    return YAML(typ="safe").load((HERE / f"{name}_cases.yaml").read_text(encoding="utf-8"))


def messages(*texts: str) -> list[Message]:
    """One user message for each text."""
    return [Message(Role.USER, text, f"/messages/{index}/content") for index, text in enumerate(texts)]


def seen(findings: Sequence[Finding], text: str) -> list[list[str]]:
    """Pairs of label and the text under the span, in order of appearance."""
    spans = sorted((finding.span, finding.label) for finding in findings if finding.span is not None)
    assert len(spans) == len(findings)
    return [[label, text[start:end]] for (start, end), label in spans]

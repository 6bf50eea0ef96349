"""Texts of ours that are put together from parts: orders and errands in many carriers, requests that come as code, and
roles to play. What is written is in data/*.yaml; here is only the putting together."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from .corpus import Example
from .labels import targets

Rng = random.Random
Grammar = Mapping[str, Sequence[str]]

DATA = Path(__file__).with_name("data")
PLANTED = "{planted}"
WEIGHT = 0.7
_SLOT = re.compile(r"\{([a-z]+)\}")


@cache
def parts(name: str) -> Mapping[str, Any]:
    """The parts in data/`name`.yaml."""
    loaded: dict[str, Any] = YAML(typ="safe").load((DATA / f"{name}.yaml").read_text("utf-8"))
    return loaded


def grow(template: str, grammar: Grammar, rng: Rng) -> str:
    """`template` with each slot {name} replaced by one of the texts that `grammar` has under its name, and so on in
    those; a slot that is not in the grammar stays."""
    return _SLOT.sub(
        lambda found: grow(rng.choice(grammar[found[1]]), grammar, rng) if found[1] in grammar else found[0], template
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def planted(kind: str, count: int, rng: Rng) -> list[str]:
    """`count` orders (`order`) or errands (`errand`), without what they stand in."""
    return [_sentence(grow("{" + kind + "}", parts("outside"), rng)) for _ in range(count)]


def between_paragraphs(pages: Sequence[str], rng: Rng) -> list[tuple[str, str]]:
    """Each of `pages` with an order between two of its paragraphs, and the order."""
    made = []
    for page, order in zip(pages, planted("order", len(pages), rng), strict=True):
        paragraphs = page.split("\n\n")
        paragraphs.insert(rng.randrange(len(paragraphs) + 1), order)
        made.append(("\n\n".join(paragraphs), order))
    return made


def outside(count: int, rng: Rng) -> list[Example]:
    """`count` mails, pages, tickets, rows and files: every second one with an order for the model, the others with an
    errand for people or nothing to do, in the same carriers."""
    grammar = parts("outside")
    made = []
    for number in range(count):
        kind = "order" if number % 2 else rng.choice(("errand", "errand", "said"))
        inner = planted(kind, 1, rng)[0]
        before, after = (grow(side, grammar, rng) for side in rng.choice(grammar["carrier"]).split(PLANTED))
        marked = (len(before), len(before) + len(inner))
        said = {"injection_indirect": 1.0} if kind == "order" else targets("benign", "tool_result")
        text = before + inner + after
        made.append(Example(text, said, "composed", "tool_result", "en", WEIGHT, kind, marked=marked))
    return made


def code(count: int, rng: Rng) -> list[Example]:
    """`count` requests that come as code, half of them for something that does harm."""
    grammar = parts("code")
    made = []
    for number in range(count):
        kind = "harmful" if number % 2 else "benign"
        heads = ("cyber_prohibited",) if kind == "harmful" else ()
        text = grow(rng.choice(grammar["frame"]), {**grammar, "code": grammar[kind]}, rng)
        made.append(Example(text, targets(kind, "prompt", heads), "composed", "prompt", "en", WEIGHT, f"code:{kind}"))
    return made


def personas(count: int, rng: Rng) -> list[Example]:
    """`count` roles that a model is asked to play, every second one of which has dropped its rules."""
    grammar = parts("personas")
    made = []
    for number in range(count):
        kind, prefix = ("jailbreak", "loose") if number % 2 else ("benign", "")
        own = {slot: grammar[prefix + slot] for slot in ("name", "who", "vow", "closing")}
        # One name in all of a text.
        text = grow(rng.choice(grammar["frame"]), {**grammar, **own, "name": [rng.choice(own["name"])]}, rng).strip()
        made.append(Example(text, targets(kind, "prompt"), "composed", "prompt", "en", WEIGHT, f"persona:{kind}"))
    return made


def news(count: int, rng: Rng) -> list[Example]:
    """`count` sentences and half sentences in languages that public sets know for their attacks: of ten, six as a
    newspaper has them, two questions, and two orders to forget what was told."""
    grammar = parts("news")
    frames = ("{who} {did} {where}.", "{who} {did}, {where}", "{did} {where}", "{where}: {who} {did}.", "{who} {did}.")
    made = []
    for number in range(count):
        lang = rng.choice(sorted(grammar))
        kind = "injection" if number % 5 == 4 else "benign"
        frame = "{forget} {deed}." if kind == "injection" else "{ask}" if number % 5 == 3 else rng.choice(frames)
        text = grow(frame, grammar[lang], rng)
        text = _sentence(text) if rng.random() < 0.7 else text
        made.append(Example(text, targets(kind, "prompt"), "composed", "prompt", lang, WEIGHT, f"news:{kind}"))
    return made


def composed(seed: int = 0) -> list[Example]:
    """What is composed once for a training; `outside` and `personas` are composed afresh for each epoch."""
    return code(720, random.Random(seed))

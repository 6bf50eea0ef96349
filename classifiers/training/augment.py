"""New readings of the examples, made afresh for each epoch: orders planted in honest documents, templates filled,
requests in company, and the disguises that callers use. Each draws from the generator that it is given."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from . import compose
from .corpus import Example
from .labels import CATEGORIES, targets

Rng = random.Random

SLOTS = ("{{ prompt }}", "{{prompt}}", "[INSERT PROMPT HERE]", "[PROMPT]")
LOOKALIKE = str.maketrans("aeopcxyi", "аеорсхуі")
LEET = str.maketrans("aeiost", "431057")


@dataclass(frozen=True, slots=True)
class Stock:
    """What augmentation draws from: honest texts from outside, orders to plant in them (each with its family),
    honest orders that such texts hold, plain requests, and what a model answers: ours that agree to anything and that
    refuse, honest answers, hateful posts."""

    carriers: tuple[Example, ...]
    orders: tuple[Example, ...]
    errands: tuple[str, ...]
    prompts: tuple[Example, ...]
    longs: tuple[Example, ...] = ()
    complies: tuple[Example, ...] = ()
    refusals: tuple[Example, ...] = ()
    answers: tuple[Example, ...] = ()
    posts: tuple[Example, ...] = ()


def stock(examples: Sequence[Example]) -> Stock:
    """Sorts `examples` into what the augmentation needs."""
    outside = ("document", "tool_result")
    carriers = [
        e
        for e in examples
        if e.targets.get("injection_indirect") == 0.0 and e.role in outside and 40 < len(e.text) < 6000
    ]
    carriers += [e for e in examples if e.role == "response" and e.source == "gpteacher"]
    # Ours are few beside the templated ones, and the only ones that do not sound alike.
    orders = [e for e in examples if e.family.startswith("order")] * 8
    # The payload alone, taken out of its document, can be planted elsewhere.
    orders += [
        replace(e, text=e.text[e.marked[0] : e.marked[1]], marked=None, family=e.source)
        for e in examples
        if e.marked and e.targets.get("injection_indirect") == 1.0 and e.source == "bipia"
    ]
    orders += [e for e in examples if e.targets.get("injection") == 1.0 and len(e.text) < 400]
    errands = [e.text for e in examples if e.family.startswith("errand")]
    prompts = [e for e in examples if e.role == "prompt" and e.targets.get("jailbreak") == 0.0 and len(e.text) < 500]
    longs = [
        e for e in examples if e.targets.get("injection") == 0.0 == e.targets.get("jailbreak") and len(e.text) > 400
    ]
    longs = [e for e in longs if e.targets.get("harmful") == 0.0 and e.role in {"prompt", *outside}]
    hateful = [e for e in examples if e.targets.get("hate") == 1.0 and e.role == "prompt" and "{" not in e.text]
    return Stock(
        tuple(carriers),
        tuple(orders),
        tuple(errands),
        tuple(prompts),
        tuple(longs),
        complies=tuple(e for e in examples if e.family == "answer:comply"),
        refusals=tuple(e for e in examples if e.family == "answer:refuse"),
        answers=tuple(
            e for e in examples if e.role == "response" and e.targets.get("harmful_answer") == 0.0 and len(e.text) > 40
        ),
        posts=tuple(e for e in hateful if e.source in {"hatemoji", "davidson_hate", "safenlp_toxigen"}),
    )


def _sentences(text: str) -> list[int]:
    """Places where something can be put between two pieces of a text."""
    return [0, *(i + 1 for i, c in enumerate(text[:-1]) if c in "\n.;|>}" and text[i + 1] in " \n\t|<{"), len(text)]


def _dress(text: str, rng: Rng) -> str:
    """The clothes in which a planted sentence comes."""
    one = " ".join(text.split())
    return rng.choice(
        (
            text,
            text,
            text,
            f"\n\n{text}\n\n",
            f"<!-- {one} -->",
            f"\n# {one}\n",
            f"// {one}\n",
            f"\n/* {one} */\n",
            f'", "note": "{one}", "',
            f"[{one}]",
            f"\n> {one}\n",
            f"<p style='display:none'>{one}</p>",
            f"\n---\n{text}\n---\n",
            f" ({one}) ",
            f"\n- {one}\n",
            one.upper(),
        )
    )


def _wrap(text: str, rng: Rng) -> tuple[str, str]:
    """What stands before and after a text that a tool returns."""
    return rng.choice(
        (
            ("", ""),
            ("", ""),
            ("", ""),
            ('{"status": "ok", "content": "', '"}'),
            ("<html><body>", "</body></html>"),
            ("Search results:\n1. ", ""),
            ("Subject: Re: update\n\n", "\n\nBest regards"),
            ("```\n", "\n```"),
            ("File contents:\n", ""),
            ("[tool output]\n", "\n[end]"),
        )
    )


def _cut(text: str, rng: Rng, longest: int = 600) -> str:
    if len(text) <= longest:
        return text
    start = rng.randrange(len(text) - longest)
    return text[start : start + longest]


def plant(carrier: str, planted: str, rng: Rng) -> tuple[str, tuple[int, int]]:
    """`planted` in `carrier` at its start, somewhere within or at its end; and where it lies."""
    before, after = _wrap(carrier, rng)
    places = _sentences(carrier)
    place = rng.choice((0, len(carrier), rng.choice(places), rng.choice(places)))
    dressed = _dress(planted, rng)
    head = before + carrier[:place] + (" " if place and not dressed[:1].isspace() else "")
    text = head + dressed + " " + carrier[place:] + after
    return text, (len(head), len(head) + len(dressed))


def outside(stocked: Stock, count: int, rng: Rng) -> list[Example]:
    """`count` texts from outside, half with an order planted, half honest (a third of those with an errand: an
    honest imperative that is meant for the reader of the text)."""
    made = []
    for number in range(count):
        carrier = rng.choice(stocked.carriers)
        body = _cut(carrier.text, rng, rng.choice((200, 500, 900)))
        if number % 2:
            order = rng.choice(stocked.orders)
            text, marked = plant(body, order.text, rng)
            said = {"injection_indirect": 1.0}
            made.append(Example(text, said, "planted", "tool_result", family=order.family, marked=marked, weight=0.8))
        elif stocked.errands and rng.random() < 0.5:
            text, marked = plant(body, rng.choice(stocked.errands), rng)
            made.append(Example(text, targets("benign", "tool_result"), "planted", "tool_result", marked=marked))
        else:
            before, after = _wrap(body, rng)
            made.append(Example(before + body + after, targets("benign", "tool_result"), "planted", "tool_result"))
    return made


def fill(example: Example, stocked: Stock, rng: Rng) -> Example:
    """A jailbreak template with a request in its slot."""
    for slot in SLOTS:
        if slot in example.text:
            return replace(example, text=example.text.replace(slot, rng.choice(stocked.prompts).text))
    return example


def company(stocked: Stock, direct: Sequence[Example], count: int, rng: Rng) -> list[Example]:
    """`count` prompts of two pieces: an attack or a harmful request beside an honest one keeps its label, two
    honest ones stay honest. Without them a model learns that joined texts are attacks."""
    honest = [e for e in stocked.prompts if e.targets.get("harmful") == 0.0]
    made = []
    for number in range(count):
        first = rng.choice(direct) if number % 2 else rng.choice(honest)
        second = rng.choice(stocked.longs) if stocked.longs and rng.random() < 0.5 else rng.choice(honest)
        said = {k: v for k, v in first.targets.items() if v == 1.0 or second.targets.get(k) == 0.0}
        piece, beside = _cut(first.text, rng, 400), _cut(second.text, rng, rng.choice((300, 800)))
        place = rng.choice((0, len(beside), rng.choice(_sentences(beside))))
        glue = rng.choice(("\n\n", "\n", " ", "\n---\n"))
        before = beside[:place] + glue if place else ""
        text = before + piece + glue + beside[place:]
        marked = (len(before), len(before) + len(piece))
        made.append(Example(text, said, "company", "prompt", weight=0.6 * first.weight, marked=marked))
    return made


ECHO = 0.5
"""How many composed answers take up the words of their question, as real ones do, those that refuse too."""


def _echoed(told: str, asked: str, helps: bool, rng: Rng) -> str:
    """An answer that says again what was asked for, and begins with it where it `helps`."""
    subject = _cut(asked.strip().rstrip("?.!"), rng, 200)
    before, after = (f"{subject}:\n\n{told}", f'"{subject}"\n{told}', f"# {subject}\n\n{told}"), f"{told}\n\n{subject}."
    said = rng.choice((*before, after))
    if not helps or rng.random() < 0.6:
        return said
    return f"{said}\n1. First, {subject[:1].lower()}{subject[1:]}.\n2. Then go on from there."


def answers(stocked: Stock, count: int, rng: Rng) -> list[Example]:
    """`count` answers in their conversation. Nothing in "Sure, here is how" is bad but what it answers, and no
    question makes a refusal bad; an honest answer to something else stays honest."""
    harmful = [e for e in stocked.prompts if e.targets.get("harmful") == 1.0]
    honest = [e for e in stocked.prompts if e.targets.get("harmful") == 0.0]
    hateful = [e for e in harmful if e.targets.get("hate") == 1.0] or harmful
    made = []
    for number in range(count):
        kind = number % 6
        asked = rng.choice((harmful, honest, harmful, harmful, hateful, honest)[kind])
        told = rng.choice(
            (
                stocked.complies,
                stocked.complies,
                stocked.refusals,
                stocked.answers,
                stocked.posts or stocked.complies,
                stocked.answers,
            )[kind]
        )
        # An answer that helps is of its question's category; a refusal is of none.
        helped = asked.targets if kind == 0 else told.targets if kind == 4 else dict.fromkeys(CATEGORIES, 0.0)
        said = {"harmful_answer": float(kind in {0, 4})} | {k: v for k, v in helped.items() if k in CATEGORIES}
        before = f"{rng.choice(honest).text}\n{asked.text}" if rng.random() < 0.3 else asked.text
        text = _cut(told.text, rng, 500)
        if kind in {0, 1, 2} and rng.random() < ECHO:
            text = _echoed(text, asked.text, kind < 2, rng)
        if kind < 2 and rng.random() < 0.4:
            text += "\n\n" + _cut(rng.choice(stocked.complies).text, rng, 300)
        made.append(Example(text, said, "answered", "response", told.lang, 0.5, context=before))
    return made


def forget(example: Example, rng: Rng, share: float = 0.25) -> Example:
    """An answer without its question, with probability `share`: not every caller keeps it."""
    return replace(example, context="") if example.context and rng.random() < share else example


def _spaced(text: str, rng: Rng) -> str:
    return " ".join(text) if len(text) < 120 else text


def _dotted(text: str, rng: Rng) -> str:
    words = text.split(" ")
    place = rng.randrange(len(words))
    words[place] = rng.choice(".-_ ").join(words[place])
    return " ".join(words)


def _typo(text: str, rng: Rng) -> str:
    letters = list(text)
    for _ in range(max(1, len(letters) // 40)):
        place = rng.randrange(len(letters))
        letters[place : place + 2] = reversed(letters[place : place + 2])
    return "".join(letters)


def _sparse(text: str, rng: Rng) -> str:
    return "".join(c.translate(LOOKALIKE) if rng.random() < 0.3 else c for c in text)


DISGUISES: tuple[Callable[[str, Rng], str], ...] = (
    lambda text, rng: text.upper(),
    lambda text, rng: text.lower(),
    lambda text, rng: text.translate(LEET),
    lambda text, rng: text.rstrip(".?!"),
    lambda text, rng: f"  {text}\n\n",
    lambda text, rng: text.replace(" ", "  "),
    lambda text, rng: f'"{text}"',
    lambda text, rng: json.dumps({"prompt": text}, ensure_ascii=False),
    lambda text, rng: rng.choice(("please ", "hey, ", "Hi! ", "ok so ", "Question: ", "User: ")) + text,
    lambda text, rng: (
        text + rng.choice((" please", " thanks", " asap", " Explain in detail.", " Keep it short.", " 😀"))
    ),
    _spaced,
    _dotted,
    _typo,
    _sparse,
)


def disguise(example: Example, rng: Rng, share: float) -> Example:
    """The example as it is, or with probability `share` in one disguise. Honest texts too: a disguise says nothing."""
    if rng.random() >= share or not example.text.strip() or example.marked:
        return example
    return replace(example, text=rng.choice(DISGUISES)(example.text, rng))


COMPOSED = 300
"""Composed orders, and as many errands, that are planted beside those that were written one by one."""


def _with_composed(stocked: Stock, rng: Rng) -> Stock:
    orders, errands = compose.planted("order", COMPOSED, rng), compose.planted("errand", COMPOSED, rng)
    said = {"injection_indirect": 1.0}
    made = tuple(Example(text, said, "composed", "tool_result", "en", family="order") for text in orders)
    return replace(stocked, orders=stocked.orders + made, errands=stocked.errands + tuple(errands))


def epoch(examples: Sequence[Example], rng: Rng, share: float = 0.15, extra: float = 0.16) -> list[Example]:
    """The texts of one epoch: every example once, perhaps disguised, and `extra` of their number composed."""
    stocked = stock(examples)
    direct = [
        e
        for e in examples
        if e.role == "prompt" and any(e.targets.get(k) == 1.0 for k in ("injection", "jailbreak", "harmful"))
    ]
    made = [disguise(fill(forget(example, rng), stocked, rng), rng, share) for example in examples]
    count = int(extra * len(examples))
    if stocked.complies and stocked.refusals and stocked.answers and direct:
        made += answers(stocked, count // 3, rng)
    if stocked.carriers and stocked.orders:
        made += outside(_with_composed(stocked, rng), count, rng) + compose.outside(count // 2, rng)
    if direct and stocked.prompts:
        made += company(stocked, direct, count // 2, rng)
        made += [disguise(fill(each, stocked, rng), rng, share) for each in compose.personas(count // 3, rng)]
    rng.shuffle(made)
    return made

"""What a threshold on orders in tool results costs and brings: `python -m tests.bench.orders --data DIR`.

DIR holds dev/ with *.jsonl.gz. Orders are planted in passages of sets that the model was not trained on, as the card
counts them; READMEs are those of the packages that are installed here, their first 6,000 letters as one tool result.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

from classifiers.base import Message, Role
from classifiers.embedded import MODELS, Embedded, read_card
from classifiers.statistics import clopper_pearson
from classifiers.training import corpus
from classifiers.training.judge import planted

LABEL = "injection_indirect"
HEAD = read_card(MODELS / "minilm-heads").head(LABEL)
THRESHOLDS = (HEAD.log, HEAD.block, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99)
SHORTEST, LONGEST = 500, 6_000


def scores(texts: Sequence[str]) -> list[float]:
    """The head's score of each text, read alone as a tool result."""
    guard = Embedded.from_options("guard", {"labels": [LABEL], "min_score": 0.0})
    seen = [guard.classify([Message(Role.TOOL_RESULT, text, "/text")]) for text in texts]
    return [max((each.score for each in found), default=0.0) for found in seen]


def readmes(most: int) -> list[str]:
    """The pages of installed packages, drawn at random."""
    pages = {(each.read_text("METADATA") or "").partition("\n\n")[2] for each in distributions()}
    long = sorted(page[:LONGEST] for page in pages if len(page) > SHORTEST)
    return random.Random(5).sample(long, min(most, len(long)))


def share(found: Sequence[float], at_least: float) -> str:
    """How many reach a threshold, with the 95 % interval."""
    hits = sum(score >= at_least for score in found)
    low, high = clopper_pearson(hits, len(found))
    return f"{hits} of {len(found)}, {hits / len(found):.1%} ({low:.1%} to {high:.1%})"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.orders", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--readmes", type=int, default=200)
    parser.add_argument("--planted", type=int, default=800, help="passages, half of them with an order")
    given = parser.parse_args()
    dev, _ = corpus.load(given.data, "dev", cap=600)
    made = planted(dev, corpus.handwritten()[1], given.planted)
    sides = [[each.text for each in made if (each.targets[LABEL] > 0.5) is bad] for bad in (True, False)]
    bad, honest, pages = map(scores, (*sides, readmes(given.readmes)))
    print("| from | planted orders | honest passages | READMEs |\n|---|---|---|---|")
    for at_least in THRESHOLDS:
        print(f"| {at_least:g} | {share(bad, at_least)} | {share(honest, at_least)} | {share(pages, at_least)} |")


if __name__ == "__main__":
    main()

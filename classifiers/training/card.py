"""Calibration, thresholds and figures of judged examples, written down as the card that ships with the weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..encoder import Head
from ..windows import OVERLAP, SIZE
from . import calibrate, encoder, measure
from .calibrate import Budget, Group
from .corpus import Example
from .fit import Recipe
from .judge import Judged
from .labels import ATTACKS, CATEGORIES, LABELS, Label
from .measure import Floats

# Of all prompts together, whichever head stops them; of each other head alone. What is noted of one plain source stays
# below the goal of a tenth, since a policy judges other readings of a text, too: three more of wildchat's 241.
BUDGETS = {"block": Budget(0.0075, 0.01, 0.10), "log": Budget(0.10, 0.087, 0.25)}
ALONE = {"block": Budget(0.005, 0.008, 0.05), "log": Budget(0.03, 0.06, 0.15)}
OUTSIDE = {"block": Budget(0.01, 0.01, 0.01), "log": Budget(0.06, 0.06, 0.06)}
"""All honest texts of outside that are measured look like orders."""
ANSWERS = {"block": Budget(0.01, 0.01, 0.01), "log": Budget(0.05, 0.05, 0.05)}
ENOUGH = 40
BAD = tuple(name for name in CATEGORIES if "dual_use" not in name)
LIMITS = (
    "The base knows English. Other languages are read in pieces of words: look at the figures by language.",
    "Heads marked `and held rows`: most rows are of the training sources and were kept out, not of unseen sources.",
    "A dash under ECE: fewer than 20 bad rows are known, and what an error of calibration would be there is chance.",
    "harmful_answer knows harmful answers of one source beside ours; give it the conversation.",
    "The tiers of cyber and bio/chem were learnt from few rows; dual-use tiers are for routing and logs only.",
    "Thresholds were set on the honest dev rows that over-refusal is reported on: `crossed` shows other rows.",
    "injection_indirect blocks up to 1 % of honest texts that look like orders; ordinary prose lies far below, "
    "documentation for programmers above: `python -m tests.bench.orders` counts READMEs of packages.",
    "A text of outside is judged alone: whether an order in it is honest depends on who sent it.",
    "Encoded, spaced or look-alike text must be decoded before it is judged; only some disguises were trained on.",
    "Scores are probabilities where bad and honest texts are equally many; live traffic holds far fewer bad ones.",
)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(directory: Path, card: Mapping[str, Any]) -> None:
    """Writes card.json (with the digests of the files beside it) and card.md."""
    files = {name: digest(directory / name) for name in ("model.onnx", "tokenizer.json")}
    whole = {**card, "files": files}
    (directory / "card.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if "figures" in whole:
        (directory / "card.md").write_text(_page(whole), "utf-8")


def blank(name: str) -> dict[str, Any]:
    """A card whose scores are sigmoids of raw logits: what the files are judged with before calibration."""
    return {
        "name": name,
        "version": 1,
        "window": {"tokens": SIZE, "overlap": OVERLAP},
        "special": {"first": encoder.FIRST, "last": encoder.LAST},
        "context": {"tokens": Recipe().context},
        "heads": [
            {
                "label": label.name,
                "roles": list(label.roles),
                "meaning": label.meaning,
                "scale": 1.0,
                "bias": 0.0,
                "block": 1.0,
                "log": 1.0,
            }
            for label in LABELS
        ],
    }


def finish(name: str, dev: Judged, rest: Judged, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The whole card. `dev` are examples of sources that were not trained on, `rest` rows of the training sources that
    were kept out; `facts` (sources, recipe, quantisation, cost) are taken over as they are."""
    heads = [_head(label, dev, rest) for label in LABELS]
    _set_thresholds(heads, dev)
    card = blank(name) | {"heads": heads, "limits": list(LIMITS)} | dict(facts)
    card["figures"] = {
        "over_refusal": _over_refusal(dev, heads),
        "per_source": _per_source(dev, heads),
        "languages": _languages(dev),
        "suites": _suites(dev),
    }
    return card


PROMPT_HEADS = ("injection", "jailbreak", "harmful")
SHARES = {"block": 0.2, "log": 0.35}
"""What each but the last of them takes of the budget that is left. Small sources leave one or two blocks in all."""
NOT_ASKED = {"harmful_answer": "answers", "injection_indirect": "outside"}
"""Heads that prompts are not asked of, and the suite of the texts that they are asked of."""


def _groups(label: str, dev: Judged, scores: Floats, taken: NDArray[np.bool_]) -> list[Group]:
    """The honest texts of each source on which thresholds of `label` are set; sources of few texts as one, and texts
    that are not asked of prompts as one, since most are composed of the same passages."""
    suites = {NOT_ASKED[label]} if label in NOT_ASKED else {"honest", "contrast"}
    places: dict[tuple[bool, str], list[int]] = defaultdict(list)
    for place, example in enumerate(dev.examples):
        if example.targets.get(label) == 0.0 and example.suite in suites:
            source = "all" if label in NOT_ASKED else example.source
            places[example.suite != "honest", source].append(place)
    few = [key for key, found in places.items() if len(found) < ENOUGH]
    for key in few:
        places[key[0], "others"] += places.pop(key)
    return [Group(scores[found], taken[found], contrast) for (contrast, _), found in places.items()]


def _set_thresholds(heads: Sequence[dict[str, Any]], dev: Judged) -> None:
    """Writes `block` and `log` into `heads`: within the budgets on the honest texts of `dev`. Heads that are asked
    together share a budget; the last of them takes what the others left."""
    by_name = {head["label"]: head for head in heads}
    for level in ("block", "log"):
        taken = np.zeros(len(dev.examples), bool)
        for place, label in enumerate(PROMPT_HEADS):
            head = by_name[label]
            scores = _scores(head, dev)
            share = 1.0 if place == len(PROMPT_HEADS) - 1 else SHARES[level]
            head[level] = _up(calibrate.threshold(_groups(label, dev, scores, taken), BUDGETS[level], share))
            taken |= scores >= head[level]
        for label, head in by_name.items():
            if label not in PROMPT_HEADS:
                groups = _groups(label, dev, _scores(head, dev), np.zeros(len(dev.examples), bool))
                budgets = {"outside": OUTSIDE, "answers": ANSWERS}.get(NOT_ASKED.get(label, ""), ALONE)
                head[level] = _up(calibrate.threshold(groups, budgets[level]))
    for head in heads:
        head["log"] = min(head["log"], head["block"])


def _scores(head: Mapping[str, Any], judged: Judged) -> Floats:
    """Calibrated probabilities (n,) of one head."""
    return _chances(head, judged.head(head["label"]))


def _chances(told: Mapping[str, Any], logits: Floats) -> Floats:
    curve = tuple((logit, odds) for logit, odds in told.get("curve", ()))
    head = Head("", told["scale"], told["bias"], 1.0, 1.0, (), curve)
    return np.asarray(0.5 * (1 + np.tanh(0.5 * head.odds(logits))))


def _english(example: Example) -> bool:
    """Whether a text is English, by its suite, its source's word and its letters."""
    if example.suite in {"language", "harmful_language"} or example.lang not in {"", "en"}:
        return False
    return sum(char.isascii() for char in example.text) >= 0.9 * len(example.text)


def measured(example: Example, label: str) -> bool:
    """Whether the figures of `label` count a text: English, with labels that can be trusted. A hateful post is no
    request."""
    return _english(example) and example.suite not in {"harmful_noisy", "posts" if label == "harmful" else ""}


def _head(label: Label, dev: Judged, rest: Judged) -> dict[str, Any]:
    pool, where = dev.where(lambda e: measured(e, label.name)), "unseen sources"
    if sum(e.targets.get(label.name) == 1.0 for e in pool.examples) < ENOUGH:
        pool, where = pool.beside(rest), "unseen sources and held rows"
    known = pool.where(lambda e: label.name in e.targets)
    logits = known.head(label.name)
    truth = np.array([e.targets[label.name] for e in known.examples])
    weights = calibrate.sources_alike([e.source for e in known.examples], truth)
    fitted, error = _calibrated(logits, truth, weights)

    bad, honest = logits[truth == 1], logits[truth == 0]
    low, high = measure.resampled(bad, honest) if len(bad) and len(honest) else (math.nan, math.nan)
    return {
        "label": label.name,
        "roles": list(label.roles),
        "meaning": label.meaning,
        **fitted,
        "block": 1.0,
        "log": 1.0,
        "measured_on": where,
        "bad": len(bad),
        "honest": len(honest),
        "auroc": _round(measure.auroc(bad, honest)),
        "auroc_95": [_round(low), _round(high)],
        "average_precision": _round(measure.precision_area(bad, honest)),
        "recall_at_1_percent": _round(measure.recall_at(bad, honest, 0.01)),
        "calibration_error": _round(error) if (truth == 1).sum() >= FEW else None,
    }


FEW, MANY, GAIN = 20, 100, 0.005
"""Bad rows below which an error of calibration would be chance; rows of each side from which a curve may be fitted;
what it must win over a line, since it has more to go wrong with."""


def _line(logits: Floats, truth: Floats, weights: Floats) -> dict[str, Any]:
    scale, bias = calibrate.platt(logits, truth, weights)
    return {"scale": round(scale, 5), "bias": round(bias, 5)}


def _curved(logits: Floats, truth: Floats, weights: Floats) -> dict[str, Any]:
    knots = [[round(value, 4) for value in knot] for knot in calibrate.curve(logits, truth, weights)]
    return _line(logits, truth, weights) | {"curve": knots}


def _calibrated(logits: Floats, truth: Floats, weights: Floats) -> tuple[dict[str, Any], float]:
    """A line, or a curve where there are rows enough and it errs less on rows that it was not fitted on; and that
    error."""
    line, curve = (_crossed_error(fit, logits, truth, weights) for fit in (_line, _curved))
    if min((truth == 1).sum(), (truth == 0).sum()) >= MANY and curve < line - GAIN:
        return _curved(logits, truth, weights), curve
    return _line(logits, truth, weights), line


def _crossed_error(fit: Any, logits: Floats, truth: Floats, weights: Floats, folds: int = 5) -> float:
    """Expected calibration error, each row with the calibration of the folds that it is not in."""
    fold = np.random.default_rng(0).integers(0, folds, len(logits))
    scores = np.zeros(len(logits))
    for number in range(folds):
        rest = fold != number
        scores[~rest] = _chances(fit(logits[rest], truth[rest], weights[rest]), logits[~rest])
    return measure.calibration_error(scores, truth, weights)


def _up(value: float) -> float:
    """Rounded up, more finely near 1: a threshold that could not rise would spend what other heads may block."""
    steps = 1e4 if value < 0.999 else 1e6
    return min(math.ceil(value * steps) / steps, 0.999999)


def _round(value: float, digits: int = 4) -> float | None:
    return None if math.isnan(value) else round(value, digits)


def _fired(dev: Judged, heads: Sequence[Mapping[str, Any]], level: str, labels: Sequence[str]) -> Floats:
    """(n,) whether any of `labels` reaches its threshold `level`."""
    fired = np.zeros(len(dev.examples), bool)
    for head in heads:
        if head["label"] in labels:
            fired |= _scores(head, dev) >= head[level]
    return fired.astype(np.float64)


def asked(role: str) -> tuple[str, ...]:
    """The labels that a policy asks about for a text in `role` (prompt, document, tool_result, response)."""
    if role == "response":
        return ("harmful_answer",)
    if role in {"document", "tool_result"}:
        return ("injection_indirect",)
    return ("injection", "jailbreak", "harmful")


def _crossed(dev: Judged, heads: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    """(n,) by level: whether an example is stopped with thresholds that were set on the half that it is not in."""
    half = np.random.default_rng(1).random(len(dev.examples)) < 0.5
    found = {level: np.zeros(len(half)) for level in ("block", "log")}
    for side in (half, ~half):
        copies = [dict(head) for head in heads]
        _set_thresholds(copies, dev.at(np.flatnonzero(side)))
        for level, fired in found.items():
            for role in {e.role for e in dev.examples}:
                chosen = ~side & np.array([e.role == role for e in dev.examples])
                fired[chosen] = _fired(dev, copies, level, asked(role))[chosen]
    return found


def _over_refusal(dev: Judged, heads: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Honest texts of each dev source that any head, asked as its roles say, would block or log."""
    found: dict[str, Any] = {}
    crossed = _crossed(dev, heads)
    for source in sorted({e.source for e in dev.examples}):
        places = [
            i
            for i, e in enumerate(dev.examples)
            if e.source == source and bool(e.targets) and not any(e.targets.values())
        ]
        part = dev.at(places)
        if len(places) < 5:
            continue
        labels = asked(part.examples[0].role)
        row: dict[str, Any] = {"suite": part.examples[0].suite, "texts": len(part.examples)}
        for level in ("block", "log"):
            fired = _fired(part, heads, level, labels)
            row[level] = _round(float(fired.mean()))
            row[f"{level}_at_most"] = _round(measure.upper_bound(int(fired.sum()), len(fired)))
            row[f"{level}_crossed"] = _round(float(crossed[level][places].mean()))
        if labels == asked("prompt"):
            row["any_category_block"] = _round(float(_fired(part, heads, "block", BAD).mean()))
        found[source] = row
    return found


def _per_source(dev: Judged, heads: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For each source with bad texts: against its own honest texts and against all honest prompts."""
    honest = dev.where(lambda e: e.suite == "honest")
    found: dict[str, Any] = {}
    for source in sorted({e.source for e in dev.examples}):
        part = dev.where(lambda e, s=source: e.source == s)  # type: ignore[misc]
        for label in (*ATTACKS, "harmful", "harmful_answer"):
            bad = part.scores(label, 1.0)
            if len(bad) < 10:
                continue
            mine = part.scores(label, 0.0)
            others = honest.scores(label, 0.0) if label not in {"injection_indirect", "harmful_answer"} else mine
            fired = part.where(lambda e, k=label: e.targets.get(k) == 1.0)  # type: ignore[misc]
            found[f"{source} / {label}"] = {
                "texts": len(bad),
                "auroc": _round(measure.auroc(bad, others)),
                "average_precision": _round(measure.precision_area(bad, others)),
                "recall_at_1_percent": _round(measure.recall_at(bad, others, 0.01)),
                "auroc_own_honest": _round(measure.auroc(bad, mine)) if len(mine) >= 10 else None,
                "caught_block": _round(float(_fired(fired, heads, "block", (label,)).mean())),
                "caught_log": _round(float(_fired(fired, heads, "log", (label,)).mean())),
            }
    return found


def _languages(dev: Judged) -> dict[str, Any]:
    """By language, where a source has both sides in it: AUROC of `harmful`."""
    found: dict[str, Any] = {}
    pairs = {(e.source, e.lang) for e in dev.examples if e.lang and e.suite in {"language", "posts"}}
    for source, lang in sorted(pairs):
        part = dev.where(lambda e, s=source, k=lang: e.source == s and e.lang == k)  # type: ignore[misc]
        bad, honest = part.scores("harmful", 1.0), part.scores("harmful", 0.0)
        if len(bad) >= 10 and len(honest) >= 10:
            found[f"{source} / {lang}"] = {"texts": len(part.examples), "auroc": _round(measure.auroc(bad, honest))}
    return found


def suites(dev: Judged) -> dict[str, tuple[Floats, Floats]]:
    """Logits of the bad and of the honest side of each figure that was aimed at. The honest side is English: all honest
    prompts, and the contrast sets where the name says so."""
    attack = np.maximum(dev.head("injection"), dev.head("jailbreak"))
    honest = [_english(e) and e.suite == "honest" and not any(e.targets.values()) for e in dev.examples]
    plain = [
        h or (e.suite == "contrast" and not any(e.targets.values())) for h, e in zip(honest, dev.examples, strict=True)
    ]

    def bad(label: str, *among: str, but: str = "") -> list[bool]:
        return [
            e.targets.get(label) == 1.0 and e.suite in among and e.source != but and _english(e) for e in dev.examples
        ]

    attacks = [a or b for a, b in zip(bad("injection", "attacks"), bad("jailbreak", "attacks", "harmful"), strict=True)]
    requests = ("harmful", "contrast", "attacks")
    harmful = dev.head("harmful")
    found = {
        "harmful requests": (harmful, bad("harmful", *requests), honest),
        "harmful requests without code (rmcbench)": (harmful, bad("harmful", *requests, but="rmcbench"), honest),
        "harmful requests, honest with contrast": (harmful, bad("harmful", *requests), plain),
        "plain harmful requests": (harmful, bad("harmful", "harmful"), honest),
        "harmful requests, contrast sets": (harmful, bad("harmful", "contrast"), plain),
        "noisily labelled harmful": (harmful, bad("harmful", "harmful_noisy"), honest),
        "injection and jailbreak": (attack, attacks, honest),
        "injection and jailbreak, honest with contrast": (attack, attacks, plain),
    }
    return {name: (scores[np.array(a, bool)], scores[np.array(b, bool)]) for name, (scores, a, b) in found.items()}


def _suites(dev: Judged) -> dict[str, Any]:
    found = {}
    for name, (bads, honests) in suites(dev).items():
        found[name] = {
            "bad": len(bads),
            "honest": len(honests),
            "auroc": _round(measure.auroc(bads, honests)),
            "average_precision": _round(measure.precision_area(bads, honests)),
            "recall_at_0_1_percent": _round(measure.recall_at(bads, honests, 0.001)),
            "recall_at_1_percent": _round(measure.recall_at(bads, honests, 0.01)),
        }
    return found


def _cells(*values: Any) -> str:
    return "| " + " | ".join("-" if value is None else str(value) for value in values) + " |"


def _page(card: Mapping[str, Any]) -> str:
    """card.md: the same facts for people."""
    figures = card["figures"]
    lines = [f"# {card['name']}", "", card.get("summary", ""), "", "## Heads", ""]
    lines += [
        "Scores are calibrated probabilities. `block` and `log` are suggested thresholds, set on honest dev texts.",
        "",
        _cells("label", "asked of", "block", "log", "AUROC", "recall at 1 %", "ECE", "bad / honest", "measured on"),
        _cells(*["---"] * 9),
    ]
    lines += [
        _cells(
            h["label"],
            ", ".join(h["roles"]),
            h["block"],
            h["log"],
            h["auroc"],
            h["recall_at_1_percent"],
            h["calibration_error"],
            f"{h['bad']} / {h['honest']}",
            h["measured_on"],
        )
        for h in card["heads"]
    ]
    for title, table in (
        ("Suites (English; unseen sources)", figures["suites"]),
        ("Per source", figures["per_source"]),
        ("Over-refusal at the shipped thresholds (injection, jailbreak, harmful together)", figures["over_refusal"]),
        ("Languages (harmful, a source's own honest texts)", figures["languages"]),
    ):
        if table:
            names = list(dict.fromkeys(key for row in table.values() for key in row))
            lines += ["", f"## {title}", "", _cells("", *names), _cells(*["---"] * (len(names) + 1))]
            lines += [_cells(key, *(row.get(name) for name in names)) for key, row in table.items()]
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in card["limits"])]
    lines += ["", "## Training", "", "```json", json.dumps(card["training"], indent=1), "```", ""]
    lines += ["## Sources", "", _cells("source", "licence", "texts"), _cells("---", "---", "---")]
    lines += [_cells(s["source"], s["licence"], s["texts"]) for s in card["sources"]]
    lines += ["", "## Files", "", *(f"- `{name}` sha256 `{value}`" for name, value in card["files"].items()), ""]
    return "\n".join(lines)

"""Calibration, thresholds and figures of judged examples, written down as the card that ships with the weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..windows import OVERLAP, SIZE
from . import calibrate, encoder, measure
from .corpus import Example
from .judge import Judged
from .labels import ATTACKS, CATEGORIES, LABELS, Label
from .measure import Floats

BLOCK_BUDGET, LOG_RATE = 0.003, 0.02
ENOUGH = 40
LIMITS = (
    "The base knows English. Other languages are read in pieces of words: look at the figures by language.",
    "Category heads marked `held rows` were measured on rows of the training sources, not on unseen sources.",
    "harmful_answer is experimental: one training source, and it sees the answer without its question.",
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
    card = blank(name) | {"heads": heads, "limits": list(LIMITS)} | dict(facts)
    card["figures"] = {
        "over_refusal": _over_refusal(dev, heads),
        "per_source": _per_source(dev, heads),
        "languages": _languages(dev),
        "suites": _suites(dev),
    }
    return card


def _honest(label: str) -> Callable[[Example], bool]:
    """The honest texts on which thresholds of `label` are set."""
    if label == "harmful_answer":
        return lambda e: e.suite == "answers"
    if label == "injection_indirect":
        return lambda e: e.suite == "outside"
    return lambda e: e.suite == "honest"


def _english(example: Example) -> bool:
    return example.suite not in {"language", "harmful_language", "harmful_noisy"}


def _head(label: Label, dev: Judged, rest: Judged) -> dict[str, Any]:
    pool, where = dev.where(_english), "unseen sources"
    if sum(e.targets.get(label.name) == 1.0 for e in pool.examples) < ENOUGH:
        pool, where = rest, "held rows"
    known = pool.where(lambda e: label.name in e.targets)
    logits = known.head(label.name)
    truth = np.array([e.targets[label.name] for e in known.examples])
    weights = calibrate.sources_alike([e.source for e in known.examples], truth)
    scale, bias = calibrate.platt(logits, truth, weights)

    def probability(values: Floats) -> Floats:
        return np.asarray(0.5 * (1 + np.tanh(0.5 * (scale * values + bias))))

    block, log = _thresholds(label.name, dev, probability)
    bad, honest = logits[truth == 1], logits[truth == 0]
    low, high = measure.resampled(bad, honest) if len(bad) and len(honest) else (math.nan, math.nan)
    return {
        "label": label.name,
        "roles": list(label.roles),
        "meaning": label.meaning,
        "scale": round(scale, 5),
        "bias": round(bias, 5),
        "block": block,
        "log": log,
        "measured_on": where,
        "bad": len(bad),
        "honest": len(honest),
        "auroc": _round(measure.auroc(bad, honest)),
        "auroc_95": [_round(low), _round(high)],
        "average_precision": _round(measure.precision_area(bad, honest)),
        "recall_at_1_percent": _round(measure.recall_at(bad, honest, 0.01)),
        "calibration_error": _round(_crossed_error(logits, truth, weights)),
    }


def _crossed_error(logits: Floats, truth: Floats, weights: Floats) -> float:
    """Expected calibration error on the half of the rows that calibration did not see."""
    half = np.random.default_rng(0).random(len(logits)) < 0.5
    if not half.any() or half.all():
        return math.nan
    scale, bias = calibrate.platt(logits[half], truth[half], weights[half])
    other = 0.5 * (1 + np.tanh(0.5 * (scale * logits[~half] + bias)))
    return measure.calibration_error(other, truth[~half], weights[~half])


def _thresholds(label: str, dev: Judged, probability: Callable[[Floats], Floats]) -> tuple[float, float]:
    """Pooled budgets, and no single honest source far above them."""
    wanted = _honest(label)
    honest = probability(dev.where(wanted).scores(label, 0.0))
    if not len(honest):
        return 1.0, 1.0
    block, log = calibrate.thresholds(honest, BLOCK_BUDGET, LOG_RATE)
    by_source: dict[tuple[str, str], list[float]] = defaultdict(list)
    for example, value in zip(dev.examples, probability(dev.head(label)), strict=True):
        if example.targets.get(label) == 0.0 and (wanted(example) or example.suite == "contrast"):
            by_source[example.suite, example.source].append(float(value))
    for (suite, _), values in by_source.items():
        if len(values) >= ENOUGH:
            loose = suite in {"contrast", "answers", "outside"}
            block = max(block, measure.threshold_at(np.array(values), 0.05 if loose else 0.008))
            log = max(log, measure.threshold_at(np.array(values), 0.15 if loose else 0.06))
    block = min(_up(block), 0.9999)
    return block, min(block, _up(log))


def _up(value: float) -> float:
    return math.ceil(value * 1e4) / 1e4


def _round(value: float, digits: int = 4) -> float | None:
    return None if math.isnan(value) else round(value, digits)


def _fired(dev: Judged, heads: Sequence[Mapping[str, Any]], level: str, labels: Sequence[str]) -> Floats:
    """(n,) whether any of `labels` reaches its threshold `level`."""
    fired = np.zeros(len(dev.examples), bool)
    for head in heads:
        if head["label"] in labels:
            score = 0.5 * (1 + np.tanh(0.5 * (head["scale"] * dev.head(head["label"]) + head["bias"])))
            fired |= score >= head[level]
    return fired.astype(np.float64)


def asked(role: str) -> tuple[str, ...]:
    """The labels that a policy asks about for a text in `role` (prompt, document, tool_result, response)."""
    if role == "response":
        return ("harmful_answer",)
    if role in {"document", "tool_result"}:
        return ("injection_indirect",)
    return ("injection", "jailbreak", "harmful")


def _over_refusal(dev: Judged, heads: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Honest texts of each dev source that any head, asked as its roles say, would block or log."""
    found: dict[str, Any] = {}
    for source in sorted({e.source for e in dev.examples}):
        part = dev.where(lambda e, s=source: e.source == s and bool(e.targets) and not any(e.targets.values()))  # type: ignore[misc]
        if len(part.examples) < 5:
            continue
        labels = asked(part.examples[0].role)
        row: dict[str, Any] = {"suite": part.examples[0].suite, "texts": len(part.examples)}
        for level in ("block", "log"):
            fired = _fired(part, heads, level, labels)
            row[level] = _round(float(fired.mean()))
            row[f"{level}_at_most"] = _round(measure.upper_bound(int(fired.sum()), len(fired)))
        if labels == asked("prompt"):
            row["any_category_block"] = _round(float(_fired(part, heads, "block", CATEGORIES).mean()))
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


def _suites(dev: Judged) -> dict[str, Any]:
    """The suites of the design notes, so that the figures can be held against the baselines there."""
    everything = dev.logits[:, : len(LABELS)]
    attack = np.maximum(dev.head("injection"), dev.head("jailbreak"))
    either = np.maximum(attack, dev.head("harmful"))
    english = np.array([_english(e) for e in dev.examples])
    plain = np.array([e.suite in {"honest", "contrast"} and not any(e.targets.values()) for e in dev.examples])
    suites = {
        "attacks on instructions": (attack, [e.suite == "attacks" and any(e.targets.values()) for e in dev.examples]),
        "attacks, any head": (either, [e.suite == "attacks" and any(e.targets.values()) for e in dev.examples]),
        "plain harmful requests": (
            dev.head("harmful"),
            [e.suite == "harmful" and e.targets.get("harmful") == 1.0 for e in dev.examples],
        ),
        "harmful requests, contrast sets": (
            dev.head("harmful"),
            [e.suite == "contrast" and e.targets.get("harmful") == 1.0 for e in dev.examples],
        ),
        "noisily labelled harmful": (dev.head("harmful"), [e.suite == "harmful_noisy" for e in dev.examples]),
    }
    assert len(everything) == len(english)
    found = {}
    for name, (scores, chosen) in suites.items():
        bad, honest = scores[np.array(chosen, bool)], scores[plain]
        found[name] = {
            "bad": len(bad),
            "honest": len(honest),
            "auroc": _round(measure.auroc(bad, honest)),
            "average_precision": _round(measure.precision_area(bad, honest)),
            "recall_at_0_1_percent": _round(measure.recall_at(bad, honest, 0.001)),
            "recall_at_1_percent": _round(measure.recall_at(bad, honest, 0.01)),
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
        ("Suites (honest side: all honest and contrast prompts)", figures["suites"]),
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

"""One evaluation from data and subject to its folder: the only place that puts the parts of this package together."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifiers.catalog import KINDS, OptionError, create

from ..load import load
from . import files
from .dataset import Dataset
from .figures import measure
from .report import render
from .runner import Tell, run
from .subject import LONG, ClassifierSubject, Outcome, PolicySubject, Subject, choose_labels

DEFAULT_POLICY = "baseline"


class CannotEvaluate(ValueError):
    """What was asked for cannot be measured; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A run in memory; `write` makes its folder."""

    manifest: Mapping[str, Any]
    outcomes: tuple[Outcome, ...]
    results: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Raises files.RunError."""
        page = render(self.manifest, self.results)
        files.write(folder, self.manifest, self.outcomes, self.results, page)


def policy_subject(policy: str | None = None, deadlines: bool = False) -> PolicySubject:
    """A policy by path or pack; the baseline where none is named. Raises PolicyError."""
    return PolicySubject(load(policy or DEFAULT_POLICY), deadlines)


def classifier_subject(
    name: str,
    bad_labels: Mapping[str, frozenset[str]],
    policy: str | None = None,
    findings: Sequence[str] = (),
    deadlines: bool = False,
) -> ClassifierSubject:
    """The classifier that `policy` calls `name`; without a policy one of the kind `name` with the kind's defaults, or
    the one that the baseline calls so. `bad_labels`: see Dataset. Raises PolicyError and CannotEvaluate."""
    deadline = LONG
    if policy is None and name in KINDS:
        try:
            classifier = create(name, name, {})
        except (OptionError, OSError) as error:
            mend = "define it in a policy, and name that with --policy"
            raise CannotEvaluate(f"--classifier {name}: {error}; {mend}") from None
    else:
        policies = load(policy or DEFAULT_POLICY)
        if name not in policies.classifiers:
            known = ", ".join(sorted(policies.classifiers)) or "none"
            kinds = "" if policy else f"; kinds are {', '.join(sorted(KINDS))}"
            where = policies.source
            raise CannotEvaluate(
                f"--classifier {name}: no classifier of {where} is called so; there are {known}{kinds}"
            )
        classifier = policies.classifiers[name]
        specs = {key: spec for each in policies.policies for key, spec in each.classifiers.items()}
        deadline = specs[name].deadline_ms / 1000 if deadlines else LONG
    try:
        return ClassifierSubject(classifier, choose_labels(classifier, bad_labels, findings), deadline)
    except ValueError as error:
        raise CannotEvaluate(f"--finding: {error}") from None


def evaluate(
    dataset: Dataset,
    subject: Subject,
    workers: int | None = None,
    keep_texts: bool = False,
    settings: Mapping[str, Any] | None = None,
    tell: Tell | None = None,
) -> Evaluation:
    """Judges every row and measures. `settings` go into the manifest as they are. Raises DatasetError where a file
    changes meanwhile, and CannotEvaluate where not one text could be judged."""
    options = dataset.options
    said: dict[str, Any] = {"workers": workers or files.cores(), "limit": options.limit, "seed": options.seed}
    manifest = files.manifest(dataset, subject.describe(), said | dict(settings or {}))
    started, begun = datetime.datetime.now(datetime.UTC), time.perf_counter()
    outcomes = run(subject, dataset.rows(), workers, keep_texts, tell)
    seconds = time.perf_counter() - begun
    if all(outcome.failures for outcome in outcomes):
        why = ", ".join(sorted({each for outcome in outcomes for each in outcome.failures})[:5])
        raise CannotEvaluate(f"not one of {len(outcomes)} texts could be judged ({why})")
    manifest["data"] |= files.counted(outcomes)
    manifest |= {"started": started.isoformat(timespec="seconds"), "seconds": round(seconds, 1)}
    manifest["late"] = _late(subject, outcomes)
    return Evaluation(manifest, tuple(outcomes), measure(outcomes, subject.ranks, options.seed))


def _late(subject: Subject, outcomes: Iterable[Outcome]) -> int | None:
    """Texts that took longer than the policy's longest deadline; None where there is none."""
    if not isinstance(subject, PolicySubject):
        return None
    deadline = subject.longest_deadline
    return sum(outcome.seconds > deadline for outcome in outcomes)

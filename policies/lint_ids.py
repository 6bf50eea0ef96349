"""What `penstock check` tells beside problems, by the id that stands in brackets behind it."""

from __future__ import annotations

TOLD: dict[str, str] = {
    "never-fires": "nothing can meet the condition of a rule, or a part of it, or it looks where nobody speaks",
    "shadowed": "another rule, no milder and no narrower, always fires with it",
    "threshold-one": "a threshold of 1 for a classifier that hardly ever says exactly 1",
    "threshold-untold": "a threshold below the lowest score that a classifier tells",
    "no-on-error": "a rule that stops or changes traffic does not say what silence of a classifier means",
    "no-stream": "a rule that stops or changes answers does not say how much of a streamed one waits",
    "no-cases": "a policy without a case",
    "untested-block": "a rule that says who answers lacks a case that it must stop, or one that must pass",
    "uncounted": "a condition looks up a count that no rule here raises",
    "gate-of-all": "`after` has a band in which every score lies",
    "effort": "`applies_to` names an effort that no request asks for",
    "unlikely-word": "a condition compares with what no request says: a `*`, slashes, an effort that is none, any text",
    "negated-class": "`[^x]` without a bound also matches line ends",
    "unbounded-pattern": "`.` without a bound joins what stands far apart",
    "slashes": "an expression between slashes finds the slashes, too",
    "literal-star": "a `*` in a word is that sign itself",
    "literal-quotes": "quotes that are no straight ones are a part of the word",
    "longer-than-hold-back": "an expression can match more letters than the rule lets wait of a stream",
    "comment": "a `#` without a blank behind it begins a comment in the middle of a text",
}

"""`python -m tests.vendors [openai|anthropic] [arguments of pytest]`. Exit codes: 0 alike, 1 not, 2 not to be had."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import pytest

from tests.vendors.compare import both_ways
from tests.vendors.suites import SUITES

SHOWN = 40


def main(arguments: Sequence[str]) -> int:
    """Run the suites that are named, or both; tell what differs."""
    named = [name for name in arguments[:1] if name in SUITES]
    more = list(arguments[len(named) :])
    if more:
        more.append("tests/api_resources")
    code = 0
    for name in named or SUITES:
        began = time.monotonic()
        try:
            found = both_ways(SUITES[name], more)
        except pytest.skip.Exception as error:
            print(f"{name}: not run: {error}", file=sys.stderr)
            return 2
        counts = ", ".join(f"{count} {words}" for words, count in sorted(found.direct.items()))
        took = time.monotonic() - began
        print(f"{name}: directly {counts}; through Penstock {len(found.different)} end otherwise ({took:.0f} s)")
        for test, direct, through in found.different[:SHOWN]:
            print(f"  {test}\n    directly: {direct[:200]}\n    through:  {through[:200]}")
        code = code or int(bool(found.different))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

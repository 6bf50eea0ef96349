"""`python -m tests.fuzz.guided TARGET FOLDER ...`: one target under atheris, which takes over the process."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["proxy", "classifiers", "policies"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()

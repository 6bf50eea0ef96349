"""`python -m tests.fuzz [TARGET ...] --seconds N`: run targets as long as one likes; `make fuzz`.

With atheris (`pip install atheris`) a run is guided by coverage, a process a target; without it mutations of the corpus
are tried. What fails is written to tests/fuzz/corpus/TARGET/, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.corpus import FOLDER, seeds
from tests.fuzz.mutate import mutations

ROUND = 500


def plainly(target: str, seconds: float) -> bool:
    """Whether all mutations within `seconds` went well."""
    from tests.fuzz.targets import TARGETS

    known, began, number = seeds(target), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        number += 1
        for data in mutations(known, ROUND, seed=time.time_ns()):
            try:
                TARGETS[target](data)
            except Exception as error:
                print(f"{target}: {type(error).__name__}: {error}: kept as {_keep(target, data)}")
                return False
    print(f"{target}: {number * ROUND} inputs, nothing found")
    return True


def guided(target: str, seconds: float) -> bool:
    """As `plainly`, guided by coverage."""
    with tempfile.TemporaryDirectory() as folder:
        for data in seeds(target):
            Path(folder, hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        found = Path(folder, "found-")
        command = [sys.executable, "-m", "tests.fuzz.guided", target, folder]
        options = [
            f"-max_total_time={int(seconds)}",
            f"-artifact_prefix={found}",
            "-max_len=65536",
            "-print_final_stats=1",
        ]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).splitlines()
        for path in Path(folder).glob("found-*"):
            print(f"{target}: kept as {_keep(target, path.read_bytes())}")
        if done.returncode:
            print("\n".join(said[-40:]))
            return False
        print(f"{target}: " + next((line for line in said if "number_of_executed_units" in line), "done"))
        return True


def _keep(target: str, data: bytes) -> Path:
    place = FOLDER / target / hashlib.sha256(data).hexdigest()[:16]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


def main() -> int:
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    given = parser.parse_args()
    run = guided if importlib.util.find_spec("atheris") else plainly
    well = [run(target, given.seconds) for target in given.targets or TARGETS]  # all of them, whatever one finds
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())

"""What fails outside, and what Penstock does: deploy/FAULTS.md, from outside.yml.

`python -m tests.conformance.test_outside` writes the page anew. tests/proxy/test_outside.py runs the cells that say
how; the tests that the others name exist.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ruamel.yaml import YAML

from tests.conformance.test_coverage import ROOT, is_defined

PAGE = ROOT / "deploy" / "FAULTS.md"
FAULTS = {
    "missing": "missing", "slow": "slow", "version": "wrong version", "credentials": "wrong credentials",
    "full": "full", "lying": "lying",
}  # fmt: skip
HEAD = """# What fails outside, and what Penstock does

Written by `python -m tests.conformance.test_outside` from [outside.yml](../tests/conformance/outside.yml), whose cells
the suite runs; it fails when this page is stale. Each part stands in `/readyz` under `parts` as `STATE: what was seen`,
`penstock_part_up{part="NAME"}` is 0 meanwhile (alert PenstockPartDown), and one line of the log has the state, what
happens meanwhile and the mend. Each is `ready` again by itself once it is, without a restart, but where a start was
refused. "as missing" stands for the row of that name.
"""


class Cell(BaseModel):
    """A part and a fault. `run` is how tests/proxy/test_outside.py brings it about, `tests` hold it otherwise; `none`
    says why there is nothing to hold. `state` is how the part stands in /readyz, `then` what becomes of exchanges,
    which end with `status`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str = ""
    tests: list[str] = []
    status: int = 0
    none: str = Field("", alias="not")
    state: str = ""
    then: str = ""
    also: str = ""

    @model_validator(mode="after")
    def _one_way(self) -> Cell:
        if sum(map(bool, (self.run, self.tests, self.none))) != 1 or bool(self.then) == bool(self.none):
            raise ValueError(
                "a cell is run, or tested elsewhere, and says what becomes of exchanges; or it says why not"
            )
        return self


class Part(BaseModel):
    """`at` is its name in /readyz."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: str
    missing: Cell
    slow: Cell
    version: Cell
    credentials: Cell
    full: Cell
    lying: Cell

    def cells(self) -> dict[str, Cell]:
        """By their faults."""
        return {fault: getattr(self, fault) for fault in FAULTS}


@cache
def parts() -> dict[str, Part]:
    tree = YAML(typ="safe", pure=True).load(Path(__file__).with_name("outside.yml").read_text("utf-8"))
    return {name: Part.model_validate(value) for name, value in tree.items()}


def page() -> str:
    lines = [HEAD]
    for name, part in parts().items():
        at = part.at if part.at.startswith("(") else f"`{part.at}`"
        lines.append(f"\n## {name[0].upper()}{name[1:]}: {at}\n\n| it is | state | meanwhile |\n| --- | --- | --- |\n")
        for fault, cell in part.cells().items():
            state = f"`{cell.state}`" if cell.state else ""
            state += f" ({cell.also})" if cell.also else ""
            then = f"{cell.status}, {cell.then}" if cell.status else cell.none or cell.then
            lines.append(f"| {FAULTS[fault]} | {state} | {then} |\n")
    return "".join(lines)


def test_the_page_is_current() -> None:
    assert PAGE.read_text("utf-8") == page()


@pytest.mark.parametrize("name", parts())
def test_every_test_that_is_named_exists(name: str) -> None:
    for fault, cell in parts()[name].cells().items():
        for test in cell.tests:
            assert is_defined(test), (fault, test)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

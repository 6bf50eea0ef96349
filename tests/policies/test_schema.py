"""The published schema is the model's, and it says yes and no where the loader does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner, Result

from classifiers import catalog
from policies import reference, schema
from policies.document import read
from policies.load import load, packs, sources
from policies.model import Policy
from proxy.policy_cli import app

HERE = Path(__file__).parent
PAGES = HERE.parents[1]
PROSE = [PAGES / "README.md", *sorted((PAGES / "policies").glob("*.md"))]
BEYOND = {
    "what stands elsewhere in the set": """
        after_in_a_circle after_itself after_unknown_classifier after_unknown_label applies_to_leaves_requests
        case_of_unknown_rule case_reading_untold case_scores_unknown copied_file extends_everywhere extends_nothing_said
        extends_other_classifier extends_other_classifier_of_pack extends_round extends_same_rule
        extends_same_rule_of_pack extends_unknown extends_unknown_label extends_unknown_rule extends_idle_key
        extends_cel_mistake finding_in_a_list floor_cases floor_loosened floor_stream no_rules override_case_rule
        override_cases same_rule_id slip_look_alike_finding strikes_over_other_times two_definitions two_files
        unknown_classifier unknown_label after_built_in""",
    "what an expression says": """
        cel_* slip_cel_* condition_as_text""",
    "which of two numbers is the lower one": """
        after_band_turned applies_to_range_turned""",
    "what a classifier is made of": """
        classifier_that_cannot_be_made bad_nested_option""",
    "which file it is": """
        dir_*""",
}
"""Mistakes that a schema of one file cannot express, by what it would have to know. All others it must find."""


def test_schema_file_is_current() -> None:
    assert schema.FILE.read_text(encoding="utf-8") == schema.text(), "run: python -m policies.schema"


def test_no_key_may_be_empty() -> None:
    assert '"null"' not in schema.text()


def test_every_reference_leads_somewhere_and_every_property_is_described_or_plain() -> None:
    made = json.loads(schema.text())
    names = set(made["$defs"])

    def references(node: Any) -> list[str]:
        if isinstance(node, list):
            return [found for item in node for found in references(item)]
        if not isinstance(node, dict):
            return []
        own = [node["$ref"].rpartition("/")[2]] if "$ref" in node else []
        return own + [found for value in node.values() for found in references(value)]

    assert set(references(made)) <= names
    assert set(made["properties"]) == set(Policy.model_fields)
    assert made["additionalProperties"] is False
    assert made["$defs"]["Rule"]["additionalProperties"] is False


def test_it_is_a_schema_that_says_what_every_key_is_for() -> None:
    made = json.loads(schema.text())
    Draft202012Validator.check_schema(made)
    for name, model in [("policy", made), *made["$defs"].items()]:
        for key, value in model.get("properties", {}).items():
            assert value.get("description"), (name, key)
            for snippet in value.get("defaultSnippets", ()):  # an editor writes it
                written = snippet.get("bodyText", snippet.get("body"))
                text = written if isinstance(written, str) else json.dumps(written)
                typed = read(re.sub(r'"?\^?\$\{\d+:([^}]*)\}(?<!")"?', r"\1", text).encode(), "typed").value
                found = Draft202012Validator({**value, "$defs": made["$defs"]}).iter_errors(typed)
                assert not list(found), (name, key, typed)


def _blocks(page: Path) -> Iterator[bytes]:
    """The whole policies that a page shows."""
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        if re.match(r"id: ", block):
            yield block.encode()


def test_what_loads_is_valid() -> None:
    """Shipped packs, and each policy that a page for authors shows."""
    validator = Draft202012Validator(json.loads(schema.text()))
    shown = [(page.name, block) for page in PROSE for block in _blocks(page)]
    assert len(shown) > 15
    for name, raw in [*((pack, sources(f"pack:{pack}")[0][1]) for pack in packs()), *shown]:
        assert [error.message for error in validator.iter_errors(read(raw, name).value)] == [], name


@pytest.mark.parametrize("pack", packs())
def test_editors_find_the_schema_of_a_pack(pack: str) -> None:
    file = PAGES / "policies/packs" / f"{pack}.yaml"
    found = re.match(r"# yaml-language-server: \$schema=(\S+)\n", file.read_text("utf-8"))
    assert found is not None
    assert (file.parent / found[1]).resolve() == schema.FILE


def _copied(*args: object) -> Result:
    return CliRunner().invoke(app, ["copy", *map(str, args)])


@pytest.mark.parametrize("pack", packs())
def test_a_copy_of_a_pack_decides_alike_and_editors_find_its_schema(pack: str, tmp_path: Path) -> None:
    told = _copied(pack, tmp_path)
    file = tmp_path / f"{pack}.yaml"
    assert (told.exit_code, told.output) == (0, f"written: {file}\n")
    first, rest = file.read_bytes().split(b"\n", 1)
    leads = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first.decode())
    assert leads is not None
    assert (file.parent / leads[1]).read_bytes() == schema.FILE.read_bytes()
    assert rest == sources(f"pack:{pack}")[0][1].split(b"\n", 1)[1]
    copy, shipped = load(str(file)), load(f"pack:{pack}")
    assert copy.revision == shipped.revision


def test_a_copy_writes_over_nothing(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine.yaml", tmp_path / "schema.json"
    theirs.write_text("{}")
    assert _copied("pack:observe", mine).exit_code == 0
    assert theirs.read_text() == "{}"
    assert "schema" not in mine.read_text().splitlines()[0]
    before = mine.read_bytes()
    assert mine.read_bytes() in sources("pack:observe")[0][1]
    for told, said in ((_copied("strict", mine), "is there already"), (_copied("lax", tmp_path), "no shipped pack")):
        assert told.exit_code != 0
        assert said in " ".join(told.output.split())
    assert mine.read_bytes() == before
    told = CliRunner().invoke(app, ["pack", "observe", "--out", str(tmp_path)])
    assert (told.exit_code, told.output) == (1, f"penstock: {tmp_path}: is a directory: name a file in it\n")
    assert _copied("observe", tmp_path / "new" / "a.yaml").exit_code == 0
    assert (tmp_path / "new" / "schema.json").exists()


@pytest.mark.parametrize("told", ["mine/", "mine", "a/b.d/", "dotted.d", "odd.yaml/"])
def test_a_copy_goes_into_a_directory_that_is_not_there_yet(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = _copied("baseline", told)
    file = Path(told) / "baseline.yaml"
    assert (done.exit_code, done.output) == (0, f"written: {file}\n")
    assert load(told).revision == load("pack:baseline").revision
    assert _copied("baseline", told).exit_code == 1, "nothing is written over"


def _invalid(validator: Draft202012Validator, given: Path) -> bool:
    """Whether an editor shows something in a file, or in one of a directory."""
    files = sorted(item for item in given.rglob("*.yaml") if item.is_file()) if given.is_dir() else [given]
    documents = [read(file.read_bytes(), file.name) for file in files]
    return any(each.problems or not validator.is_valid(each.value) for each in documents)


@pytest.mark.usefixtures("words_only")
def test_mistakes_that_a_schema_can_express_are_not_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog.KINDS, "patterns", "classifiers.patterns:Patterns")
    validator = Draft202012Validator(schema.plain())
    lints = [item for item in (HERE / "lints").iterdir() if item.suffix != ".txt"]
    assert [item.name for item in lints if _invalid(validator, item)] == []
    mistakes = [item for item in (HERE / "errors").iterdir() if item.suffix != ".txt"]
    unseen = {item.stem for item in mistakes if not _invalid(validator, item)}
    words = " ".join(BEYOND.values()).split()
    known = {item.stem for item in mistakes if any(_means(word, item) for word in words)}
    assert unseen - known == set(), "the schema is to say no, or the list why it cannot"
    assert [word for word in words if not word.endswith("*") and word not in unseen] == []


def _means(word: str, given: Path) -> bool:
    return given.stem.startswith(word[:-1]) if word.endswith("*") else given.stem == word


def test_mistakes_in_options_are_not_valid() -> None:
    validator = Draft202012Validator(schema.plain())
    document = read((HERE / "options/names.yaml").read_bytes(), "names.yaml")
    found = {str(error.absolute_path[1]) for error in validator.iter_errors(document.value)}
    assert found == set("acdefghijklmno")  # the others are a folder and a file


def test_the_reference_is_current() -> None:
    assert reference.FILE.read_text(encoding="utf-8") == reference.text(), "run: python -m policies.reference"


def test_the_reference_names_every_key() -> None:
    made = json.loads(schema.text())
    told = reference.text()
    for model in (made, *made["$defs"].values()):
        for key in model.get("properties", {}):
            assert f"| `{key}` |" in told, key


def test_an_author_can_have_it() -> None:
    done = CliRunner().invoke(app, ["schema"])
    assert (done.exit_code, done.output) == (0, schema.text())

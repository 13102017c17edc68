"""The shape of the code base: which room may import which, what is documented, and how long files are.

One test per rule; each lists its offenders. Source is read, never imported.
"""

import ast
import builtins
import symtable
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("freeanchor", "analysis", "experiments")
# Rooms from the ground up: a room imports from rooms of a lower number, and from itself.
FLOORS = {
    "freeanchor": {
        "errors": 0, "workers": 0, "boxes": 0, "files": 1, "anchors": 1, "runtime": 1, "data": 2, "losses": 3, "detector": 3,
        "shapes": 3, "checkpoints": 4, "integrations": 4, "inference": 5, "training": 5,
    },
    "analysis": {"coco": 0, "tables": 0, "evaluation": 1, "bags": 2, "pages": 2, "figures": 3, "api": 4},
    "experiments": {
        "fetch": 0, "registry": 1, "runs": 2, "claims": 3, "bench": 3, "reports": 4, "commands": 5, "cli": 6,
    },
}  # fmt: skip
GROUND_FLOOR = {
    "freeanchor.errors",
    "freeanchor.files",
    "freeanchor.workers",
}  # free of torch; analysis stands on them too
MAY_NOT_IMPORT = {
    "freeanchor": {"analysis", "experiments"},
    "analysis": {"freeanchor", "experiments", "torch", "torchvision"},
    "experiments": set(),
}
DATA_MODULES = {"analysis.coco.columns"}  # holds the arrays that oracles and code are both given, and computes nothing
LONGEST_FILE, SHORTEST_FILE, LONGEST_FUNCTION = 450, 35, 60
IMPORT_SHARE = 0.07  # of all lines
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _length(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _offenders(paths: list[Path], faults: Callable[[Path], list[str]]) -> list[str]:
    return [f"{_name(path)}: {fault}" for path in paths for fault in faults(path)]


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
    return [f"{f.name} (line {f.lineno}) has no docstring" for f in _public_functions(tree) if not ast.get_docstring(f)]


def _unannotated(tree: ast.Module) -> list[str]:
    bare = [f for f in _public_functions(tree) if f.returns is None or _bare_arguments(f)]
    return [f"{f.name} (line {f.lineno}) is not annotated" for f in bare]


def _bare_arguments(function: Function) -> list[str]:
    """Arguments without an annotation, `self` and `cls` aside."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [a.arg for a in arguments if a.annotation is None and a.arg not in {"self", "cls"}]


def _upward(package: str, room: str, modules: set[str]) -> list[str]:
    """Imports of a room that do not lead down within its package."""
    floors = FLOORS[package]
    inner = [name for name in modules if name.startswith(f"{package}.") and name.split(".")[1] != room]
    return [f"imports {name}" for name in sorted(inner) if floors[name.split(".")[1]] >= floors[room]]


def _room(path: Path) -> tuple[str, str]:
    package, *inner = path.relative_to(ROOT).with_suffix("").parts
    return package, inner[0]


def test_every_room_has_a_floor() -> None:
    """Every room and module of the three packages stands on a floor, and no floor is of a room that is gone."""
    rooms = {_room(path) for path in MODULES} - {(package, "__init__") for package in PACKAGES}
    named = {(package, room) for package, floors in FLOORS.items() for room in floors}
    assert rooms ^ named <= {("analysis", "api")}


def test_packages_import_one_way() -> None:
    """The detector and the analyses know neither each other nor the experiments; the analyses know no torch."""

    def forbidden(path: Path) -> list[str]:
        modules = _imported_modules(_parse(path)) - GROUND_FLOOR
        return [f"imports {name}" for name in sorted(_packages(modules) & MAY_NOT_IMPORT[_room(path)[0]])]

    assert _offenders(MODULES, forbidden) == []


def test_rooms_import_downward() -> None:
    """A room imports only from rooms of lower floors of its package; a package's own door may open any of them."""
    inside = [path for path in MODULES if _room(path)[1] != "__init__"]
    assert _offenders(inside, lambda path: _upward(*_room(path), _imported_modules(_parse(path)))) == []


def test_internal_imports_use_full_paths() -> None:
    """No relative imports, so that the rules above cannot be walked around."""
    assert _offenders(MODULES, lambda path: [m for m in _imported_modules(_parse(path)) if m.startswith(".")]) == []


def test_modules_say_what_they_are() -> None:
    """Every module with content opens with a docstring."""

    def silent(path: Path) -> list[str]:
        tree = _parse(path)
        return ["no docstring"] if tree.body and not ast.get_docstring(tree) else []

    assert _offenders(MODULES, silent) == []


def test_public_functions_are_documented_and_annotated() -> None:
    """Every public function has a docstring, and annotations for its arguments and what it returns."""
    assert _offenders(MODULES, lambda path: _undocumented(_parse(path)) + _unannotated(_parse(path))) == []


def test_functions_are_not_too_long() -> None:
    """No function exceeds 60 lines, docstring included."""

    def long(path: Path) -> list[str]:
        functions = [node for node in ast.walk(_parse(path)) if isinstance(node, Function)]
        lengths = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}
        return [f"{name} has {length} lines" for name, length in lengths.items() if length > LONGEST_FUNCTION]

    assert _offenders(MODULES, long) == []


def test_files_are_nouns() -> None:
    """No file exceeds 450 lines, and no module of the packages but a room's door is a scrap of less than 35."""
    long = [f"{_name(path)}: {_length(path)}" for path in MODULES + TEST_FILES if _length(path) > LONGEST_FILE]
    scraps = [f"{_name(path)}: {_length(path)}" for path in MODULES if _length(path) < SHORTEST_FILE]
    assert long + [scrap for scrap in scraps if "__init__.py" not in scrap] == []


def test_imports_are_a_small_share() -> None:
    """Import statements take little of the source: a module that needs many names of another imports the module."""
    nodes = [n for path in MODULES for n in ast.walk(_parse(path)) if isinstance(n, ast.Import | ast.ImportFrom)]
    lines = sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes)
    assert lines <= IMPORT_SHARE * sum(map(_length, MODULES))


def test_test_files_have_names_of_their_own() -> None:
    """pytest collects two files of one name only apart, and a whole run ends in an error."""
    names = [path.name for path in TEST_FILES if path.name.startswith("test_")]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_every_test_says_its_behaviour() -> None:
    """Each file of tests has some, and each test a docstring."""

    def silent(path: Path) -> list[str]:
        tests = [function for function in _public_functions(_parse(path)) if function.name.startswith("test_")]
        return [test.name for test in tests if not ast.get_docstring(test)] if tests else ["no tests"]

    assert _offenders([path for path in TEST_FILES if path.name.startswith("test_")], silent) == []


def test_oracles_share_nothing_with_the_packages() -> None:
    """A second implementation that called the first would prove nothing."""
    oracles = sorted((ROOT / "tests" / "oracles").glob("*.py"))
    assert oracles

    def shared(path: Path) -> list[str]:
        return sorted(_packages(_imported_modules(_parse(path)) - DATA_MODULES) & set(PACKAGES))

    assert _offenders(oracles, shared) == []


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


def test_the_direction_check_sees_an_import_upward() -> None:
    """A room that imports from its own floor or a higher one is found; lower floors and other packages are not."""
    modules = {"freeanchor.detector.retinanet", "freeanchor.training.loop", "freeanchor.boxes", "analysis.coco.reading"}
    found = ["imports freeanchor.detector.retinanet", "imports freeanchor.training.loop"]
    assert _upward("freeanchor", "losses", modules) == found


def test_the_documentation_check_sees_omissions() -> None:
    """Functions and methods without docstring or annotation are found; private and inner ones may go without."""
    tree = ast.parse(
        "class C:\n    def bare(self): pass\n    def _private(self): pass\n"
        "def outer(x) -> int:\n    'Documented.'\n    def inner(): pass\n"
    )
    assert _undocumented(tree) == ["bare (line 2) has no docstring"]
    assert sorted(_unannotated(tree)) == ["bare (line 2) is not annotated", "outer (line 4) is not annotated"]


def _undefined(source: str) -> list[str]:
    """Names that code reads and no module, function or builtin defines; annotations in quotes are not read."""
    whole = symtable.symtable(source, "<source>", "exec")
    known = {symbol.get_name() for symbol in whole.get_symbols() if not symbol.is_referenced() or symbol.is_local()}
    tables, found = [whole], set[str]()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        known |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_declared_global()}
        found |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced() and symbol.is_global()}
    return sorted(found - known - {*dir(builtins), "__file__", "__doc__", "__path__"})


def test_every_name_is_defined() -> None:
    """ruff's and mypy's own checks of it are off: they take the shapes of jaxtyping's strings for names."""
    paths = [*MODULES, *TEST_FILES, *sorted((ROOT / "examples").glob("*.py"))]
    faults = _offenders(paths, lambda path: _undefined(path.read_text(encoding="utf-8")))
    assert faults == []


def test_the_check_of_names_sees_what_nothing_defines() -> None:
    """In functions, comprehensions and classes, also where only an inner one reads it; strings are no names."""
    source = 'import os\nx: "A 4" = os\ndef f(a):\n    return [missing(b, a) for b in x]\nclass C:\n    y = gone\n'
    assert _undefined(source) == ["gone", "missing"]

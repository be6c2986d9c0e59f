"""The package in layers: who may import whom, and how long files and functions may be."""

import ast
import graphlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import mmconvnext

PACKAGE = Path(mmconvnext.__file__).parent
REPO = Path(__file__).parents[1]
# Each may import those before it; two in one entry do not import each other.
LAYERS = (
    ("errors", "variants", "crops"),
    ("guard",),
    *((name,) for name in ("compat", "weights", "models", "optim", "data", "evaluation")),
    *((name,) for name in ("training", "deploy", "engine", "inference", "analysis")),
    *((name,) for name in ("report", "serving", "runtime", "cli")),
)
# Some 8,000 without own data, other detectors, prediction and report (.ci/count_lines.py). It may
# not grow unnoticed.
MAX_PACKAGE, MAX_FILE, MAX_FUNCTION = 22_600, 400, 60


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def trees() -> dict[str, ast.Module]:
    return {module_of(path): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules of ours that one imports, within functions too, but not only for type hints."""
    hints = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            hints.update(child for statement in node.body for child in ast.walk(statement))
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # of a package, either its modules or what its own __init__ has
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in trees() else node.module for name in inner]
        if node not in hints:
            yield from (name for name in names if name in trees())


def imports() -> list[tuple[str, str]]:
    return [(name, other) for name, tree in trees().items() for other in imported(tree)]


def level(module: str) -> int:
    """The place of a module's layer; the package itself imports, and lazily offers, all of them.

    A ``__main__`` is a program: nobody imports it.
    """
    parts = module.split(".")
    if parts[1:] == [] or parts[-1] == "__main__":
        return -1 if parts[1:] == [] else len(LAYERS)
    return next(i for i, layer in enumerate(LAYERS) if parts[1] in layer)


def test_no_package_imports_one_above():
    upwards = [
        (name, other)
        for name, other in imports()
        if level(other) > level(name) >= 0
        or (level(other) == level(name) and name.split(".")[1] != other.split(".")[1])
    ]
    assert upwards == []


def test_importing_the_package_imports_nothing_of_it_but_compat():
    own = {other.split(".")[1] for name, other in imports() if name == "mmconvnext"}
    assert own == {"compat"}


def test_no_import_goes_round_in_a_circle():
    graph = {name: set() for name in trees()}
    for name, other in imports():
        if other != "mmconvnext":  # the version; loaded before anything in it
            graph[name].add(other)
    assert {*graphlib.TopologicalSorter(graph).static_order()} == {*graph}


def test_no_file_is_too_long():
    roots = (PACKAGE, *(REPO / name for name in ("benchmarks", "configs", "tests", "tools")))
    paths = [path for root in roots for path in root.rglob("*.py")]
    lengths = {str(path): len(path.read_text().splitlines()) for path in paths}
    assert [item for item in lengths.items() if item[1] > MAX_FILE] == []


def test_no_function_is_too_long():
    lengths = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert [item for item in lengths.items() if item[1] > MAX_FUNCTION] == []


def test_the_package_is_small():
    assert sum(len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")) <= MAX_PACKAGE


def test_a_circle_and_an_import_upwards_would_be_seen(monkeypatch):
    sources = {
        "mmconvnext": "",
        "mmconvnext.compat": "",
        "mmconvnext.compat.a": "from mmconvnext.compat import b\nimport torch",
        "mmconvnext.compat.b": "def f():\n    from mmconvnext.compat.a import x",
        "mmconvnext.errors": "from mmconvnext import variants",
        "mmconvnext.variants": "if TYPE_CHECKING:\n    from mmconvnext.compat import a",
    }
    parsed = {name: ast.parse(source) for name, source in sources.items()}
    monkeypatch.setitem(globals(), "trees", lambda: parsed)
    with pytest.raises(graphlib.CycleError):
        test_no_import_goes_round_in_a_circle()
    with pytest.raises(AssertionError, match=r"errors.*variants"):
        test_no_package_imports_one_above()
    assert ("mmconvnext.variants", "mmconvnext.compat.a") not in imports()

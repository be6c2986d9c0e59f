"""Prints how many lines each part of the project has, at a reference revision and now.

    python .ci/count_lines.py [--before REVISION]

"Now" is what git tracks, as it lies in the work tree. Comments and empty lines count, too.
"""

import argparse
import ast
import subprocess
from collections.abc import Callable
from pathlib import Path

Files = dict[str, str]  # path -> text
SUFFIXES = (".py", ".csv", ".md")

# Title -> how the paths of a row begin, before and now.
ROWS = {
    "benchmarks": ("mmconvnext/benchmark/", "benchmarks/"),
    "setup_env.py and its tests": ("tools/setup_env.py", "tests/test_setup_env.py"),
    "weights/": ("mmconvnext/weights/",),
    "data/": ("mmconvnext/data/",),
    "compat/": ("mmconvnext/compat/",),
    "models/": ("mmconvnext/models/",),
    "optim/": ("mmconvnext/optim/",),
    "engine/, evaluation/, analysis/": tuple(
        f"mmconvnext/{name}/" for name in ("engine", "evaluation", "analysis")
    ),
    "cli/ and tools/": ("mmconvnext/cli/", "mmconvnext/__main__.py", "tools/"),
    "configs/": ("configs/",),
    "README": ("README.md",),
    "docs/": ("docs/",),
    "tests/": ("tests/",),
    "the package in the wheel": ("mmconvnext/",),
}


def git(*arguments: str) -> str:
    """Run git and return what it printed."""
    return subprocess.run(
        ["git", *arguments], capture_output=True, check=True, text=True, encoding="utf-8"
    ).stdout


def files_before(revision: str) -> Files:
    """Read the files of a revision."""
    paths = git("ls-tree", "-r", "--name-only", revision).splitlines()
    return {p: git("show", f"{revision}:{p}") for p in paths if p.endswith(SUFFIXES)}


def files_now() -> Files:
    """Read the tracked files of the work tree."""
    paths = [Path(p) for p in git("ls-files").splitlines() if p.endswith(SUFFIXES)]
    return {p.as_posix(): p.read_text("utf-8") for p in paths if p.exists()}


def count(files: Files, title: str) -> int:
    """Count the lines of one row."""
    own = [text for path, text in files.items() if path.startswith(ROWS[title])]
    return sum(text.count("\n") for text in own)


def package(files: Files) -> Files:
    """Select the modules of the package."""
    return {p: t for p, t in files.items() if p.startswith("mmconvnext/") and p.endswith(".py")}


def largest_file(files: Files) -> str:
    """Describe the package's largest module."""
    lines, path = max((text.count("\n"), path) for path, text in package(files).items())
    return f"{lines} ({path})"


def longest_function(files: Files) -> str:
    """Describe the package's longest function."""
    functions = [
        (node.end_lineno - node.lineno + 1, f"{path}: {node.name}")
        for path, text in package(files).items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lines, name = max(functions)
    return f"{lines} ({name})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", default="59dbc50", metavar="REVISION", help="to compare with")
    revision = parser.parse_args().before
    before, now = files_before(revision), files_now()
    print(f"| lines of | {revision} | now |\n| --- | ---: | ---: |")
    for title in ROWS:
        print(f"| {title} | {count(before, title):,} | {count(now, title):,} |")
    rows: dict[str, Callable[[Files], str]] = {
        "largest file of the package": largest_file,
        "longest function of the package": longest_function,
    }
    for title, measure in rows.items():
        print(f"| {title} | {measure(before)} | {measure(now)} |")


if __name__ == "__main__":
    main()

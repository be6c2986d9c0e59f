"""Prints how many lines each part of the project has, at a reference revision and now.

    python .ci/count_lines.py [--before REVISION]

"Now" is what git tracks, as it lies in the work tree. Comments and empty lines count, too.
"""

import argparse
import ast
import subprocess
from pathlib import Path

DATA = (
    *("checks", "counted", "findings", "formats/", "layouts", "names", "objects", "own"),
    *("pictures", "prepare"),
)
# Title -> how the paths of a row begin, before and now.
ROWS = {
    "benchmarks": ("mmconvnext/benchmark/", "benchmarks/"),
    "setup_env.py and its tests": ("tools/setup_env.py", "tests/test_setup_env.py"),
    **{f"{name}/": (f"mmconvnext/{name}/",) for name in ("weights", "data", "compat", "models")},
    "optim/": ("mmconvnext/optim/",),
    "engine/, evaluation/, analysis/": tuple(
        f"mmconvnext/{name}/" for name in ("engine", "evaluation", "analysis")
    ),
    "training/": ("mmconvnext/training/",),
    "deploy/": ("mmconvnext/deploy/",),
    "cli/ and tools/": ("mmconvnext/cli/", "mmconvnext/__main__.py", "tools/"),
    "configs/": ("configs/",),
    "README": ("README.md",),
    "docs/": ("docs/",),
    "tests/": ("tests/",),
    "the package in the wheel": ("mmconvnext/",),
    "  of it data: checks, formats, own folders, --auto": (
        *(f"mmconvnext/data/{name}" for name in DATA),
        *(f"mmconvnext/engine/{name}.py" for name in ("own_data", "classes", "auto", "trial")),
        *("mmconvnext/training/signals.py", "mmconvnext/evaluation/oracle.py"),
        *("mmconvnext/inference/prelabel.py", "mmconvnext/cli/prelabel.py"),
        *("mmconvnext/cli/check_data.py", "mmconvnext/cli/convert_data.py"),
    ),
    "  of it the road map, other detectors, classification": (
        *("mmconvnext/models/roadmap.py", "mmconvnext/models/swin.py"),
        *("mmconvnext/analysis/walk.py", "mmconvnext/analysis/classification.py"),
        *(f"mmconvnext/engine/{name}.py" for name in ("backbone_swap", "advice")),
        "mmconvnext/training/gradients.py",
        *("mmconvnext/data/imagenet.py", "mmconvnext/compat/ops/reassemble.py"),
        *("mmconvnext/cli/roadmap.py", "mmconvnext/cli/classify.py"),
        "mmconvnext/weights/published.csv",
    ),
    "  of it prediction, report, the screen": (
        *(f"mmconvnext/inference/{name}" for name in ("d", "i", "o", "pred", "t", "_")),
        *(f"mmconvnext/engine/{name}.py" for name in ("screen", "run_dir", "testing")),
        *("mmconvnext/report/", "mmconvnext/cli/predict.py", "mmconvnext/cli/report.py"),
        *("mmconvnext/serving/", "mmconvnext/cli/serve.py"),
        *("mmconvnext/cli/compare.py", "mmconvnext/cli/run.py"),
    ),
}


def git(*arguments: str) -> str:
    """Run git and return what it printed."""
    command = ["git", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, encoding="utf-8").stdout


def measure(files: dict[str, str]) -> list[str]:
    """Count the lines of each row, in files by their paths, and find the package's longest."""
    lines = {path: text.count("\n") for path, text in files.items()}
    sums = [sum(n for path, n in lines.items() if path.startswith(own)) for own in ROWS.values()]
    package = [path for path in files if path.startswith("mmconvnext/") and path.endswith(".py")]
    functions = [
        (node.end_lineno - node.lineno + 1, f"{path}: {node.name}")
        for path in package
        for node in ast.walk(ast.parse(files[path]))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    longest = (max((lines[path], path) for path in package), max(functions))
    return [f"{n:,}" for n in sums] + [f"{n} ({name})" for n, name in longest]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", default="59dbc50", metavar="REVISION", help="to compare with")
    revision = parser.parse_args().before
    suffixes = (".py", ".csv", ".md")
    then = [
        p for p in git("ls-tree", "-r", "--name-only", revision).split("\n") if p.endswith(suffixes)
    ]
    now = [p for p in git("ls-files").split("\n") if p.endswith(suffixes) and Path(p).exists()]
    before = measure({path: git("show", f"{revision}:{path}") for path in then})
    after = measure({path: Path(path).read_text("utf-8") for path in now})
    titles = [*ROWS, "largest file of the package", "longest function of the package"]
    print(f"| lines of | {revision} | now |\n| --- | ---: | ---: |")
    for row in zip(titles, before, after, strict=True):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()

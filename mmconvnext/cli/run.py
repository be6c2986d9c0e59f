"""Run a script of MMDetection, or any other, with this package registered."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

from mmconvnext.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    name = "a file, or the name of one of MMDetection's: test, browse_dataset, analyze_results ..."
    parser.add_argument("script", help=name)
    given = "of the script; mmconvnext::NAME is replaced by the path of that config"
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=given)


def run(args: argparse.Namespace) -> None:
    """Run the script as if Python had been called with it."""
    import mmconvnext.engine.runner  # noqa: F401 (configs in work folders name its runner)
    from mmconvnext.compat.config_names import PREFIX, config_path

    path = Path(args.script) if Path(args.script).is_file() else find_script(args.script)
    given = [config_path(a) if a.startswith(PREFIX) else a for a in args.arguments]
    sys.argv = [str(path), *given]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


def find_script(name: str) -> Path:
    """Find a script of MMDetection's tools by its name; UserError where there is none."""
    import mmdet

    folder = Path(mmdet.__file__).parent / ".mim" / "tools"
    # of two with one name that which lies higher: the others are for tracking
    paths = sorted(folder.rglob("*.py"), key=lambda path: len(path.parts), reverse=True)
    known = {path.stem: path for path in paths}
    if (stem := name.removesuffix(".py")) not in known:
        raise UserError(
            f"there is no file {name}, and MMDetection has no script of that name; it has "
            f"{', '.join(sorted(known))}"
        )
    return known[stem]

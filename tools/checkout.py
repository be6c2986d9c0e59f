"""The package of this checkout, whichever is installed, for the tools beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmconvnext.cli import main


def run(command: str) -> None:
    """Run a command of `mmconvnext` with the arguments of this process, and exit."""
    sys.exit(main([command, *sys.argv[1:]]))

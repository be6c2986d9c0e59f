"""`mmconvnext train` with the package of this checkout, whichever is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmconvnext.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

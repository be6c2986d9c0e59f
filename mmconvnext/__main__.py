"""``python -m mmconvnext COMMAND``, and ``python FOLDER/mmconvnext COMMAND`` for that very copy."""

import sys
from pathlib import Path

if not __package__:  # run by its path: Python looks into the package, not into the folder above
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from mmconvnext.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""transformers as an independent implementation, from a folder that only tests look into."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

# Where `make setup` puts it.
FOLDER = Path(sys.prefix) / "peers" / "transformers"


def library() -> ModuleType:
    """Import transformers, or skip the test where it is absent."""
    if importlib.util.find_spec("transformers") is None:
        if not FOLDER.is_dir():
            pytest.skip(f"transformers is not in {FOLDER}: `make setup` puts it there")
        # At the end, where it hides nothing of the environment's own. It stays: transformers
        # imports its parts when they are asked for.
        sys.path.append(str(FOLDER))
    return importlib.import_module("transformers")

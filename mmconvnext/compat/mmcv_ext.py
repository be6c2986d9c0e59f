"""The module that takes the place of ``mmcv._ext`` where mmcv was installed without it (mmcv-lite).

Needed by: mmcv-lite 2.x, every version of torch. Compiled mmcv is used where it is installed.
``mmcv.ops`` checks, while it is imported, that ``mmcv._ext`` has 117 functions: every public name
exists here. torchvision is imported when an operator that needs it is called.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterable
from types import ModuleType

from mmconvnext.compat.imports import after_import
from mmconvnext.errors import MissingOperatorError

EXTENSION = "mmcv._ext"


def _unsupported(name: str, available: Iterable[str]) -> Callable:
    """Stand for an operator that only compiled mmcv has, and say so when it is called."""

    def operator(*args, **kwargs):
        raise MissingOperatorError(
            f"mmcv's operator '{name}' is not available: this mmcv was installed without "
            "compiled operators (mmcv-lite), and torchvision has no kernel for it. Available: "
            f"{', '.join(available)}."
        )

    return operator


def __getattr__(name: str):
    if name.startswith("_"):
        raise AttributeError(f"module {EXTENSION!r} has no attribute {name!r}")
    from mmconvnext.compat.ops import OPERATORS  # imports torch

    # found directly from now on
    globals()[name] = OPERATORS.get(name) or _unsupported(name, OPERATORS)
    return globals()[name]


def install(mmcv: ModuleType) -> None:
    """Let ``mmcv._ext`` be this module where there is no compiled one, which gets other patches."""
    if importlib.util.find_spec(EXTENSION) is None:
        mmcv._ext = sys.modules[EXTENSION] = sys.modules[__name__]
    elif not is_used():
        after_import(EXTENSION, "mmconvnext.compat.mmcv_layout", "install")


def is_used() -> bool:
    """Whether mmcv's operators come from here and not from compiled mmcv."""
    return sys.modules.get(EXTENSION) is sys.modules[__name__]

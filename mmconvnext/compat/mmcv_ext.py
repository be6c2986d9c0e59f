"""The module that takes the place of ``mmcv._ext`` where mmcv was installed without it (mmcv-lite).

Needed by: mmcv-lite 2.x, every version of torch. Compiled mmcv is used where it is installed.

Each file of ``mmcv.ops`` asks ``mmcv._ext`` for its functions while it is imported, and checks the
presence of 117 of them: every public name exists here. torchvision is imported when an operator
that needs it is called.
"""

import importlib.util
import sys
from types import ModuleType

from mmconvnext.compat.imports import after_import
from mmconvnext.errors import MissingOperatorError

EXTENSION = "mmcv._ext"


class UnsupportedOperator:
    """Stands for an operator that only compiled mmcv has, and says so when it is called.

    Args:
        name: the operator's name in ``mmcv._ext``.
    """

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, *args, **kwargs):
        """Refuse.

        Raises:
            MissingOperatorError: always.
        """
        raise MissingOperatorError(
            f"mmcv's operator '{self.__name__}' is not available: this mmcv was installed without "
            "compiled operators (mmcv-lite), and torchvision has no kernel for it. Available: "
            f"{', '.join(_operators())}."
        )

    def __repr__(self) -> str:
        return f"UnsupportedOperator({self.__name__!r})"


def __getattr__(name: str):
    if name.startswith("_"):
        raise AttributeError(f"module {EXTENSION!r} has no attribute {name!r}")
    operator = _operators().get(name) or UnsupportedOperator(name)
    globals()[name] = operator  # found directly from now on
    return operator


def __dir__() -> list[str]:
    return sorted({*globals(), *_operators()})


def _operators() -> dict:
    from mmconvnext.compat.ops import OPERATORS  # imports torch

    return OPERATORS


def install(mmcv: ModuleType) -> None:
    """Let ``mmcv._ext`` be this module where there is no compiled one, which gets other patches."""
    if importlib.util.find_spec(EXTENSION) is None:
        mmcv._ext = sys.modules[EXTENSION] = sys.modules[__name__]
    elif not is_used():
        after_import(EXTENSION, "mmconvnext.compat.mmcv_layout", "install")


def is_used() -> bool:
    """Whether mmcv's operators come from here and not from compiled mmcv."""
    return sys.modules.get(EXTENSION) is sys.modules[__name__]

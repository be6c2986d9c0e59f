"""The module that Python imports as ``mmcv._ext`` where mmcv was installed without it.

``mmcv_ops.StandInFinder`` loads this file under that name; nothing imports it as
``mmconvnext.compat.mmcv_ext``. Kernels are looked up when an operator is asked for, so that
importing ``mmcv.ops`` costs nothing.
"""

import importlib

from mmconvnext.compat.mmcv_ops import KERNELS, UnsupportedOperator


def __getattr__(name: str):
    """Return mmcv's operator of this name, or one that explains its absence when called.

    Every public name exists, because ``mmcv.ops`` checks the presence of 117 of them at import.

    Raises:
        AttributeError: for a private or special name, as any module would.
    """
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in KERNELS:
        return UnsupportedOperator(name)
    kernels = importlib.import_module(f"mmconvnext.compat.kernels.{KERNELS[name]}")
    operator = getattr(kernels, name)
    globals()[name] = operator  # found directly from now on
    return operator


def __dir__() -> list[str]:
    """List the operators that work beside the module's own names."""
    return sorted({*globals(), *KERNELS})

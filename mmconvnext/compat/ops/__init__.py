"""mmcv's compiled operators by torchvision's kernels and plain torch: a file for each need.

A public function of a file has the name of mmcv's operator and, as mmcv calls it, takes tensors by
position, in mmcv's order, and everything else by mmcv's names. Most write into a given tensor.
"""

import functools
import logging
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from mmengine.logging import print_log

from mmconvnext.compat.ops import deform, focal, nms, reassemble, roi


def get_compiler_version() -> str:
    """Say, in mmcv's report of the environment, where the operators come from."""
    try:
        return f"none (operators from torchvision {version('torchvision')} through mmconvnext)"
    except PackageNotFoundError:
        return "none (and torchvision is not installed)"


def get_compiling_cuda_version() -> str:
    """Say that mmcv was not compiled for CUDA."""
    return "not compiled"


@functools.cache
def announce() -> None:
    """Log once, when an operator is first called, that it is not mmcv's own."""
    message = "mmcv-lite has no compiled operators: torchvision's and plain torch take their place"
    print_log(message, logger="current", level=logging.INFO)


def _announced(operator: Callable) -> Callable:
    @functools.wraps(operator)
    def call(*tensors, **settings):
        announce()
        return operator(*tensors, **settings)

    return call


OPERATORS = {f.__name__: f for f in (get_compiler_version, get_compiling_cuda_version)}
for file in (nms, roi, focal, deform, reassemble):
    for name, value in vars(file).items():
        if getattr(value, "__module__", None) == file.__name__ and not name.startswith("_"):
            OPERATORS[name] = _announced(value)

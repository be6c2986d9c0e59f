"""mmcv's compiled operators where mmcv was installed without them (mmcv-lite).

Needed by: mmcv-lite 2.x, every version of torch. Silent where compiled mmcv is installed.

Each file of ``mmcv.ops`` asks ``mmcv._ext`` for its functions while it is imported. This module
answers when Python finds no such module: a finder at the very end of ``sys.meta_path`` offers
``mmcv_ext.py`` under that name. Python asks it last, so a compiled module is always preferred, and
it does not matter whether mmcv was imported before.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

from mmconvnext.errors import MissingMMCVError, MissingOperatorError

EXTENSION = "mmcv._ext"
STAND_IN = Path(__file__).with_name("mmcv_ext.py")

# operator of mmcv -> the file of kernels/ that has a function of the same name
KERNELS = {
    "nms": "nms",
    "softnms": "nms",
    "nms_match": "nms",
    "bbox_overlaps": "nms",
    "roi_align_forward": "roi",
    "roi_align_backward": "roi",
    "roi_pool_forward": "roi",
    "roi_pool_backward": "roi",
    "sigmoid_focal_loss_forward": "focal_loss",
    "sigmoid_focal_loss_backward": "focal_loss",
    "softmax_focal_loss_forward": "focal_loss",
    "softmax_focal_loss_backward": "focal_loss",
    "deform_conv_forward": "deform_conv",
    "deform_conv_backward_input": "deform_conv",
    "deform_conv_backward_parameters": "deform_conv",
    "modulated_deform_conv_forward": "deform_conv",
    "modulated_deform_conv_backward": "deform_conv",
    "ms_deform_attn_forward": "deform_attention",
    "ms_deform_attn_backward": "deform_attention",
    "get_compiler_version": "info",
    "get_compiling_cuda_version": "info",
}

HOW_TO_COMPILE = (
    "pip uninstall -y mmcv-lite && pip install 'setuptools<81' wheel ninja && "
    "MMCV_WITH_OPS=1 pip install --no-build-isolation --no-binary mmcv mmcv==2.1.0 "
    "(about 17 minutes on two cores; where torch's headers ask for C++20, unpack the source "
    "distribution and replace c++17 by c++20 in its setup.py first)"
)


class UnsupportedOperator:
    """Stands for an operator without a kernel, and says so when it is called.

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
            f"compiled operators (mmcv-lite), and torchvision has no kernel for it. Available: "
            f"{', '.join(KERNELS)}. To get it, install compiled mmcv: {HOW_TO_COMPILE}."
        )

    def __repr__(self) -> str:
        return f"UnsupportedOperator({self.__name__!r})"


class StandInFinder(MetaPathFinder):
    """Offers the stand-in for ``mmcv._ext`` after every other finder has given up."""

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        """Return the stand-in's spec for ``mmcv._ext``, None for any other name."""
        if fullname != EXTENSION:
            return None
        return importlib.util.spec_from_file_location(EXTENSION, STAND_IN)


def install() -> None:
    """Make ``mmcv._ext`` importable wherever it is not compiled.

    Raises:
        MissingMMCVError: neither mmcv nor mmcv-lite is installed.
    """
    if "mmcv" not in sys.modules and importlib.util.find_spec("mmcv") is None:
        raise MissingMMCVError(
            "mmconvnext needs mmcv, and neither mmcv nor mmcv-lite is installed. Nothing has to be "
            "compiled: pip install mmcv-lite==2.1.0"
        )
    # by name, not by class: a reloaded module must not leave two finders behind
    if not any(type(finder).__name__ == StandInFinder.__name__ for finder in sys.meta_path):
        sys.meta_path.append(StandInFinder())


def is_stand_in() -> bool:
    """Tell whether mmcv's operators come from here and not from compiled mmcv."""
    spec = importlib.util.find_spec(EXTENSION)
    return spec is not None and spec.origin == str(STAND_IN)

"""Compiled mmcv's operators on feature maps in another layout than the plain one.

Needed by: compiled mmcv 2.x, every version of torch; silent beside mmcv-lite. These operators read
a map as if its cells lay row by row, channel by channel, and most of them never check: on maps in
channels_last, as ConvNeXt makes them and a neck leaves them, RoIAlign returns the values of other
cells, without an error. torchvision's kernels copy such maps by themselves.
"""

import functools
from collections.abc import Callable, Sequence
from types import ModuleType

# operator -> which of its tensors it writes to
WRITTEN = {
    "roi_align_forward": (2, 3, 4),
    "roi_align_backward": (4,),
    "roi_pool_forward": (2, 3),
    "roi_pool_backward": (3,),
    "deform_roi_pool_forward": (3,),
    "deform_roi_pool_backward": (4, 5),
    "deform_conv_forward": (3,),
    "deform_conv_backward_input": (3, 4),
    "deform_conv_backward_parameters": (3,),
    "modulated_deform_conv_forward": (6,),
    "modulated_deform_conv_backward": (7, 8, 9, 10, 11),
}


def install(extension: ModuleType) -> None:
    """Let the operators of compiled ``mmcv._ext`` see contiguous tensors; each is wrapped once."""
    for name, written in WRITTEN.items():
        operator = getattr(extension, name)
        if not hasattr(operator, "__wrapped__"):
            setattr(extension, name, on_contiguous(operator, written))


def on_contiguous(operator: Callable, written: Sequence[int]) -> Callable:
    """Wrap an operator, which takes tensors by position, so that it is given contiguous ones.

    ``written`` are the positions of the tensors that it writes to.
    """

    @functools.wraps(operator)
    def call(*tensors, **settings):
        contiguous = [tensor.contiguous() for tensor in tensors]
        result = operator(*contiguous, **settings)
        for index in written:
            if contiguous[index] is not tensors[index]:
                tensors[index].copy_(contiguous[index])
        return result

    return call

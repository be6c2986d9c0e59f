"""mmcv's compiled operators by torchvision's kernels and plain torch.

One file for what serves one need. A function has the name of mmcv's operator and its arguments in
mmcv's order and by mmcv's names; most write their result into a tensor that is given. ``__all__``
of each file lists its operators.
"""

from mmconvnext.compat.ops import deform, focal, info, nms, roi

FILES = (nms, roi, focal, deform, info)
OPERATORS = {name: vars(file)[name] for file in FILES for name in file.__all__}

"""What makes MMEngine, MMCV and MMDetection run on today's torch and Python.

Each file holds one kind of repair, says which versions need it, and does nothing where they are
absent. ``install()`` applies them all.
"""

from mmconvnext.compat import checkpoint_io, mmcv_layout, mmcv_ops
from mmconvnext.compat.checkpoint_io import (
    CheckpointError,
    UnsafeCheckpointError,
    read_checkpoint,
)
from mmconvnext.compat.mmcv_ops import MissingMMCVError, MissingOperatorError

__all__ = [
    "CheckpointError",
    "MissingMMCVError",
    "MissingOperatorError",
    "UnsafeCheckpointError",
    "install",
    "read_checkpoint",
]


def install() -> None:
    """Repair whatever the installed libraries need, once; a second call changes nothing.

    Raises:
        MissingMMCVError: neither mmcv nor mmcv-lite is installed.
    """
    mmcv_ops.install()
    mmcv_layout.install()
    checkpoint_io.install()

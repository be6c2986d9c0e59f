"""What makes MMEngine, MMCV and MMDetection run on today's torch and Python.

Each file has one kind of repair, says which versions need it, and does nothing where they are
absent. ``install()`` sees to it that each is made when what it repairs is imported, not before.
"""

from types import ModuleType
from typing import TYPE_CHECKING

from mmconvnext.compat import mmcv_layout, mmcv_ops
from mmconvnext.compat.imports import after_import, lazy_names

if TYPE_CHECKING:
    from mmconvnext.compat.checkpoint_io import read_checkpoint

__all__ = [
    "install",
    "read_checkpoint",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "read_checkpoint": "mmconvnext.compat.checkpoint_io",
    },
)


def install() -> None:
    """Repair whatever the installed libraries need, once; a second call changes nothing.

    Raises:
        MissingMMCVError: neither mmcv nor mmcv-lite is installed.
    """
    mmcv_ops.install()
    mmcv_layout.install()
    after_import("mmengine.runner.checkpoint", _read_safely)
    after_import("mmengine.config.config", _find_configs_by_name)


def _read_safely(checkpoint: ModuleType) -> None:
    from mmconvnext.compat import checkpoint_io

    checkpoint_io.install(checkpoint)


def _find_configs_by_name(config: ModuleType) -> None:
    from mmconvnext.compat import config_names

    config_names.install(config)

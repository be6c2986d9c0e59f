"""What makes MMEngine, MMCV and MMDetection run on today's torch and Python.

Each file has one kind of patch, says which versions need it, and does nothing where they are
absent. :func:`install` has each made when what it patches is imported, not before.
"""

import importlib.util

from mmconvnext.compat.imports import MISSING, after_import
from mmconvnext.errors import MissingMMCVError

# A module of another package, and the module here with its function that takes it.
PATCHES = (
    ("mmcv", "mmcv_ext", "install"),
    ("mmengine.config.config", "config_names", "install"),
    ("mmengine.config.config", "config_format", "install"),
    ("mmengine.dist.dist", "private_files", "install_collect"),
    ("mmengine.fileio.handlers.yaml_handler", "private_files", "install_yaml"),
    ("mmengine.registry", "option_names", "install"),
    ("mmengine.runner.checkpoint", "checkpoint_io", "install"),
)


def install() -> None:
    """Patch whatever the installed libraries need, once; a second call changes nothing."""
    if importlib.util.find_spec("mmengine"):  # the runtime does without both
        MISSING["mmcv"] = MissingMMCVError
    for name, patch, function in PATCHES:
        after_import(name, f"{__name__}.{patch}", function)

"""ConvNeXt detectors for MMDetection 3.x; importing this package registers them.

Nothing large is imported with it: what it registers and repairs comes in when MMDetection or
MMEngine import the package that it belongs to, as their registries do before they look up a name.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from mmconvnext import compat
from mmconvnext.compat.imports import after_import, lazy_names

if TYPE_CHECKING:
    from mmconvnext.compat.config_names import config_path
    from mmconvnext.evaluation.coco_metric import FastCocoMetric
    from mmconvnext.models import ConvNeXt, InstanceTTAModel
    from mmconvnext.optim import LayerDecayOptimWrapperConstructor

__version__ = "0.2.0"

__all__ = [
    "ConvNeXt",
    "FastCocoMetric",
    "InstanceTTAModel",
    "LayerDecayOptimWrapperConstructor",
    "__version__",
    "config_path",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ConvNeXt": "mmconvnext.models.convnext",
        "FastCocoMetric": "mmconvnext.evaluation.coco_metric",
        "InstanceTTAModel": "mmconvnext.models.tta",
        "LayerDecayOptimWrapperConstructor": "mmconvnext.optim.layer_decay",
        "config_path": "mmconvnext.compat.config_names",
        **{name: f"mmconvnext.{name}" for name in ("evaluation", "models", "optim", "weights")},
    },
)

# A package whose import fills registries -> the modules of ours that add to the same registries.
REGISTERED_WITH = {
    "mmdet.models": (
        "mmconvnext.models.convnext",
        "mmconvnext.models.mask_head",
        "mmconvnext.models.tta",
    ),
    "mmdet.datasets.transforms": ("mmconvnext.data.transforms",),
    "mmdet.evaluation": ("mmconvnext.evaluation.coco_metric",),
    "mmengine.optim": ("mmconvnext.optim.layer_decay",),
}


def _register(package: ModuleType) -> None:
    for module in REGISTERED_WITH[package.__name__]:
        importlib.import_module(module)


def _read_all_sources(checkpoint: ModuleType) -> None:
    from mmconvnext.weights import sources

    sources.install(checkpoint)


compat.install()
after_import("mmengine.runner.checkpoint", _read_all_sources)
for _package in REGISTERED_WITH:
    after_import(_package, _register)

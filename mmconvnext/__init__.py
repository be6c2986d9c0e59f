"""ConvNeXt detectors for MMDetection 3.x; importing this package registers them.

Nothing large is imported with it: what it registers comes in when MMDetection or MMEngine import
the package whose registries it adds to, as their registries do before they look up a name.
"""

from typing import TYPE_CHECKING

from mmconvnext import compat
from mmconvnext.compat.imports import after_import, lazy_names

if TYPE_CHECKING:
    from mmconvnext.compat.config_names import config_path
    from mmconvnext.evaluation.coco_metric import FastCocoMetric
    from mmconvnext.inference.detector import Detector
    from mmconvnext.models.convnext import ConvNeXt
    from mmconvnext.models.roadmap import ModernizedResNet
    from mmconvnext.models.swin import MixerSwinTransformer
    from mmconvnext.models.tta import InstanceTTAModel
    from mmconvnext.optim.layer_decay import LayerDecayOptimWrapperConstructor

__version__ = "0.2.0"

__all__ = [
    "ConvNeXt",
    "Detector",
    "FastCocoMetric",
    "InstanceTTAModel",
    "LayerDecayOptimWrapperConstructor",
    "MixerSwinTransformer",
    "ModernizedResNet",
    "__version__",
    "config_path",
]

__getattr__ = lazy_names(
    __name__,
    {
        "ConvNeXt": "models.convnext",
        "Detector": "inference.detector",
        "FastCocoMetric": "evaluation.coco_metric",
        "InstanceTTAModel": "models.tta",
        "LayerDecayOptimWrapperConstructor": "optim.layer_decay",
        "MixerSwinTransformer": "models.swin",
        "ModernizedResNet": "models.roadmap",
        "config_path": "compat.config_names",
        **{name: name for name in ("evaluation", "models", "optim", "weights")},
    },
)

# A package whose import fills registries -> the modules of ours that add to the same registries.
REGISTERED_WITH = {
    "mmdet.models": [
        *(f"models.{m}" for m in ("convnext", "mask_head", "roadmap", "swin", "tta")),
        "models.distillation",
        "deploy.exported",
    ],
    "mmdet.datasets.transforms": ["data.transforms"],
    "mmdet.evaluation": ["evaluation.coco_metric", "evaluation.evaluator"],
    "mmdet.engine.hooks": ["training.checkpoints"],
    "mmengine.optim": ["optim.layer_decay"],
}

compat.install()
after_import("mmengine.runner.checkpoint", f"{__name__}.weights.sources", "install")
for _package, _modules in REGISTERED_WITH.items():
    for _module in _modules:
        after_import(_package, f"{__name__}.{_module}")

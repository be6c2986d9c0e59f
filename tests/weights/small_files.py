"""A small ConvNeXt in every layout, by the library that the layout comes from where it is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import Tensor, nn

from mmconvnext.models import ConvNeXt
from tests.models.peers import randomise
from tests.weights import libraries as lib

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = {"depths": (1, 1, 3, 1), "widths": (8, 16, 24, 32)}
KIND = "depths=(1, 1, 3, 1), widths=(8, 16, 24, 32)"
V2 = {"use_grn": True, "layer_scale_init_value": 0.0}


def backbone(seed: int = 0, v2: bool = False, **kwargs) -> ConvNeXt:
    model = ConvNeXt(**{"arch": SMALL, **(V2 if v2 else {}), **kwargs})
    randomise(model, seed)
    return model


def detector_config(num_classes: int = 3, **backbone) -> Config:
    cfg = Config.fromfile(CONFIGS / "mask_rcnn_convnext_shapes.py")
    cfg.model.backbone.update(backbone)
    for head in (cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        head.num_classes = num_classes
    return cfg


def detector(num_classes: int = 3, **backbone) -> nn.Module:
    torch.manual_seed(num_classes)
    return MODELS.build(detector_config(num_classes, **backbone).model)


def backbone_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}


def official(v2: bool = False, seed: int = 1, **kwargs) -> dict[str, Tensor]:
    """A classifier's: no output norms, a final norm and a head."""
    model = backbone(seed, v2, **kwargs)
    width = model.widths[-1]
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("norm")}
    state |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    return state | {"head.weight": torch.ones(10, width), "head.bias": torch.zeros(10)}


def with_optimizer(state: dict[str, Tensor]) -> dict[str, object]:
    moments = {0: {"step": torch.tensor(7.0), "exp_avg": torch.ones(8, 3, 4, 4)}}
    return {"model": state, "optimizer": {"state": moments, "param_groups": []}, "epoch": 3}


def timm(**kwargs) -> dict[str, Tensor]:
    from timm.models.convnext import ConvNeXt

    return _state(ConvNeXt(depths=SMALL["depths"], dims=SMALL["widths"], num_classes=10, **kwargs))


def in_mmpretrains_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {k: k.replace("dwconv", "depthwise_conv") for k in state}
    return {names[k].replace("pwconv", "pointwise_conv"): v for k, v in state.items()}


def mmpretrain() -> dict[str, object]:
    renamed = in_mmpretrains_names(backbone(1).state_dict())
    return {"state_dict": {f"backbone.{k}": v for k, v in renamed.items()}, "meta": {}}


def same_tensors(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return mine.keys() == theirs.keys() and all(
        mine[k].dtype == theirs[k].dtype and torch.equal(mine[k], theirs[k]) for k in mine
    )


def _state(module: nn.Module) -> dict[str, Tensor]:
    randomise(module)
    return module.state_dict()


def fcmae() -> dict[str, object]:
    state = official(v2=True)
    state = {k: v for k, v in state.items() if not k.startswith(("norm", "head"))}
    return {"model": lib.sparse_layout(state)}


# By a name: whether it is V2, and what the file contains.
FILES: dict[str, tuple[bool, Callable[[], object]]] = {
    "official": (False, lambda: with_optimizer(official())),
    "official V2": (True, lambda: with_optimizer(official(v2=True))),
    "FCMAE": (True, fcmae),
    "mmpretrain": (False, mmpretrain),
    "timm": (False, timm),
    "timm V2": (True, lambda: timm(use_grn=True, ls_init_value=None, conv_mlp=True)),
    "torchvision": (False, lambda: _state(lib.torchvision(SMALL).module)),
    "transformers": (
        False,
        lambda: _state(lib.transformers(SMALL, "ConvNext", "ForImageClassification").module),
    ),
    "transformers V2": (True, lambda: _state(lib.transformers(SMALL, "ConvNextV2").module)),
    "transformers DINOv3": (
        False,
        lambda: _state(lib.transformers(SMALL, "DINOv3ConvNext").module),
    ),
}

"""What of a detector does not go with its backbone, said before anything is trained or tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmcv.cnn import VGG
from mmdet.models.roi_heads.mask_heads import FusedSemanticHead
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from torch import nn

from mmconvnext.models.stages import Stages
from mmconvnext.weights.load import pretrained_cfg

# ImageNet's, in RGB and 0-255, which the published weights were trained with.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
STRIDE = 32  # of the last stage


def explain_misfits(model: nn.Module, cfg: Config) -> dict[str, str]:
    """Compare a detector with its backbone, if that is of this package.

    Returns:
        What is wrong with what, and the sentence that says it, with the fix.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Stages):
        return {}
    found = dict(_unused(backbone, getattr(model, "neck", None)))
    preprocessor = getattr(model, "data_preprocessor", None)
    if isinstance(preprocessor, ImgDataPreprocessor):
        found |= dict(_padding(preprocessor))
        if pretrained_cfg(backbone.init_cfg) is not None:
            found |= dict(_pixels(preprocessor))
    found |= dict(_optimizer(cfg.get("optim_wrapper") or {}))
    return found


def _unused(backbone: Stages, neck: nn.Module | None) -> Iterator[tuple[str, str]]:
    start = getattr(neck, "start_level", 0) or 0
    unused = [f"norm{index}" for index in backbone.out_indices[:start]]
    if unused:
        yield (
            "unused",
            f"the neck starts at level {start}, so that {' and '.join(unused)} of the backbone has "
            "no gradient, which several processes refuse: model.backbone.out_indices="
            f"{backbone.out_indices[start:]}, the neck's in_channels without the first {start}, "
            "model.neck.start_level=0",
        )


def _padding(preprocessor: ImgDataPreprocessor) -> Iterator[tuple[str, str]]:
    divisor = preprocessor.pad_size_divisor
    if divisor % STRIDE:
        yield (
            "padding",
            f"images are padded to multiples of {divisor}, and the backbone leaves out rows and "
            f"columns beyond multiples of {STRIDE}: model.data_preprocessor.pad_size_divisor="
            f"{STRIDE}",
        )


def _pixels(preprocessor: ImgDataPreprocessor) -> Iterator[tuple[str, str]]:
    fix = f"model.data_preprocessor=dict(mean={list(MEAN)}, std={list(STD)}, bgr_to_rgb=True)"
    if not preprocessor._channel_conversion:
        yield "channels", f"the weights know RGB, and images are BGR when loaded: {fix}"
    if not preprocessor._enable_normalize:
        yield "pixels", f"the weights know normalised images, and these are not: {fix}"
        return
    for name, expected in (("mean", MEAN), ("std", STD)):
        values = [round(value, 3) for value in getattr(preprocessor, name).flatten().tolist()]
        if len(values) == 3 and max(abs(a - b) for a, b in zip(values, expected, strict=True)) > 1:
            yield name, f"the weights know images of {name} {expected}, and it is {values}: {fix}"


def _optimizer(wrapper: Mapping) -> Iterator[tuple[str, str]]:
    kind = str((wrapper.get("optimizer") or {}).get("type"))
    custom = (wrapper.get("paramwise_cfg") or {}).get("custom_keys") or {}
    if kind == "SGD":
        yield (
            "optimizer",
            "the optimizer is SGD, maybe as it was inherited; ConvNeXt's recipes have AdamW: "
            "optim_wrapper.optimizer=dict(_delete_=True, type='AdamW', lr=..., weight_decay=0.05)",
        )
    if "LayerDecay" not in str(wrapper.get("constructor")):
        return  # custom_keys are then all that the backbone's rates have
    for key, entry in custom.items():
        if key.startswith("backbone") and entry.get("lr_mult", 1) != 1:
            yield (
                "custom_keys",
                f"paramwise_cfg.custom_keys.{key} multiplies the rates of layer-wise decay by "
                f"{entry['lr_mult']} and replaces its rules on weight decay, maybe as it was "
                "inherited: paramwise_cfg=dict(_delete_=True, decay_rate=...)",
            )


def explain_num_classes(model: nn.Module, dataset: Any) -> str | None:
    """Say which heads of a detector have another number of classes than the data set.

    What is compared is what MMDetection's ``NumClassCheckHook`` compares; None where it is equal.
    """
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes") or ()
    wrong = {
        name: module.num_classes
        for name, module in model.named_modules()
        if getattr(module, "num_classes", len(classes)) != len(classes)
        and not name.endswith("rpn_head")
        and not isinstance(module, VGG | FusedSemanticHead)
    }
    if not classes or not wrong:
        return None
    heads = ", ".join(f"{name} has num_classes={number}" for name, number in wrong.items())
    options = " ".join(f"model.{name}.num_classes={len(classes)}" for name in wrong)
    return (
        f"{heads}, and {getattr(dataset, 'ann_file', 'the data set')} has {len(classes)} classes: "
        f"--cfg-options {options}, or set metainfo=dict(classes=(...)) of every data set"
    )

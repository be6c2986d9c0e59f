"""``find_unused_parameters`` is never needed: every trainable parameter has a gradient."""

from itertools import combinations
from pathlib import Path

import torch
from mmdet.testing import demo_mm_inputs
from mmengine.dist import get_rank
from mmengine.model import MMDistributedDataParallel

from mmconvnext.models.convnext import ConvNeXt
from tests.configs.detector_steps import build, narrow_config

DETECTORS = (
    "mask_rcnn_convnext_shapes",
    "cascade_convnext_shapes",
    "retinanet/retinanet_convnext-t_coco",
)
FROZEN = range(-1, 5)
OUT_INDICES = [c for size in range(1, 5) for c in combinations(range(4), size)]


def fault_of(step, model) -> str | None:
    """What data parallel complains of in the second of two steps."""
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    try:
        for _ in range(2):
            step(wrapped).backward()
    except RuntimeError as error:
        return str(error)
    return None


def in_each_process(folder: Path) -> dict:
    """Faults of backbones, and of detectors whose images have no objects in one or both."""
    torch.manual_seed(0)
    arch, images = {"depths": (1, 1, 1, 1), "widths": (4, 4, 4, 4)}, torch.rand(1, 3, 32, 32)
    faults = {}
    for frozen in FROZEN:
        for indices in OUT_INDICES:
            model = ConvNeXt(arch=arch, out_indices=indices, frozen_stages=frozen).train()
            if any(p.requires_grad for p in model.parameters()):
                sums = lambda m: sum(map(torch.sum, m(images)))  # noqa: E731
                faults[frozen, indices] = fault_of(sums, model)
    for name in DETECTORS:
        for empty in ([], [0], [0, 1]):
            detector = build(narrow_config(f"mmconvnext::{name}.py"))
            objects = [0 if get_rank() in empty else 2] * 2
            data = demo_mm_inputs(
                2, [[3, 64, 64]] * 2, num_items=objects, num_classes=3, with_mask=True
            )
            data = detector.data_preprocessor(data, True)
            step = lambda m, d=detector, x=data: d.parse_losses(m(**x, mode="loss"))[0]  # noqa: E731
            faults[name, tuple(empty)] = fault_of(step, detector)
    return faults


def test_no_parameter_is_left_without_a_gradient(two_processes):
    for faults in two_processes("test_unused_parameters"):
        assert len(faults) > 90
        assert {k: v for k, v in faults.items() if v} == {}

"""Losses, gradients and AP are the same however many processes share the images."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.dist import get_dist_info
from mmengine.evaluator import Evaluator
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import nn

from mmconvnext.errors import ConfigError
from mmconvnext.training.global_losses import use_global_losses
from tests.configs.detector_steps import build, narrow_config
from tests.training.processes import in_processes, tiny

CONFIGS = ("mask_rcnn_convnext_shapes", "cascade_convnext_shapes")
IMAGES = 4  # of a step


def losses(folder: Path, name: str, together: bool) -> dict[str, torch.Tensor]:
    """The losses and the gradients of a step, means over the processes."""
    rank, processes = get_dist_info()
    cfg = narrow_config(f"mmconvnext::{name}.py")
    cfg.model.neck.norm_cfg = cfg.model.roi_head.mask_head.norm_cfg = None  # BN, of a process
    model = build(cfg)
    # at their small initial values rounding chooses among regions that are as good
    nn.init.normal_(model.rpn_head.rpn_cls.weight)
    nn.init.normal_(model.rpn_head.rpn_reg.weight, std=0.1)
    if together:
        use_global_losses(model)
    dataset = Runner.build_dataloader(tiny(folder, "data").train_dataloader).dataset
    # the first images that have objects and one that has none
    empty, full = (
        [i for i in range(8) if (not dataset.get_data_info(i)["instances"]) is e]
        for e in (True, False)
    )
    chosen = [*empty, *full][:IMAGES][rank::processes]
    batch = torch.utils.data.default_convert([dataset[index] for index in chosen])
    data = {key: [sample[key] for sample in batch] for key in batch[0]}
    MessageHub.get_current_instance().update_info("iter", 3)
    torch.manual_seed(rank)
    total, found = model.parse_losses(model(**model.data_preprocessor(data, True), mode="loss"))
    total.backward()
    found |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for value in (found := {k: v.detach() for k, v in found.items() if "acc" not in k}).values():
        if processes > 1:
            torch.distributed.all_reduce(value)
            value /= processes
    return found


def metrics(folder: Path) -> dict[str, float]:
    """AP of boxes that are almost right, on a number of images that the batches do not part."""
    cfg = tiny(folder, "ap")
    loader = Runner.build_dataloader(cfg.val_dataloader)
    evaluator = Evaluator({**cfg.val_evaluator, "metric": "bbox"})
    evaluator.dataset_meta = loader.dataset.metainfo
    for batch in loader:
        for sample in batch["data_samples"]:
            random = np.random.default_rng(sample.img_id)
            objects = sample.gt_instances
            boxes = objects.bboxes.tensor
            moved = boxes + torch.as_tensor(random.normal(0, 2, boxes.shape)).float()
            scores = torch.as_tensor(random.uniform(size=len(boxes)))
            found = InstanceData(bboxes=moved, scores=scores, labels=objects.labels)
            sample.pred_instances = found
        evaluator.process(batch["data_samples"], batch)
    return evaluator.evaluate(len(loader.dataset))


def in_each_process(folder: Path) -> dict:
    """Everything that is compared."""
    found = {(name, True): losses(folder, name, True) for name in CONFIGS}
    found[CONFIGS[0], False] = losses(folder, CONFIGS[0], False)
    return {"losses": found, "metrics": metrics(folder)}


@pytest.fixture(scope="module")
def alone(processes_folder):
    return in_each_process(processes_folder)


def difference(one: dict, other: dict) -> float:
    """The largest, as a share of the largest number of its tensor."""
    assert one.keys() == other.keys()
    return max(
        ((one[k] - other[k]).abs().max() / one[k].abs().max().clamp(min=1e-3)).item() for k in one
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_have_the_losses_and_gradients_of_one(alone, two_processes, name):
    for each in two_processes("test_global_losses"):
        assert difference(alone["losses"][name, True], each["losses"][name, True]) < 1e-5


def test_without_it_they_do_not(alone, two_processes):
    first, _ = two_processes("test_global_losses")
    plain = CONFIGS[0], False
    assert difference(alone["losses"][plain], first["losses"][plain]) > 1e-3


def test_average_precision_is_that_of_one_process(alone, two_processes):
    assert 0.1 < alone["metrics"]["coco/bbox_mAP"] < 0.99
    for each in two_processes("test_global_losses"):
        assert each["metrics"] == alone["metrics"]


def test_other_heads_and_samplers_are_refused_by_name():
    with pytest.raises(ConfigError, match="Line has no anchors"):
        use_global_losses(type("Line", (nn.Linear,), {})(1, 1))
    head = {"type": "FCOSHead", "num_classes": 3, "in_channels": 8, "norm_cfg": None}
    detector = nn.ModuleDict({"bbox_head": MODELS.build(head)})
    with pytest.raises(ConfigError, match="bbox_head is a FCOSHead, whose losses"):
        use_global_losses(detector)
    cfg = narrow_config(f"mmconvnext::{CONFIGS[0]}.py")
    cfg.model.train_cfg.rcnn.sampler = {"type": "OHEMSampler", "num": 8, "pos_fraction": 0.5}
    with pytest.raises(ConfigError, match="roi_head draws by OHEMSampler"):
        use_global_losses(MODELS.build(cfg.model))


if __name__ == "__main__":  # python -m tests.training.test_global_losses PROCESSES
    init_default_scope("mmdet")
    root = Path(tempfile.mkdtemp())
    one = in_each_process(root)
    several = in_processes(in_each_process, root, int(sys.argv[1]))[0]
    for (name, together), found in one["losses"].items():
        largest = difference(found, several["losses"][name, together])
        print(f"{name}, global_losses={together}: largest difference {largest:.1e}")
    print(f"AP {one['metrics']['coco/bbox_mAP']}, {several['metrics']['coco/bbox_mAP']}")

"""The loss on the validation set, from the features that the validation computes for its AP."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import Any

import torch
from mmcv.transforms import LoadAnnotations, Resize
from mmdet.datasets.transforms import ResizeShortestEdge
from mmdet.structures import DetDataSample
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.amp import autocast
from torch import Tensor, nn

from mmconvnext.errors import ConfigError
from mmconvnext.weights.detector import unwrapped


class ValidationLossHook(Hook):
    """Adds the losses on the validation set to the metrics of each validation, as ``val/loss``.

    The heads compute them as in training, with its targets, for the batches of the validation:
    without augmentation, dropout and stochastic depth, with batch norm's running statistics.
    Nothing that the training goes on from is changed, random numbers included. Where a detector
    cannot do it, a warning says why, and the training goes on without.
    """

    priority = "HIGHEST"  # before those who read the metrics

    def __init__(self) -> None:
        self._works = True

    def before_val_epoch(self, runner: Runner) -> None:
        """Keep each batch's features from here on."""
        self._sums: Counter[str] = Counter()  # by the name of the loss, over images
        self._images = 0
        # Heads wait for each other's counts, and the last batch may be missing in some processes.
        self._batches = min(all_gather_object(len(runner.val_dataloader)))
        self._copy: nn.Module | None = None  # made later: an EMAHook puts in its weights first
        model = unwrapped(runner.model)
        extract = model.extract_feat

        def extract_feat(inputs: Tensor) -> Any:
            self._features = extract(inputs)
            return self._features

        model.extract_feat = extract_feat

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any, **_: Any) -> None:
        """Add the losses of a batch."""
        if not self._works or batch_idx >= self._batches:
            return
        images = len(data_batch["data_samples"])
        try:
            for name, value in self._losses(runner, batch_idx, data_batch).items():
                self._sums[name] += float(value) * images
            self._images += images
        except Exception as error:  # in any detector's own code; its AP is worth going on for
            self._works, self._images = False, 0
            self._sums.clear()
            reason = f"{type(error).__name__}: {error}"
            runner.logger.warning("no loss on the validation set: %s", reason)

    @torch.no_grad()
    def _losses(self, runner: Runner, seed: int, data_batch: dict[str, Any]) -> dict[str, Tensor]:
        features, samples = self._features, data_batch["data_samples"]
        if _is_resized_first(runner.val_dataloader.dataset):
            samples = [resized(sample) for sample in samples]
        self._copy = model = self._copy or training_copy(unwrapped(runner.model))
        model.extract_feat = lambda _: features
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices), autocast(enabled=runner.val_loop.fp16):
            torch.manual_seed(seed)
            data = model.data_preprocessor({**data_batch, "data_samples": samples}, training=True)
            losses = model.parse_losses(model(**data, mode="loss"))[1]
        return {name: value for name, value in losses.items() if "loss" in name}

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Add the means over the images of all processes to the metrics."""
        del unwrapped(runner.model).extract_feat
        self._copy = self._features = None
        gathered = all_gather_object((self._sums, self._images))
        images, hub = sum(images for _, images in gathered), runner.message_hub
        for name in gathered[0][0]:
            value = sum(sums[name] for sums, _ in gathered) / images
            hub.log_scalars.pop(f"val/val/{name}", None)  # or the mean with earlier ones is logged
            hub.update_scalar(f"val/val/{name}", value)
            metrics[f"val/{name}"] = value


def _is_resized_first(dataset: Any) -> bool:
    """Whether objects are loaded after the picture was resized, with the file's coordinates."""
    transforms = getattr(dataset, "datasets", [dataset])[0].pipeline.transforms
    loads = [isinstance(each, LoadAnnotations) for each in transforms]
    if True not in loads:
        raise ConfigError("the pipeline of val_dataloader has no LoadAnnotations")
    before = transforms[: loads.index(True)]
    return any(isinstance(each, Resize | ResizeShortestEdge) for each in before)


def resized(sample: DetDataSample) -> DetDataSample:
    """Copy a sample with its objects where the resized, maybe padded, picture has them."""
    sample = sample.clone()
    width, height = sample.scale_factor
    shape = [round(side * by) for side, by in zip(sample.ori_shape, (height, width), strict=True)]
    for name in ("gt_instances", "ignored_instances"):
        objects = sample.get(name).clone()
        objects.bboxes = objects.bboxes.clone()
        objects.bboxes.rescale_((width, height))
        objects.bboxes.clip_(shape)
        if "masks" in objects:
            objects.masks = objects.masks.resize(shape).pad(sample.img_shape)
        setattr(sample, name, objects)
    return sample


def training_copy(model: nn.Module) -> nn.Module:
    """Copy a detector, but for its parameters, which it shares, to compute losses.

    Detector and heads are in training mode, by which some decide what to compute; their layers are
    not: dropout and stochastic depth do nothing.
    """
    copy = deepcopy(model, {id(parameter): parameter for parameter in model.parameters()}).train()
    for module in copy.modules():
        if not any(module.children()) or isinstance(module, nn.MultiheadAttention):
            module.eval()
    copy.data_preprocessor.batch_augments = None
    return copy

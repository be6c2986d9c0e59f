"""Weights as the classifier that they were trained as: logits, and top-1 and top-5 on ImageNet."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.utils import ProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.data.imagenet import Pictures, Sample
from mmconvnext.errors import UserError, WeightsError
from mmconvnext.models import ConvNeXt
from mmconvnext.weights.layouts import extract_backbone
from mmconvnext.weights.load import load_matched, match_backbone
from mmconvnext.weights.matching import describe, shape
from mmconvnext.weights.sources import fetch
from mmconvnext.weights.zoo import ZooEntry, read_zoo

TIMM_RESULTS = "results-imagenet.csv of timm"
SIZE_IN_NAME = re.compile(r"_(\d{3})(?=_|$)")
WHOLE_PICTURE_SIZE = 384  # from here on the official code does not crop
MIN_SIZE = 32


class Classifier(nn.Module):
    """This package's backbone with the final norm and the classifier of a file.

    Args:
        source: what to call the file.
        checkpoint: its content.

    Raises:
        WeightsError: it has no ConvNeXt of a known layout, or one without a classifier.
    """

    def __init__(self, source: str, checkpoint: object):
        super().__init__()
        try:
            tensors, found, part = extract_backbone(checkpoint)
        except ValueError as error:
            raise WeightsError(f"cannot classify with {source}: {error}") from error
        outer = re.sub(r"[^.]+\.$", "", found.prefix)
        # of transformers and mmpretrain, beside the backbone
        for name in (f"{outer}classifier.", f"{outer}head.fc."):
            beside = [leaf for leaf in ("weight", "bias") if name + leaf in tensors]
            part = {**{f"head.{leaf}": tensors[name + leaf] for leaf in beside}, **part}
        spec = describe(part, found.layout.name)
        if lacking := [n for n in ("head.weight", "norm.weight", "norm.bias") if n not in part]:
            raise WeightsError(
                f"{source} ({found.layout.name} layout, {spec}) has no classifier: {lacking[0]} is "
                "missing; take weights that were trained or fine-tuned with one (`mmconvnext "
                "weights list` shows a top-1 for those)"
            )
        self.kind, self.layout = str(spec), found.layout.name
        # timm's models whose norm comes before the pooling
        self.norm_first = f"{found.prefix}norm_pre.weight" in tensors
        self.backbone = ConvNeXt(
            spec.arch,
            in_channels=spec.in_channels,
            kernel_size=spec.kernel_size,
            layer_scale_init_value=float(spec.has_layer_scale),
            use_grn=spec.use_grn,
            out_indices=(3,),
        )
        self.backbone.norm3 = nn.Identity()  # a detector's; the file's own comes after pooling
        matched = match_backbone(self.backbone, checkpoint, source)
        load_matched(self.backbone, *matched)
        self.norm, width = nn.LayerNorm(spec.widths[-1], eps=1e-6), spec.widths[-1]
        layers = {"norm": self.norm}
        for name in ("head.pre_logits.fc", "head"):  # the first of timm's _mlp models
            if f"{name}.weight" in part:
                outputs = (*part[f"{name}.weight"].shape, 0)[0]
                layers[name] = nn.Linear(width, outputs, bias=f"{name}.bias" in part)
                width = outputs
        _fill(layers, part, source)
        _, *layers, last = layers.values()
        self.head = nn.Sequential(*layers, *[nn.GELU()] * len(layers), last)
        self.num_classes = width

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (N, classes) of pictures (N, 3, H, W)."""
        (x,) = self.backbone(x)
        if self.norm_first:
            x = self.norm(x.permute(0, 2, 3, 1)).mean((1, 2))
        else:
            x = self.norm(x.mean((2, 3)))
        return self.head(x)


def _fill(layers: dict[str, nn.Module], part: dict[str, Tensor], source: str) -> None:
    for name, layer in layers.items():
        for leaf, own in layer.state_dict().items():
            given = part[f"{name}.{leaf}"]
            if given.shape != own.shape:
                raise WeightsError(
                    f"{source}: {name}.{leaf} is {shape(given)} in the file, and must be "
                    f"{shape(own)} behind its backbone: the file is damaged, or another network's"
                )
            own.copy_(given)


def load_classifier(source: str) -> Classifier:
    """Build the classifier that a source has; see :func:`mmconvnext.weights.sources.fetch`."""
    return Classifier(source, read_checkpoint(fetch(source), mmap=True)).eval()


class Evaluation(NamedTuple):
    """How pictures are brought to a classifier."""

    transform: Callable[..., Tensor]
    text: str  # the same in words, with where it comes from


def find_entry(source: str) -> ZooEntry | None:
    """The weights of the zoo that a source, or the name of a file, stands for."""
    bare = source.partition("#")[0]
    stem = Path(bare).stem
    for entry in read_zoo():
        names = {entry.name, *(place.rpartition("/")[2] for place in entry.sources)}
        if bare in entry.sources or ("://" not in bare and names & {stem, Path(bare).name}):
            return entry
    return None


def find_evaluation(source: str, entry: ZooEntry | None, size: int | None = None) -> Evaluation:
    """Find size, crop and interpolation that go with weights: the publisher's, else ImageNet's.

    Args:
        source: of the weights.
        entry: of the zoo for it.
        size: another one, in pixels.

    Raises:
        UserError: the size is too small.
    """
    if size is not None and size < MIN_SIZE:
        raise UserError(f"--size {size} is less than {MIN_SIZE}, the stride of the last stage")
    sources = [source.partition("#")[0], *(entry.sources if entry else ())]
    named = [s.partition("://")[2] for s in sources if s.startswith("torchvision://")]
    if named and size is None:
        from torchvision.models import get_model_weights

        model, _, weights = named[0].partition(".")
        transform = get_model_weights(model)[weights or "DEFAULT"].transforms()
        settings = " ".join(repr(transform).split())
        return Evaluation(transform, f"{settings}: torchvision's for {named[0]}")
    config, origin = _timm_config(sources, entry)
    if size is not None:
        config, origin = {**config, "input_size": (3, size, size)}, f"{origin}, but for --size"
    from timm.data import create_transform

    text = (
        f"{config['input_size'][-1]} pixels, crop {config['crop_pct']:g} ({config['crop_mode']}), "
        f"{config['interpolation']}: {origin}"
    )
    return Evaluation(create_transform(**config), text)


def _timm_config(sources: Sequence[str], entry: ZooEntry | None) -> tuple[dict[str, Any], str]:
    """A config for timm's transforms, and where it comes from."""
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg, is_model_pretrained

    # timm has published what it measured at a size for tests; everybody else, at that of training
    at_test_size = entry is None or entry.accuracy_source == TIMM_RESULTS
    for name in (s.partition("://")[2] for s in sources if s.startswith("timm://")):
        if is_model_pretrained(name):
            found = get_pretrained_cfg(name).to_dict()
            size = "test" if at_test_size else "training"
            config = resolve_data_config(pretrained_cfg=found, use_test_size=at_test_size)
            return config, f"timm's for {name} at its {size} size"
    match = SIZE_IN_NAME.search(entry.name) if entry else None
    size = int(match[1]) if match else 224
    whole = {"crop_pct": 1.0, "crop_mode": "squash"} if size >= WHOLE_PICTURE_SIZE else {}
    origin = "ImageNet's defaults, since nothing is known of these weights"
    if match:
        origin = f"the official code's for {entry.name}"
    return resolve_data_config({"input_size": (3, size, size), **whole}), origin


def class_columns(num_classes: int, source: str) -> tuple[list[str], list[int]]:
    """WordNet ids of ImageNet-1K, and the place of each among a classifier's; -1 for none.

    Raises:
        WeightsError: it is no classifier of ImageNet-1K or of a larger set with a known order.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    wnids = ImageNetInfo("imagenet-1k").label_names()
    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        raise WeightsError(
            f"{source} has a head of {num_classes} outputs, whose order is not known: ImageNet-1K "
            "has 1000 classes, 12K 11821, 21K (miil) 11221, 22K 21841 and 21K 21843"
        )
    places = {wnid: place for place, wnid in enumerate(ImageNetInfo(subset).label_names())}
    return wnids, [places.get(wnid, -1) for wnid in wnids]


@dataclass
class Outcome:
    """What was measured."""

    pictures: int  # that could be read
    top1: float  # in per cent of them
    top5: float
    unreadable: list[str]  # path and reason of each


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    samples: Sequence[Sample],
    transform: Callable[..., Tensor],
    columns: Sequence[int],
    batch_size: int,
    workers: int,
    device: str = "cpu",
) -> Outcome:
    """Classify pictures among ImageNet-1K's classes; progress and time left go to stderr.

    Classes that the classifier lacks, -1 in ``columns``, are never right.
    """
    loader = DataLoader(Pictures(samples, transform), batch_size, num_workers=workers)
    bar = ProgressBar(len(samples), file=sys.stderr)
    model, lacking = model.to(device), torch.tensor(columns) < 0
    right, unreadable = torch.zeros(2), []
    for images, labels, faults in loader:
        logits = model(images.to(device)).cpu()[:, columns].masked_fill(lacking, -torch.inf)
        hits = logits.topk(5).indices == labels[:, None]
        hits[[bool(fault) for fault in faults]] = False
        right += torch.stack([hits[:, 0].sum(), hits.sum()])
        unreadable += filter(None, faults)
        bar.update(len(images))
    sys.stderr.write("\n")
    count = len(samples) - len(unreadable)
    top1, top5 = (100 * right.double() / max(count, 1)).tolist()
    return Outcome(count, top1, top5, unreadable)

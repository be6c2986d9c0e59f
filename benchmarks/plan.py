"""A plan for 1 to 512 GPUs: batch, learning rate, memory of each GPU, hours.

Memory is counted with fake tensors, which have shapes and no content; one small case is run and its
memory measured beside the count.
"""

from __future__ import annotations

import argparse
import math
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmdet.registry import MODELS as DETECTORS
from mmengine.registry import init_default_scope
from torch import Tensor, multiprocessing, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from benchmarks.comparison import say
from benchmarks.report import Report
from mmconvnext.analysis.flops import DetectorPass, build_detector
from mmconvnext.engine.config import drop_pretrained, load_config, replace_types

GPUS = tuple(2**i for i in range(10))
IMAGES, SHAPE = 2, (800, 1344)  # of a GPU, as in the recipes; the largest of their sizes
REGIONS, MASKS = 512, 128  # of an image that the recipes draw, and those of them with an object
# A config, and images/s of inference on one A100 at 1280x800 (arXiv 2201.03545, table 3), if known.
MODELS = {
    "Cascade T": ("cascade_convnext_t_coco.py", 13.5),
    "Cascade S": ("cascade_convnext_s_coco.py", 12.0),
    "Cascade B": ("cascade_convnext_b_coco.py", 11.4),
    "Cascade L": ("cascade_convnext_l_in22k_coco.py", 10.0),
    "Cascade XL": ("cascade_convnext_xl_in22k_coco.py", 8.6),
    "V2 huge": ("mask_rcnn_convnextv2_h_coco.py", None),
}
BATCH, RATE, WARM_UP, EPOCHS = 16, 2e-4, 1000, 36  # of the recipes
TRAIN_IMAGES, SLOWER = 117_266, 3  # with objects; forward and backward beside forward
GIB = 2**30
CHECK = ("cascade_convnext_t_coco.py", (384, 512))  # the small case that is run
PAGE = "scale.md"
HEAD = """# From 1 to 512 GPUs

This page answers which batch, learning rate and warm-up go with how many GPUs, whether a detector
fits into them, and how long a training takes. Written by

```sh
python -m benchmarks plan --out docs
```

How to start it on several machines: [cluster/README.md](cluster/README.md).

"""
NOTES = (
    "nothing on this page was measured on a GPU. counted: from shapes, by fake tensors; on paper: "
    "by the rule that is named; measured: on the CPU of the last line",
    f"memory: {IMAGES} images of {SHAPE[0]}x{SHAPE[1]} a GPU, {REGIONS} regions and {MASKS} masks "
    "of an image, bfloat16 where mixed precision has it. Weights, gradients and AdamW's moments "
    "are float32, 16 bytes a parameter, 4 more for data parallel's buckets; what autograd keeps, "
    "each storage once. Not counted: losses and targets, workspaces of kernels, fragmentation, "
    "CUDA's own (some GiB together)",
    "sharded: --shard; the backbone's blocks and all else as a whole are gathered when needed; "
    "recomputed: model.backbone.with_cp=True, with one block's activations at a time",
    f"batch: {IMAGES} images a GPU, and accumulated (optim_wrapper.accumulative_counts) up to "
    f"{BATCH}, which the recipes' learning rate {RATE:g} is meant for. Beyond: the linear rule "
    "(--auto-scale-lr) or that of the square root, the more careful one for AdamW; what AP "
    "comes of either was not tried",
    f"warm-up: the recipes' {WARM_UP} iterations, at most a tenth of all (as --auto has it); "
    f"iterations: {EPOCHS} epochs of {TRAIN_IMAGES:,} images",
    "hours: from published images/s of inference on one A100, divided by "
    f"{SLOWER}, and by the number of GPUs: without communication, reading, evaluation and mixed "
    "precision; an order of magnitude, and a lower bound for many GPUs",
)


class Memory(NamedTuple):
    """What a training step takes, in bytes: counted."""

    parameters: int  # numbers, not bytes
    of_blocks: int  # of them in blocks of the backbone
    largest_block: int
    kept: int  # by autograd
    kept_recomputed: int  # the same where blocks are computed again

    def data_parallel(self, recomputed: bool = False) -> int:
        """Bytes of a GPU, with data parallel."""
        return 20 * self.parameters + (self.kept_recomputed if recomputed else self.kept)

    def sharded(self, gpus: int, recomputed: bool = False) -> int:
        """Bytes of a GPU, with sharding: its parts, and what is gathered with its gradients."""
        gathered = self.parameters - self.of_blocks + 2 * self.largest_block  # the next, too
        states = 16 * self.parameters // gpus + 8 * gathered
        return states + (self.kept_recomputed if recomputed else self.kept)


def training_config(name: str) -> Any:
    """A config whose layers are those that a GPU computes."""
    cfg = load_config(f"mmconvnext::{name}")
    drop_pretrained(cfg)
    replace_types(cfg, ["SyncBN", "MMSyncBN"], "BN")
    cfg.model.backbone.fused = False
    return cfg


def kept_by_autograd(
    run: Callable[[], Any], model: nn.Module, blocks: Sequence[nn.Module] = ()
) -> int:
    """Bytes that autograd keeps while ``run()`` computes, weights left out, each storage once."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor  # stays alive: no address comes twice
        return tensor

    # what recomputing starts from, and a block's input is kept without it, too
    handles = [b.register_forward_pre_hook(lambda _, inputs: pack(inputs[0])) for b in blocks]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    for handle in handles:
        handle.remove()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def count(
    name: str, shape: tuple[int, int] = SHAPE, images: int = IMAGES, mixed: bool = True
) -> Memory:
    """Count a training step of a config's detector."""
    detector = build_detector(training_config(name)).train()  # on the meta device
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.autocast("cpu", torch.bfloat16, enabled=mixed),
    ):
        detector.to_empty(device="cpu")  # where autocast is as on a GPU
        backbone = detector.backbone
        blocks = [block for stage in backbone.stages for block in stage]
        layers = DetectorPass(detector, REGIONS * images, MASKS * images)
        image, kept = torch.empty(images, 3, *shape), []
        for backbone.with_cp in (False, True):
            kept.append(kept_by_autograd(lambda: layers(image), detector, blocks))
        # of the first stage, whose maps are the largest
        size = (images, backbone.stages[0][0].dwconv.in_channels, shape[0] // 4, shape[1] // 4)
        maps = torch.empty(size, requires_grad=True)
        again = kept_by_autograd(lambda: blocks[0](maps), blocks[0])
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    total = sum(p.numel() for p in detector.parameters())
    return Memory(total, sum(sizes), max(sizes), kept[0], kept[1] + again)


def step(queue: Any) -> None:
    """Take the steps of the small case; put the bytes that the process took for them."""
    name, shape = CHECK
    torch.set_num_threads(1)
    init_default_scope("mmdet")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    detector = DETECTORS.build(training_config(name).model).train()
    optimizer = torch.optim.AdamW(detector.parameters())
    layers = DetectorPass(detector, REGIONS, MASKS)
    outputs: list[Tensor] = []
    for head in [
        m for m in detector.modules() if hasattr(m, "loss_by_feat") or hasattr(m, "loss_and_target")
    ]:
        head.register_forward_hook(lambda _, __, output: outputs.append(output))
    for _ in range(2):
        outputs.clear()
        layers(torch.rand(1, 3, *shape))
        sum(tensor.sum() for tensor in tree_leaves(outputs)).backward()
        optimizer.step()
        optimizer.zero_grad()
    queue.put(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def check() -> list[str]:
    """Measure the small case beside its count; a row of the table."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=step, args=(queue,))
    process.start()
    measured = queue.get()
    process.join()
    counted = count(*CHECK, images=1, mixed=False)
    expected = 16 * counted.parameters + counted.kept
    return [f"{expected / GIB:.2f}", f"{measured / GIB:.2f}", f"{measured / expected:.2f}"]


def memory_table() -> list[list[str]]:
    """The memory of a GPU for each model."""
    rows = [
        ["GiB a GPU, counted", "M parameters", "float32", "data parallel", "recomputed"]
        + [f"sharded, {gpus} GPUs" for gpus in (8, 64)]
        + [f"recomputed, {gpus} GPUs" for gpus in (8, 64)]
    ]
    for model, (name, _) in MODELS.items():
        say(f"counting {model}")
        plain, mixed = count(name, mixed=False), count(name)
        sizes = [plain.data_parallel(), mixed.data_parallel(), mixed.data_parallel(True)]
        sizes += [mixed.sharded(gpus, again) for again in (False, True) for gpus in (8, 64)]
        rows.append([model, f"{mixed.parameters / 1e6:.1f}", *(f"{s / GIB:.1f}" for s in sizes)])
    return rows


def batch_table() -> list[list[str]]:
    """Batch, learning rate and hours for each number of GPUs."""
    timed = {model: speed for model, (_, speed) in MODELS.items() if speed}
    rows = [
        ["GPUs", "accumulated", "images a step", "lr, linear", "lr, root", "iterations", "warm-up"]
        + [f"hours, {model}" for model in timed]
    ]
    for gpus in GPUS:
        accumulated = max(1, BATCH // (IMAGES * gpus))
        batch = IMAGES * gpus * accumulated
        iterations = EPOCHS * math.ceil(TRAIN_IMAGES / batch)
        rates = [f"{RATE * batch / BATCH:.2g}", f"{RATE * math.sqrt(batch / BATCH):.2g}"]
        hours = [EPOCHS * TRAIN_IMAGES * SLOWER / speed / gpus / 3600 for speed in timed.values()]
        warm_up = min(WARM_UP, iterations // 10)
        numbers = [gpus, accumulated, batch, *rates, iterations, warm_up]
        rows.append([*map(str, numbers), *(f"{each:.1f}" for each in hours)])
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's option."""
    parser.add_argument("--out", metavar="DIR", help=f"write {PAGE} there, too")


def compare(args: argparse.Namespace) -> Report:
    """Count and plan; write the page if the command line names a folder."""
    init_default_scope("mmdet")
    checked = ["GiB, counted", "GiB, measured", "measured / counted"]
    tables = {
        "Memory": memory_table(),
        "Batch, learning rate and time, on paper": batch_table(),
        f"The count, checked: Cascade T, one image of {CHECK[1][0]}x{CHECK[1][1]}, float32, CPU": [
            checked,
            check(),
        ],
    }
    report = Report((), notes=NOTES, first="", summary=tables)
    if args.out:
        path = Path(args.out, PAGE)
        path.write_text(HEAD + report.text(markdown=True) + "\n", "utf-8")
        say(f"written to {path}")
    return report

"""What exact resume, the check for finite numbers and whole checkpoints add to a training.

``python -m tests.training.measure_overhead COCO [STEPS]``: two trainings, one with all of it, one
without, take steps in turns, with the small model of *shapes* and with Mask R-CNN T; data is loaded
in the process, and images are of one size, as the two see other augmentations. Then a checkpoint of
T is written in turns as here and as by MMEngine. Medians, and quartiles of the ratios.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook

from mmconvnext.data import generate_shapes
from mmconvnext.engine.config import drop_pretrained, load_config, set_data_root
from mmconvnext.engine.runner import build_runner
from mmconvnext.training.checkpoints import WholeFileBackend
from tests.training.processes import resize_all

OFF = {"exact_resume": False, "max_skipped_steps": None}
WARM_UP = 3  # steps
SAVED_EVERY_S = 1800
SIZE = (667, 400)  # half of COCO's


class Turns(Hook):
    """Lets a step begin when the other training's has ended, and says how long it took."""

    priority = "LOWEST"

    def __init__(self, read: int, write: int, steps: int) -> None:
        self.read, self.write, self.steps = read, write, steps
        self.started = time.perf_counter()

    def after_train_iter(self, runner: object, *args: object, **kwargs: object) -> None:
        """Report, and wait."""
        os.write(self.write, f"{time.perf_counter() - self.started}\n".encode())
        if runner.iter + 1 == self.steps:
            os._exit(0)
        os.read(self.read, 1)
        self.started = time.perf_counter()


def train(name: str, data: str, changes: dict, turns: Turns) -> None:
    """Train until the turns are over."""
    cfg = load_config(name)
    set_data_root(cfg, data)
    drop_pretrained(cfg)
    cfg.merge_from_dict({**changes, "val_loss": False, "train_dataloader.num_workers": 0})
    cfg.train_dataloader.persistent_workers = False
    resize_all(cfg, SIZE)
    cfg.default_hooks.checkpoint.interval = 10**9
    cfg.work_dir = tempfile.mkdtemp()
    runner = build_runner(cfg, ("train",))
    runner.register_hook(turns)
    runner.train()


def side_by_side(name: str, data: str, steps: int) -> None:
    """Print a row of two trainings in turns."""
    pipes = []
    for changes in ({}, OFF):
        (read, go), (times, write) = os.pipe(), os.pipe()
        if not os.fork():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            train(name, data, changes, Turns(read, write, steps))
        pipes.append((os.fdopen(times), go))
    seconds = np.empty((steps, 2))
    for step in range(steps):
        for index, (times, go) in enumerate(pipes):
            if step:
                os.write(go, b"x")
            seconds[step, index] = float(times.readline())
    for _ in pipes:
        os.wait()
    seconds = seconds[WARM_UP:]
    ratios = np.quantile(seconds[:, 0] / seconds[:, 1], (0.25, 0.5, 0.75))
    on, off = 1000 * np.median(seconds, axis=0)
    print(f"| {name} | {len(seconds)} | {on:.0f} | {off:.0f} | {ratio_text(ratios)} |", flush=True)


def ratio_text(quartiles: np.ndarray) -> str:
    """A ratio with its quartiles."""
    return f"{quartiles[1]:.3f} ({quartiles[0]:.3f} to {quartiles[2]:.3f})"


def checkpoints(folder: str, rounds: int = 5) -> None:
    """Write a checkpoint of the size of Mask R-CNN T's in turns."""
    path, tensors = (
        Path(folder, "checkpoint.pth"),
        {str(i): torch.rand(11_000_000) for i in range(12)},
    )
    torch.save(tensors, path)
    data, seconds = path.read_bytes(), []
    for _ in range(rounds):
        for backend in (WholeFileBackend(), LocalBackend()):
            started = time.perf_counter()
            backend.put(data, str(path))
            seconds.append(time.perf_counter() - started)
    ours, theirs = np.median(np.reshape(seconds, (rounds, 2)), axis=0)
    print(
        f"a checkpoint of {len(data) / 2**20:.0f} MiB: {ours:.2f} s, by MMEngine {theirs:.2f} s; "
        f"every {SAVED_EVERY_S} s that is {(ours - theirs) / SAVED_EVERY_S:.2%} more"
    )


def main(coco: str, steps: str = "40") -> None:
    """Measure all."""
    print("| config | steps | ms with | ms without | ratio (quartiles) |")
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        shapes = f"{folder}/shapes"
        generate_shapes(shapes, num_train=60, num_val=1)
        side_by_side("mask_rcnn_convnext_shapes", shapes, 3 * int(steps))
        side_by_side("mask_rcnn_convnext_t_coco", coco, int(steps))
        checkpoints(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])

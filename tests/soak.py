"""Memory in 3,000 iterations of a training, validations and checkpoints among them, and in 5,000
inferences: ``python tests/soak.py [ITERATIONS INFERENCES]``.

Each runs in a process of its own, with a small Mask R-CNN on *shapes*. The memory of the process,
and that of its data loaders' processes, is taken in the last four fifths; a line through it has a
slope and its standard error, in MiB per 1,000. The exit code is 1 where it grows by more than 10.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from scipy.stats import linregress

from mmconvnext.data import generate_shapes
from mmconvnext.engine.config import load_config, set_data_root
from mmconvnext.engine.runner import build_runner
from mmconvnext.inference.detector import Detector
from tests.training.exact_training import TINY

MIB, LARGEST_SLOPE, SAMPLES = 2**20, 10.0, 300
NAME = "mask_rcnn_convnext_shapes"


def resident(pid: str = "self") -> int:
    """Bytes of memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children() -> Iterator[str]:
    """Processes that this one has started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:  # it has ended
            continue
        if int(parent) == os.getpid():
            yield stat.parent.name


class Line:
    """Memory by the number of steps, of which a line is printed at the end."""

    def __init__(self, title: str, steps: int, memory: Callable[[], int]) -> None:
        self.title, self.steps, self.memory = title, steps, memory
        self.points: list[tuple[int, int]] = []

    def add(self, step: int) -> None:
        """Look at the memory, every now and then."""
        if step % max(self.steps // SAMPLES, 1) == 0:
            self.points.append((step, self.memory()))

    def fit(self) -> bool:
        """Print the slope; whether it is small."""
        steps, memory = np.array(self.points[len(self.points) // 5 :]).T
        line = linregress(steps / 1000, memory / MIB)
        print(
            f"| {self.title} | {self.steps} | {memory[0] / MIB:.0f} | {memory[-1] / MIB:.0f} | "
            f"{line.slope:+.2f} ± {line.stderr:.2f} |",
            flush=True,
        )
        return line.slope <= LARGEST_SLOPE


@HOOKS.register_module()
class MemoryHook(Hook):
    """Looks at the memory of a training, and of those who load its data."""

    def __init__(self, steps: int) -> None:
        workers = lambda: sum(resident(pid) for pid in children())  # noqa: E731
        self.lines = [Line("training", steps, resident), Line("its workers", steps, workers)]

    def after_train_iter(self, runner: object, *args: object, **kwargs: object) -> None:
        """Look at both."""
        for line in self.lines:
            line.add(runner.iter + 1)


def train(folder: str, iterations: int) -> bool:
    """Train, with a validation and a checkpoint in each tenth."""
    cfg = load_config(NAME)
    set_data_root(cfg, f"{folder}/shapes")
    every = max(iterations // 10, 1)
    loop = {"max_iters": iterations, "val_interval": every, "val_begin": 1}
    cfg.merge_from_dict({**TINY, **{f"train_cfg.{key}": value for key, value in loop.items()}})
    cfg.merge_from_dict({"train_dataloader.num_workers": 2, "val_dataloader.num_workers": 1})
    cfg.default_hooks.checkpoint.interval = every
    cfg.work_dir = f"{folder}/run"
    runner = build_runner(cfg, ("train", "val"))
    memory = MemoryHook(iterations)
    runner.register_hook(memory)
    runner.train()
    return min([line.fit() for line in memory.lines])


def predict(folder: str, inferences: int) -> bool:
    """Give pictures of many sizes to a detector, one after the other."""
    detector, line = Detector(f"{folder}/run"), Line("inferences", inferences, resident)
    rng = np.random.default_rng(0)
    for number in range(1, inferences + 1):
        height, width = rng.integers(32, 320, 2)
        detector(rng.integers(0, 256, (height, width, 3), np.uint8)).draw()
        line.add(number)
    return line.fit()


def main(iterations: str = "3000", inferences: str = "5000") -> int:
    """Run both, each in a process."""
    print("| what | steps | MiB after a fifth | MiB at the end | MiB per 1,000 steps |")
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        generate_shapes(f"{folder}/shapes", num_train=60, num_val=20, image_size=96)
        codes = []
        for part, steps in (("train", iterations), ("predict", inferences)):
            command = [sys.executable, __file__, part, folder, steps]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            print(*(row for row in done.stdout.splitlines() if row.startswith("| ")), sep="\n")
            codes.append(done.returncode)
    return int(any(codes))


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        sys.exit(not train(sys.argv[2], int(sys.argv[3])))
    if sys.argv[1:2] == ["predict"]:
        sys.exit(not predict(sys.argv[2], int(sys.argv[3])))
    sys.exit(main(*sys.argv[1:]))

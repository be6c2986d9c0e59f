"""A training of few steps with two workers, to which something happens in its third one.

python -m tests.training.stopped_training FOLDER EVENT
"""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import torch
from mmengine.optim import OptimWrapper

from mmconvnext.engine.runner import DetectionRunner
from mmconvnext.training import signals
from tests.line import Line

LAUNCHED = "RANK" in os.environ  # LOCAL_RANK is set by commands, too


def happen(event: str, folder: Path) -> None:
    if event == "all":  # by another process, as torchrun and slurm's daemon at once
        processes = [os.getpid(), *(worker.pid for worker in active_children())]
        assert len(processes) == 3
        command = ["kill", "-TERM", "--", f"-{os.getpgid(0)}", *map(str, processes)]
        subprocess.run(command, check=True, start_new_session=True)
    else:
        (folder / f"step{os.environ['RANK']}").touch()
        time.sleep(0.1)


class Stopped(Line):
    def __init__(self, event: str, folder: Path) -> None:
        super().__init__()
        self.steps = 0
        self.event, self.folder = event, folder

    def forward(self, inputs, mode="loss"):
        self.steps += 1
        if self.steps == 3 or (self.steps > 3 and self.event == "torchrun"):
            happen(self.event, self.folder)
        return super().forward(inputs, mode)


def main(folder: Path, event: str) -> None:
    if LAUNCHED:
        torch.distributed.init_process_group("gloo")
    model = Stopped(event, folder)
    runner = DetectionRunner(
        model,
        str(folder),
        train_dataloader={
            "dataset": [{"inputs": 1.0}] * 8,
            "sampler": {"type": "DefaultSampler"},
            "batch_size": 1,
            "num_workers": 2,
            "persistent_workers": True,
            "collate_fn": {"type": "default_collate"},
        },
        train_cfg={"by_epoch": True, "max_epochs": 1000},
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), 0.1)),
        default_hooks={"checkpoint": {"type": "CheckpointHook", "max_keep_ckpts": 1}},
        launcher="pytorch" if LAUNCHED else "none",
        cfg={"model_wrapper_cfg": {"type": "MMDistributedDataParallel", "device_ids": None}},
        default_scope="mmdet",
    )
    hook = signals.StopHook(command="the command")
    runner.register_hook(hook)
    with hook.signals():
        if LAUNCHED and os.environ["RANK"] == "0":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # learns of it from the other process
        runner.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

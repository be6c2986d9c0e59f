"""Trainings in processes of their own, which can be killed; test_exact.py asks for them.

A process that has imported everything forks others for each line of its input, a training in JSON,
and answers with their exit codes.
"""

import json
import os
import signal
import socket
import sys
import traceback
import zlib
from functools import partial
from pathlib import Path

import mmconvnext  # noqa: F401 (must come before mmdet)

# isort: split
import torch
import torch._dynamo  # what an optimizer imports
import torchvision  # noqa: F401 (what the first log imports)
from mmengine.config import config as mmengine_config
from mmengine.hooks import Hook
from mmengine.optim.optimizer import amp_optimizer_wrapper

from mmconvnext.engine import config as configs
from mmconvnext.engine import device, resume
from mmconvnext.engine import runner as engine

CHANNELS = 16
TINY = {
    "model.backbone.arch": {"_delete_": True, "depths": (1, 1, 1, 1), "widths": (8, 16, 24, 32)},
    "model.backbone.drop_path_rate": 0.3,
    "model.neck.in_channels": [8, 16, 24, 32],
    "model.neck.out_channels": CHANNELS,
    "model.rpn_head.in_channels": CHANNELS,
    "model.rpn_head.feat_channels": CHANNELS,
    "model.roi_head.bbox_roi_extractor.out_channels": CHANNELS,
    "model.roi_head.mask_roi_extractor.out_channels": CHANNELS,
    "model.roi_head.bbox_head.in_channels": CHANNELS,
    "model.roi_head.bbox_head.fc_out_channels": CHANNELS,
    "model.roi_head.mask_head.in_channels": CHANNELS,
    "model.roi_head.mask_head.conv_out_channels": CHANNELS,
    "model.train_cfg.rpn_proposal.max_per_img": 20,
    "model.train_cfg.rcnn.sampler.num": 12,
    "model.test_cfg.rpn.max_per_img": 10,
    "default_hooks.logger.interval": 2,
    "default_hooks.checkpoint.interval": 1,
    "default_hooks.checkpoint.save_best": None,
    "train_dataloader.batch_size": 2,
    "val_dataloader.num_workers": 0,
    "val_dataloader.persistent_workers": False,
}
BY_EPOCH = {
    "train_cfg": {"_delete_": True, "by_epoch": True, "max_epochs": 2, "val_interval": 1},
    "train_dataloader.sampler.type": "DefaultSampler",
    "train_dataloader.batch_sampler": {"type": "AspectRatioBatchSampler"},
    "default_hooks.checkpoint.by_epoch": True,
}
BY_ITERATION = {"train_cfg.max_iters": 8, "train_cfg.val_begin": 1, "train_cfg.val_interval": 3}


class Losses(Hook):
    """Writes each step's losses and images, and kills the process after one of the steps."""

    priority = "LOWEST"

    def __init__(self, folder: Path, kill: int | None, in_validation: bool) -> None:
        self.folder, self.kill, self.in_validation = folder, kill, in_validation

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        step = {
            "step": runner.iter,
            "images": [sample.img_id for sample in data_batch["data_samples"]],
            "pixels": [zlib.crc32(image.numpy().tobytes()) for image in data_batch["inputs"]],
            "losses": {name: value.item().hex() for name, value in outputs.items()},
        }
        with (self.folder / f"steps_{runner.rank}.json").open("a") as file:
            file.write(json.dumps(step) + "\n")
        if runner.iter + 1 == self.kill and not self.in_validation:
            os.kill(os.getpid(), signal.SIGKILL)

    def before_val_epoch(self, runner):
        if runner.iter == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)


# Half a second for each checkpoint.
mmengine_config.FormatCode = lambda text, **_: (text, False)
resume.git_revision = lambda: "this one"  # whatever is committed meanwhile


def train(work_dir, data, options, kill=None, in_validation=False, **how):
    """Train, as ``mmconvnext train`` does."""
    torch.set_num_threads(1)
    if how.get("amp"):
        device.has_accelerator = lambda: True
        amp_optimizer_wrapper.is_cuda_available = lambda: True
        amp_optimizer_wrapper.GradScaler = partial(torch.amp.GradScaler, "cpu")
    cfg = configs.load_config("mask_rcnn_convnext_shapes.py")
    configs.set_data_root(cfg, data)
    cfg.merge_from_dict({**TINY, **options})
    cfg.work_dir, cfg.launcher = work_dir, how.get("launcher", "none")
    notes = engine.resume_from(cfg, "auto") if how.get("resume") else []
    runner = engine.build_runner(cfg, ("train", "val"), notes)
    runner.register_hook(Losses(Path(work_dir), kill, in_validation))
    runner.train()


def main() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        training = json.loads(line)
        processes = training.pop("processes", 1)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        pids = []
        for rank in range(processes):
            pids.append(os.fork())
            if pids[-1]:
                continue
            Path(training["work_dir"]).mkdir(exist_ok=True)
            out = os.open(f"{training['work_dir']}/out_{rank}.txt", os.O_CREAT | os.O_WRONLY)
            os.dup2(out, 1)
            os.dup2(out, 2)
            if processes > 1:
                training["launcher"] = "pytorch"
                os.environ.update(
                    RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes),
                    MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                )  # fmt: skip
            try:
                train(**training)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()

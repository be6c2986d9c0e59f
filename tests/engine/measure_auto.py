"""Trainings as ``--auto`` chooses them: the memory that was predicted and that was measured.

``python -m tests.engine.measure_auto choose COCO OUT``, on a machine that does nothing else, makes
20 choices for a folder in COCO's layout; ``train COCO OUT`` trains what was chosen, with all
pictures at the recipe's largest size, which a long training comes to by chance. Both go on where
they ended. The exit code is 1 where a prediction is off by more than a tenth, a choice took more
than a minute or the memory allowed was exceeded.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from mmconvnext.cli import main
from mmconvnext.engine import auto
from mmconvnext.engine.config import load_config
from mmconvnext.engine.own_data import use_dataset, write_config
from mmconvnext.training.signals import StopHook
from tests.training.processes import resize_all

GIB = 2**30
STEPS = {False: 100, True: 20}  # of a training, and of one of COCO's size
# Names of configs, and GiB that may be used.
RUNS = [
    *(("mask_rcnn_convnext_t_coco", gib) for gib in (4, 8)),
    ("cascade_convnext_t_coco", 8),
    ("cascade_convnext_s_coco", 8),
    *(("mask_rcnn_convnextv2_atto_coco", gib) for gib in (3, 5, 8)),
    *(("mask_rcnn_convnext_shapes", gib) for gib in (1, 1.5, 2, 3, 4, 6)),
    *(("cascade_convnext_shapes", gib) for gib in (1, 2, 3, 4)),
    *(("cascade_convnext_overfit", gib) for gib in (2, 4, 6)),
]


def choose(name: str, gib: float, coco: str, folder: Path) -> dict:
    """Let --auto choose, and write the config of a training with the largest pictures."""
    cfg = load_config(name)
    cfg.work_dir = str(folder / "run")
    auto.free_memory = lambda: int(gib * GIB / auto.MEMORY_SHARE)
    use_dataset(cfg, Path(coco), folder / "annotations")
    started = time.monotonic()
    try:
        notes = "\n".join(auto.choose(cfg))
    except auto.UserError as error:
        return {"seconds": time.monotonic() - started, "refused": str(error)}
    seconds = time.monotonic() - started
    resize_all(cfg, (1333, 800))
    write_config(cfg, name, folder / "chosen.py")
    return {
        "seconds": seconds,
        "batch": f"{cfg.train_dataloader.batch_size} x {cfg.optim_wrapper.accumulative_counts}",
        "predicted": float(re.search(r"([\d.]+) GiB of memory will be", notes)[1]),
    }


def train(name: str, folder: Path) -> dict:
    """Train from scratch in a process of its own: GiB at its most, and the exit code."""
    steps = STEPS[name.endswith("_coco")]
    command = [sys.executable, "-m", __spec__.name, "steps", str(folder / "chosen.py"), str(steps)]
    if steps == STEPS[True]:  # a training ends where gradients are applied
        command += ["--cfg-options", f"optim_wrapper.accumulative_counts={steps // 2}"]
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
        _, status, usage = os.wait4(process.pid, 0)
    return {"peak": usage.ru_maxrss * 1024 / GIB, "code": os.waitstatus_to_exitcode(status)}


def train_steps(config: str, steps: str, *options: str) -> None:
    """Train for a number of iterations, and save a checkpoint as --time does."""
    look = StopHook.after_train_iter

    def late(hook: StopHook, runner: object, *args: object, **kwargs: object) -> None:
        if runner.iter + 1 >= int(steps):
            look(hook, runner, *args, **kwargs)

    StopHook.after_train_iter = late
    main(["train", config, "--from-scratch", "--restart", "--time", "1s", *options])


def is_right(run: dict, gib: float) -> bool:
    """Whether a choice was made in time, and the prediction right."""
    if run["seconds"] > 60 or "refused" in run:
        return run["seconds"] <= 60
    close = abs(run["predicted"] / run["peak"] - 1) <= 0.1
    return close and run["peak"] <= gib and run["code"] == 0


def run_all(phase: str, coco: str, out: str) -> bool:
    """Do what is missing of a phase; print a table of what is there."""
    print("| config | GiB | chosen in | batch x accumulated | predicted | measured | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    right = 0
    for name, gib in RUNS:
        folder = Path(out, f"{name}-{gib}").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        result = folder / "result.json"
        run = json.loads(result.read_text()) if result.exists() else choose(name, gib, coco, folder)
        if phase == "train" and "refused" not in run and "peak" not in run:
            run |= train(name, folder)
        result.write_text(json.dumps(run))
        text = [run.get("refused") or run["batch"]]
        if "peak" in run:
            ratio = run["predicted"] / run["peak"]
            text += [f"{run['predicted']:.2f}", f"{run['peak']:.2f}", f"{ratio:.3f}"]
            right += is_right(run, gib)
        else:
            right += "refused" in run and is_right(run, gib)
            text += [f"{run['predicted']:.2f}"] if "predicted" in run else []
        print(f"| {name} | {gib} | {run['seconds']:.0f} s | {' | '.join(text)} |", flush=True)
    print(json.dumps({"runs": len(RUNS), "right": right}))
    return phase == "choose" or right == len(RUNS)


if __name__ == "__main__":
    if sys.argv[1] == "steps":
        train_steps(*sys.argv[2:])
    else:
        sys.exit(not run_all(*sys.argv[1:]))

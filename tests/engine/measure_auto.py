"""Trainings as ``--auto`` chooses them: the memory that was predicted and that was measured.

``python tests/engine/measure_auto.py COCO``, with a folder in COCO's layout: 20 trainings of some
steps, a line for each, with all pictures at the recipe's largest size, which a long training comes
to by chance. It fails where the prediction is off by more than a tenth, the choice took more than a
minute or the memory allowed was exceeded.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mmconvnext.engine import auto
from mmconvnext.engine.config import load_config
from mmconvnext.engine.own_data import use_dataset, write_config

GIB = 2**30
STEPS_S = {False: 25, True: 100}  # for a training, and for one of COCO's size
# Names of configs, and GiB that may be used.
RUNS = [
    *(("mask_rcnn_convnext_t_coco", gib) for gib in (4, 6, 8)),
    *(("cascade_convnext_t_coco", gib) for gib in (4, 8)),
    ("cascade_convnext_s_coco", 8),
    *(("mask_rcnn_convnextv2_atto_coco", gib) for gib in (5, 8)),
    *(("mask_rcnn_convnext_shapes", gib) for gib in (1, 1.5, 2, 3, 4, 6)),
    *(("cascade_convnext_shapes", gib) for gib in (1, 2, 3, 4)),
    *(("cascade_convnext_overfit", gib) for gib in (2, 4)),
]


def run(name: str, gib: float, coco: str, seconds: int) -> bool:
    """Choose and train; print what was predicted and measured, and whether it was right."""
    cfg = load_config(name)
    auto.free_memory = lambda: int(gib * GIB / auto.MEMORY_SHARE)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            cfg.work_dir = folder
            use_dataset(cfg, Path(coco), Path(folder, "annotations"))
            notes = auto.choose(cfg)
            took = time.monotonic() - started
            predicted = float(re.search(r"([\d.]+) GiB of memory will be", "\n".join(notes))[1])
            enlarge(cfg)
            write_config(cfg, name, Path(folder, "chosen.py"))
            peak, code = train(Path(folder, "chosen.py"), folder, seconds)
    except auto.UserError as error:
        print(f"| {name} | {gib} | refused: {error} |", flush=True)
        return True
    batch = f"{cfg.train_dataloader.batch_size} x {cfg.optim_wrapper.accumulative_counts}"
    ratio = predicted / peak
    print(
        f"| {name} | {gib} | {batch} | {took:.0f} s | {predicted:.2f} | {peak:.2f} | {ratio:.3f} |",
        flush=True,
    )
    return code == 0 and abs(ratio - 1) <= 0.1 and took <= 60 and peak <= gib


def enlarge(cfg) -> None:
    """Let each picture of the training have the largest size that the recipe has."""
    pipeline = cfg.train_dataloader.dataset.pipeline
    for index, transform in enumerate(pipeline):
        if transform["type"] in ("RandomChoice", "RandomChoiceResize"):
            pipeline[index] = {"type": "Resize", "scale": (1333, 800), "keep_ratio": False}


def train(config: Path, folder: str, seconds: int) -> tuple[float, int]:
    """Train for some time from scratch: GiB of the process at its most, and the exit code."""
    command = [sys.executable, "-m", "mmconvnext", "train", str(config), "--from-scratch"]
    command += ["--work-dir", folder, "--time", f"{seconds}s"]
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
        _, status, usage = os.wait4(process.pid, 0)
    return usage.ru_maxrss * 1024 / GIB, os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    print(
        "| config | GiB allowed | batch x accumulated | chosen in | predicted | measured | ratio |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    results = [run(name, gib, sys.argv[1], STEPS_S[name.endswith("_coco")]) for name, gib in RUNS]
    print(json.dumps({"runs": len(results), "right": sum(results)}))
    sys.exit(not all(results))

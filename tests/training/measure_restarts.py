"""Kill one of two processes in each of N trainings; does torchrun bring it to its end?

python -m tests.training.measure_restarts [N]
"""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mmengine.registry import init_default_scope

from tests.training.processes import tiny

ITERATIONS = 30
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3"]


def children(pid: int) -> list[int]:
    """The processes that one has started."""
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def trial(folder: Path, number: int) -> tuple[str, float]:
    """What became of a training one of whose processes was killed, and the seconds to the next."""
    cfg = tiny(folder, f"trial{number}", ITERATIONS, log_level="INFO")
    cfg.dump(folder / f"trial{number}.py")
    work_dir = Path(cfg.work_dir)
    arguments = [folder / f"trial{number}.py", "--launcher", "pytorch", "--resume"]
    command = [sys.executable, *LAUNCH, "tools/train.py", *arguments, "--work-dir", work_dir]
    gloo = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}
    log = (folder / f"trial{number}.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **gloo})
    after = work_dir / f"iter_{random.randint(2, ITERATIONS - 10)}.pth"
    while not after.exists() and process.poll() is None:
        time.sleep(0.05)
    os.kill(children(process.pid)[number % 2], signal.SIGKILL)
    killed, known = time.time(), set(work_dir.glob("iter_*.pth"))
    while process.poll() is None and not set(work_dir.glob("iter_*.pth")) - known:
        time.sleep(0.1)
    took = time.time() - killed
    code = process.wait(timeout=600)
    logs = "".join(path.read_text() for path in work_dir.glob("*/*.log"))
    resumed = re.findall(r"resuming \S+(iter_\d+)\.pth", logs)
    done = (work_dir / f"iter_{ITERATIONS}.pth").exists()
    return f"killed after {after.stem}, resumed {resumed[:1]}, exit {code}, ended {done}", took


if __name__ == "__main__":
    init_default_scope("mmdet")
    root = Path(tempfile.mkdtemp())
    for count in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        came, seconds = trial(root, count)
        print(f"trial {count + 1}: {came}, next checkpoint after {seconds:.0f} s", flush=True)

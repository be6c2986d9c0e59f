"""Faults of a small training, each tried: ``python -m tests.faults [KILLS] [RESTARTS]``.

A row for each kind of fault: how often it was tried, how often the training then went on to the
weights of one without faults, bit for bit, or ended as it should, what was lost, how many of the
files ran what they brought along, and the seconds from the command that goes on to its first step.
With a fault that is not survived, the exit code is 1. It needs root, for disks that fill up.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from statistics import median
from subprocess import Popen as Process
from typing import Any, NamedTuple
from xml.etree import ElementTree

import torch
from torch import Tensor

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.data import generate_shapes
from mmconvnext.engine.config import load_config, set_data_root
from mmconvnext.training.checkpoints import newest_whole
from mmconvnext.training.signals import SIGNALS, STOPPED
from tests.training.exact_training import TINY

ITERATIONS, EVERY, WAIT_S = 24, 4, 300
# gloo's processes hang without it when they are started again.
ELASTIC = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
MAIN = "import sys\nfrom mmconvnext.cli import main\nsys.exit(main(sys.argv[1:]))"
# Kills the process within the fsync of the N-th checkpoint, of which some bytes are written.
KILL_IN_SAVE = """
import os, signal
left, sync = [{count}], os.fsync
def kill(handle):
    name = os.readlink(f"/proc/self/fd/{{handle}}")
    if name.endswith(".part"):
        left[0] -= 1
        if not left[0]:
            os.truncate(name, int({share} * os.path.getsize(name)))
            os.kill(os.getpid(), signal.SIGKILL)
    sync(handle)
os.fsync = kill
"""
NAN_LOSS = """
import mmconvnext
from mmdet.models import MaskRCNN
calls, loss = [0], MaskRCNN.loss
def poisoned(self, *args, **kwargs):
    calls[0] += 1
    losses = loss(self, *args, **kwargs)
    return {**losses, "loss_cls": losses["loss_cls"] * float("nan")} if calls[0] == 7 else losses
MaskRCNN.loss = poisoned
"""


class Row(NamedTuple):
    """What came of a kind of fault."""

    fault: str
    tried: int
    survived: int
    lost: int
    ran: int = 0
    seconds: tuple[float, ...] = ()

    def __str__(self) -> str:
        """A row of the table."""
        recovery = f"{median(self.seconds):.0f} ({max(self.seconds):.0f})" if self.seconds else "-"
        return f"| {' | '.join(map(str, self[:5]))} | {recovery} |"


class Training:
    """A small training on *shapes*, by the command."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "config.py"
        generate_shapes(folder / "shapes", num_train=24, num_val=4, image_size=64)
        cfg = load_config("mask_rcnn_convnext_shapes")
        set_data_root(cfg, str(folder / "shapes"))
        cfg.merge_from_dict({**TINY, "train_dataloader.num_workers": 2})
        cfg.train_cfg.update(max_iters=ITERATIONS, val_interval=ITERATIONS)
        cfg.default_hooks.checkpoint.update(interval=EVERY, max_keep_ckpts=2)
        cfg.default_hooks.logger.interval = 1
        cfg.dump(self.config)
        self.fresh = (folder / f"run-{number}" for number in count())
        self.reference = next(self.fresh)
        started = time.monotonic()
        assert self.finish(self.reference) == 0, self.screen(self.reference)
        self.seconds = time.monotonic() - started

    def start(self, run: Path, *extra: str, patch: str = "", launch: tuple = ()) -> Process:
        """Start to train in a folder, in a session of its own."""
        command = [*launch] if launch else [sys.executable, "-c", patch + MAIN, "train"]
        command += [str(self.config), "--work-dir", str(run), *extra]
        with self._screen(run).open("a") as screen:
            return subprocess.Popen(
                command,
                env={**os.environ, "OMP_NUM_THREADS": "1", **ELASTIC},
                stdout=screen,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, run: Path, *extra: str, **kwargs: Any) -> int:
        """Train in a folder to the end; the exit code."""
        return self.start(run, *extra, **kwargs).wait(WAIT_S)

    def _screen(self, run: Path) -> Path:
        return self.folder / f"{run.name}.txt"

    def screen(self, run: Path) -> str:
        """What the trainings in a folder have printed."""
        return self._screen(run).read_text()

    def steps(self, run: Path) -> int:
        """Steps that the trainings in a folder have logged."""
        logs = run.glob("*/vis_data/scalars.json")
        return sum(text.count('"loss"') for text in map(Path.read_text, logs))

    def wait_for(self, run: Path, steps: int, process: Process) -> bool:
        """Wait until so many steps are logged; whether the training still goes on."""
        while process.poll() is None and self.steps(run) < steps:
            time.sleep(0.02)
        return process.poll() is None

    def goes_on(self, run: Path, *extra: str, **kwargs: Any) -> tuple[bool, float]:
        """Resume; whether the last weights are those of the reference, and when it took a step."""
        before, started = self.steps(run), time.monotonic()
        process = self.start(run, "--resume", *extra, **kwargs)
        self.wait_for(run, before + 1, process)
        seconds = time.monotonic() - started
        return process.wait(WAIT_S) == 0 and self.is_exact(run), seconds

    def is_exact(self, run: Path, reference: Path | None = None) -> bool:
        """Whether a run has ended with the weights and the optimizer's state of another."""
        mine, theirs = (
            leaves([checkpoint["state_dict"], checkpoint["optimizer"]])
            for folder in (run, reference or self.reference)
            for checkpoint in [read_checkpoint(folder / f"iter_{ITERATIONS}.pth")]
        )
        return all(map(torch.equal, mine, theirs)) and len(mine) == len(theirs)


def leaves(node: Any) -> list[Tensor]:
    """All tensors, in their order."""
    if isinstance(node, Tensor):
        return [node]
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [tensor for each in inner for tensor in leaves(each)]


def repeated(fault: str, training: Training, times: int, interrupt: Callable[[Path], bool]) -> Row:
    """Interrupt trainings, resume each and compare."""
    outcomes = []
    for _ in range(times):
        run = next(training.fresh)
        ended_well = interrupt(run)
        is_exact, seconds = training.goes_on(run)
        outcomes.append((ended_well and is_exact, not is_exact, seconds))
    survived, lost, seconds = zip(*outcomes, strict=True)
    return Row(fault, times, sum(survived), sum(lost), seconds=seconds)


def kills(training: Training, times: int, rng: random.Random) -> Iterator[Row]:
    """SIGKILL at any moment, and while a checkpoint is written."""

    def at_any_moment(run: Path) -> bool:
        process = training.start(run)
        time.sleep(rng.uniform(0, 0.95 * training.seconds))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True

    def in_a_save(run: Path) -> bool:
        patch = KILL_IN_SAVE.format(count=rng.randint(1, ITERATIONS // EVERY), share=rng.random())
        return training.finish(run, patch=patch) == -signal.SIGKILL

    yield repeated("SIGKILL at any moment", training, times - times // 2, at_any_moment)
    yield repeated("SIGKILL within a save", training, times // 2, in_a_save)


def signals(training: Training) -> Iterator[Row]:
    """Signals that ask a training to end: it saves a checkpoint and has an exit code of its own."""
    for number in SIGNALS:

        def interrupt(run: Path, number: signal.Signals = number) -> bool:
            process = training.start(run)
            training.wait_for(run, 6, process)
            os.killpg(process.pid, number)
            return process.wait(WAIT_S) == STOPPED and "To go on" in training.screen(run)

        yield repeated(number.name, training, 1, interrupt)


def workers(training: Training) -> Iterator[Row]:
    """A process that loads data is killed, as for want of memory."""

    def interrupt(run: Path) -> bool:
        process = training.start(run)
        training.wait_for(run, 6, process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        return process.wait(WAIT_S) != 0 and "Traceback" not in training.screen(run)

    yield repeated("a data loader's process is killed", training, 2, interrupt)


def damaged_files(training: Training) -> Iterator[Row]:
    """The newest checkpoint of a killed training is cut, empty, or has a flipped bit."""

    def damage(change: Callable[[bytearray], bytes]) -> Callable[[Path], bool]:
        def interrupt(run: Path) -> bool:
            process = training.start(run)
            training.wait_for(run, 2 * EVERY + 2, process)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            newest, _ = newest_whole(run)
            newest.write_bytes(change(bytearray(newest.read_bytes())))
            return True

        return interrupt

    def flip(data: bytearray) -> bytes:
        data[len(data) // 2] ^= 4
        return data

    cuts = {"is cut": lambda data: data[: len(data) // 3], "is empty": lambda data: b""}
    for name, change in {**cuts, "has a flipped bit": flip}.items():
        yield repeated(f"the last checkpoint {name}", training, 2, damage(change))


@contextmanager
def disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of a size in a folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def disks(training: Training) -> Iterator[Row]:
    """A disk that fills up while checkpoints are written, and one that cannot be written to."""
    size = (training.reference / f"iter_{ITERATIONS}.pth").stat().st_size
    full = training.folder / "full"
    with disk(full, f"{int(2.5 * size)}"):
        run = full / "run-full"
        code = training.finish(run)
        whole, _ = newest_whole(run)
        ended_well = code == 1 and whole is not None and "Traceback" not in training.screen(run)
        subprocess.run(["mount", "-o", "remount,size=100%", full], check=True)
        is_exact, seconds = training.goes_on(run)
        yield Row("a full disk", 1, int(ended_well and is_exact), int(not is_exact), 0, (seconds,))
    closed = training.folder / "read-only"
    with disk(closed, "100%"):
        run = closed / "run-closed"
        subprocess.run(["mount", "-o", "remount,ro", closed], check=True)
        ended_well = training.finish(run) == 1 and "Traceback" not in training.screen(run)
        yield Row("a read-only disk", 1, int(ended_well), 0)


def numbers(training: Training) -> Iterator[Row]:
    """A loss that is not a number: the step is left out, and can be done again."""
    run = next(training.fresh)
    code = training.finish(run, patch=NAN_LOSS)
    files = [*run.glob("not_finite/*.json")]
    weights = leaves(read_checkpoint(run / f"iter_{ITERATIONS}.pth")["state_dict"])
    finite = all(bool(tensor.isfinite().all()) for tensor in weights)
    command = [sys.executable, "-m", "mmconvnext", "replay", *map(str, files)]
    replayed = subprocess.run(command, capture_output=True, text=True, check=False)
    survived = code == 0 and len(files) == 1 and finite and "Traceback" not in replayed.stderr
    yield Row("a loss that is NaN", 1, int(survived), int(not finite))


def pictures(training: Training) -> Iterator[Row]:
    """Pictures that vanish, or whose reading never ends, during a training."""
    pictures = sorted((training.folder / "shapes").rglob("train*/*.png"))
    kept = pictures[0].read_bytes()

    def interrupt(run: Path) -> bool:
        process = training.start(run, "--cfg-options", "train_dataloader.timeout=5")
        training.wait_for(run, 4, process)
        for picture in pictures:
            picture.rename(picture.with_suffix(".kept"))
            os.mkfifo(picture)
        code = process.wait(WAIT_S)
        for picture in pictures:
            picture.with_suffix(".kept").replace(picture)
        return code != 0 and pictures[0].parent.name in training.screen(run)

    yield repeated("pictures whose reading never ends", training, 1, interrupt)
    assert pictures[0].read_bytes() == kept


def ranks(training: Training, times: int) -> Iterator[Row]:
    """One of two processes is killed; torchrun starts both again."""
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    launch += ("--nproc-per-node", "2", "--max-restarts", "2", "tools/train.py")
    extra = ("--launcher", "pytorch", "--resume")
    reference = next(training.fresh)
    assert training.finish(reference, *extra, launch=launch) == 0, training.screen(reference)
    outcomes = []
    for number in range(times):
        run = next(training.fresh)
        process = training.start(run, *extra, launch=launch)
        training.wait_for(run, EVERY + 2 + number, process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        started, before = time.monotonic(), training.steps(run)
        os.kill(int(children[1]), signal.SIGKILL)
        training.wait_for(run, before + 1, process)
        seconds = time.monotonic() - started
        with suppress(subprocess.TimeoutExpired):
            process.wait(WAIT_S)
        done = (run / f"iter_{ITERATIONS}.pth").exists() and process.poll() == 0
        outcomes.append((done and training.is_exact(run, reference), seconds))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    survived, seconds = zip(*outcomes, strict=True)
    fault = "one of two processes is killed, torchrun restarts"
    yield Row(fault, times, sum(survived), times - sum(survived), 0, seconds)


def hostile(training: Training) -> Iterator[Row]:
    """Files that would run code, given to each command: tests/test_security.py."""
    results = training.folder / "hostile.xml"
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_security.py"]
    done = subprocess.run([*command, f"--junitxml={results}"], capture_output=True, check=False)
    suite = ElementTree.parse(results).getroot().find("testsuite")
    tried, failed = int(suite.get("tests")), int(suite.get("failures")) + int(suite.get("errors"))
    assert done.returncode in (0, 1), done.stdout
    yield Row("files that would run code", tried, tried - failed, 0, failed)


def main(kill: str = "30", restarts: str = "10", only: str = "") -> int:
    """Try all, or those with a name; print a row for each."""
    print("| fault | tried | survived | lost | run | seconds to the next step (most) |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        training, rng = Training(Path(folder)), random.Random(0)
        parts = {
            "kills": lambda: kills(training, int(kill), rng),
            "files": lambda: damaged_files(training),
            "disks": lambda: disks(training),
            "signals": lambda: signals(training),
            "workers": lambda: workers(training),
            "pictures": lambda: pictures(training),
            "numbers": lambda: numbers(training),
            "ranks": lambda: ranks(training, int(restarts)),
            "hostile": lambda: hostile(training),
        }
        for name, part in parts.items():
            for row in part() if only in name else ():
                rows.append(row)
                print(row, flush=True)
    return int(any(row.survived < row.tried or row.lost or row.ran for row in rows))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

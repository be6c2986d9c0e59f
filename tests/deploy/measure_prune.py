"""AP and size of a detector pruned to several shares, before and after it trains on.

``python tests/deploy/measure_prune.py RUN_DIR OUT [ITERATIONS [SHARE ...]]`` prunes the detector of
a training by iterations, as ``make demo`` leaves it, to 70 % and 50 % of its backbone's
multiply-adds, trains each on for so many iterations (without: what the written config says), and
tests all of them on the config's test data. Steps whose result is in OUT are not run again.
"""

import json
import subprocess
import sys
from pathlib import Path

from mmengine.config import Config

from mmconvnext.engine.run_dir import find_run

MIB = 2**20


def command(*arguments: object) -> None:
    """Run the command, whose output goes to stderr."""
    line = [sys.executable, "-m", "mmconvnext", *map(str, arguments)]
    subprocess.run(line, check=True, stdout=sys.stderr)


def tested(config: Path, checkpoint: Path, folder: Path) -> str:
    """Box and mask AP, as cells of a row."""
    path = folder / "result.json"
    if not path.exists():
        command("test", config, checkpoint, "--work-dir", folder)
    metrics = json.loads(path.read_text())["metrics"]
    return " | ".join(f"{100 * metrics[f'{kind}_mAP']:.1f}" for kind in ("bbox", "segm"))


def pruned(run: str, out: Path, share: float, iterations: int | None) -> str:
    """Prune, test, train on, test; the rest of a row."""
    if not (out / "pruned.pth").exists():
        command("prune", run, "--keep", share, "--out", out)
    config, checkpoint = find_run(out)
    before = tested(config, checkpoint, out / "before")
    loop = Config.fromfile(config).train_cfg
    count = iterations or loop.max_iters
    if not (out / "train" / f"iter_{count}.pth").exists():
        options = [f"train_cfg.max_iters={count}", f"train_cfg.val_begin={count + 1}"]
        options.append(f"param_scheduler.1.end={count}")
        command("train", config, "--work-dir", out / "train", "--cfg-options", *options)
    after = tested(config, out / "train" / f"iter_{count}.pth", out / "after")
    return f"{before} | {after} | {count} | {checkpoint.stat().st_size / MIB:.1f}"


def main(run: str, out: str, iterations: str = "0", *shares: str) -> None:
    """Print a table in markdown."""
    config, checkpoint = find_run(Path(run))
    print("| backbone's multiply-adds | box AP | mask AP | trained on: box AP | mask AP |", end="")
    print(" iterations | weights, MiB |\n| --- " + "| ---: " * 6 + "|", flush=True)
    print(f"| unpruned | {tested(config, checkpoint, Path(out, 'unpruned'))} | | | | |", flush=True)
    for share in map(float, shares or ("0.7", "0.5")):
        row = pruned(run, Path(out, f"{share:g}"), share, int(iterations) or None)
        print(f"| {share:.0%} | {row} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The main job from start to end on a small scale: make shapes, train, evaluate, draw."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mmconvnext.engine.cli import main_guard
from mmconvnext.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
# What the terminal shows of the tools' output; all of it is in the log files.
SHOWN = ("Iter(", "Epoch(", "no GPU", " layer ", "WARNING", "COCO", "| ", "+-", "written to")
HIDDEN = ("FileClient", "HardDiskBackend", "deprecat")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    config = ROOT / "configs" / "mask_rcnn_convnext_shapes.py"
    parser.add_argument("--config", default=os.path.relpath(config))
    parser.add_argument("--out", default="demo", help="folder of logs, pictures and result.json")
    parser.add_argument("--data", default="data/shapes", help="folder of the data set")
    parser.add_argument("--train-images", type=int, default=2000)
    parser.add_argument("--val-images", type=int, default=200)
    return parser.parse_args()


def run_tool(name: str, arguments: Sequence[str | Path], log: Path) -> None:
    """Run a tool, show its progress and keep its whole output.

    Raises:
        UserError: the tool failed; the message shows the end of its output.
    """
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)]
    print("$ python tools/" + " ".join([name, *command[2:]]), flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        for line in process.stdout:
            file.write(line)
            lines.append(line)
            if any(s in line for s in SHOWN) and not any(h in line for h in HIDDEN):
                print(line, end="", flush=True)
    if process.returncode:
        raise UserError(f"tools/{name} failed, see {log}:\n{''.join(lines[-15:])}")


@main_guard
def main() -> None:
    """Run the demo."""
    args = parse_args()
    from mmengine.runner import find_latest_checkpoint

    from mmconvnext.data import generate_shapes

    start = time.monotonic()
    out = Path(args.out)
    generate_shapes(args.data, num_train=args.train_images, num_val=args.val_images)
    print(f"data: {args.train_images} + {args.val_images} images in {args.data}", flush=True)
    common = ["--data-root", args.data, "--work-dir"]
    run_tool("train.py", [args.config, *common, out / "train"], out / "train.log")
    trained = time.monotonic()
    checkpoint = find_latest_checkpoint(str(out / "train"))
    run_tool(
        "test.py",
        [args.config, checkpoint, *common, out, "--show-dir", out / "pictures"],
        out / "test.log",
    )
    end = time.monotonic()
    print(f"data and training {trained - start:.0f} s, evaluation {end - trained:.0f} s")
    print(f"ground truth beside predictions: {out / 'pictures'}; numbers: {out / 'result.json'}")


if __name__ == "__main__":
    sys.exit(main())

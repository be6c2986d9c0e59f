"""The main job from start to end on a small scale: make shapes, train, evaluate, draw, report."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mmconvnext.errors import UserError

ON_SHEET = 12  # pictures
PACKAGE = Path(__file__).resolve().parents[1]
HIDDEN = ("next:", "  mmconvnext ")  # what training advises and the demo does


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("--config", default="mask_rcnn_convnext_shapes.py")
    parser.add_argument("--out", default="demo", help="folder of numbers, pictures and report")
    parser.add_argument("--data", default="data/shapes", help="folder of the data set")
    parser.add_argument("--train-images", type=int, default=2000)
    parser.add_argument("--val-images", type=int, default=200)


def run_command(name: str, arguments: Sequence[str | Path], log: Path) -> None:
    """Run a command, show its progress and keep its whole output, whose end an error shows."""
    # by its path: of several copies of the package, this one
    command = [sys.executable, str(PACKAGE), name, *map(str, arguments)]
    print("$ mmconvnext " + " ".join(command[2:]), flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with log.open("w", encoding="utf-8") as file, subprocess.Popen(command, **pipes) as process:
        for line in process.stdout:
            file.write(line)
            if not line.startswith(HIDDEN):
                print(line, end="", flush=True)
    if process.returncode:
        end = "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
        raise UserError(f"mmconvnext {name} failed, see {log}:\n{end}")


def run(args: argparse.Namespace) -> None:
    """Run the demo."""
    from mmengine.runner import find_latest_checkpoint

    from mmconvnext.data import generate_shapes
    from mmconvnext.evaluation.pictures import contact_sheet

    start = time.monotonic()
    out = Path(args.out)
    generate_shapes(args.data, num_train=args.train_images, num_val=args.val_images)
    print(f"data: {args.train_images} + {args.val_images} images in {args.data}", flush=True)
    common = ["--data-root", args.data, "--work-dir"]
    run_command("train", [args.config, *common, out / "train", "--restart"], out / "train.log")
    trained = time.monotonic()
    checkpoint = find_latest_checkpoint(str(out / "train"))
    pictures = out / "pictures"
    arguments = [args.config, checkpoint, *common, out, "--show-dir", pictures]
    report = find_spec("hotcoco") is not None
    run_command("test", [*arguments, *["--report"] * report], out / "test.log")
    sheet = pictures / "contact_sheet.png"
    drawn = sorted(path for path in pictures.glob("*.png") if path != sheet)
    contact_sheet(drawn[:ON_SHEET]).save(sheet)
    end = time.monotonic()
    print(f"data and training {trained - start:.0f} s, evaluation {end - trained:.0f} s")
    print(f"ground truth beside predictions: {sheet} and the others in its folder")
    print(f"numbers: {out / 'result.json'}")
    if report:
        print(f"where it fails, open in a browser: {out / 'report.html'}")
    else:
        print("no report without hotcoco: pip install 'mmconvnext[fast]'")

"""A picture of 8,000 x 8,000 pixels, 10,000 pictures and an hour of video: memory and rate.

``python tests/inference/measure_predict.py [RUN_DIR]`` draws them and gives them to ``mmconvnext
predict``, two at a time; RUN_DIR is a training on *shapes*, such as ``demo/train`` of ``make
demo``, in place of one of 500 iterations. It fails where memory grows with the pictures.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mmconvnext.data import generate_shapes
from mmconvnext.data.shapes import draw_scene
from mmconvnext.inference.outputs import start_video

SCENE, SCENES, TILE = 160, 50, 500  # 50 x 50 scenes of 160 pixels
PICTURES, SIDE = 10_000, 64
VIDEOS = ((3600, 1), (60, 25))  # seconds and frames a second; an hour at 25 would be 90,000
WIDTH, HEIGHT = 64, 48  # of a frame
ITERATIONS, SHAPES = 500, "mask_rcnn_convnext_shapes"
# proposals and objects that would not be written cost time
QUICK = ("--cfg-options", "model.test_cfg.rcnn.score_thr=0.3", "model.test_cfg.rpn.max_per_img=20")
INTERVAL = 0.25  # seconds between looks at the memory
GROWTH = 0.05  # of the peak, that is noise
FOUND = 0.5  # IoU of boxes


class Measured(NamedTuple):
    """A call of the command: CPU seconds, MiB at most, MiB that came after a fifth of it."""

    seconds: float
    peak: float
    growth: float


def train(folder: Path) -> Path:
    """Train on *shapes*, and return the work folder."""
    generate_shapes(folder / "shapes", num_train=4 * ITERATIONS, num_val=1)
    command = ["train", SHAPES, "--data-root", folder / "shapes", "--work-dir", folder / "run"]
    call([*command, "--cfg-options", f"train_cfg.max_iters={ITERATIONS}"]).wait()
    return folder / "run"


def call(arguments: list[object]) -> subprocess.Popen:
    """Start a command of the package."""
    command = [sys.executable, "-m", "mmconvnext", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(run: Path, picture: Path, out: Path, *options: object) -> Measured:
    """Predict, and look at the memory meanwhile."""
    start, samples, last = time.monotonic(), [], ("", "")
    process = call(["predict", run, picture, "--out", out, *options])
    while process.poll() is None:
        now = [Path(f"/proc/{process.pid}/{name}").read_text() for name in ("status", "stat")]
        if found := re.search(r"VmRSS:\s+(\d+) kB", now[0]):  # it has not just ended
            last = now
            samples.append((time.monotonic() - start, int(found[1]) / 1024))
        time.sleep(INTERVAL)
    if process.returncode:
        sys.exit(f"predict on {picture} ended with {process.returncode}")
    duration = time.monotonic() - start
    times, sizes = np.array([each for each in samples if each[0] > duration / 5]).T
    growth = np.polyfit(times, sizes, 1)[0] * 0.8 * duration
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", last[0])[1]) / 1024
    # others share the machine, and the clock: user and system time, in ticks
    ticks = sum(map(int, last[1].rpartition(")")[2].split()[11:13]))
    return Measured(ticks / os.sysconf("SC_CLK_TCK"), peak, growth)


def draw_scenes(scenes: int = SCENES) -> tuple[np.ndarray, np.ndarray]:
    """The large picture, and its objects: x, y, width, height, class."""
    whole = np.zeros((scenes * SCENE, scenes * SCENE, 3), np.uint8)
    objects = []
    for index in range(scenes**2):
        top, left = (SCENE * place for place in divmod(index, scenes))
        scene = draw_scene("val", index, SCENE, seed=1)
        whole[top : top + SCENE, left : left + SCENE] = scene.image
        for category, mask, crowd in scene.objects:
            x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
            if not crowd:
                objects.append((left + x, top + y, width, height, category))
    return whole, np.array(objects, float)


def compare(objects: np.ndarray, path: Path) -> str:
    """How many objects a file of predictions has, and how many of them more than once."""
    entries = json.loads(path.read_text())["annotations"]
    found = np.array([(*each["bbox"], each["category_id"] - 1) for each in entries])
    once, twice = ((hits(objects, found).sum(0) > times).sum() for times in (0, 1))
    return f"{once:,} of {len(objects):,} objects of the large picture found, {twice} of them twice"


def hits(objects: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Which detections (rows: x, y, width, height, class) are of which objects (columns)."""
    iou = coco_mask.iou(found[:, :4].copy(), objects[:, :4].copy(), [0] * len(objects))
    return (iou >= FOUND) & (found[:, 4:] == objects[:, 4])


def film(path: Path, whole: np.ndarray, seconds: int, rate: int) -> int:
    """Write a video, a walk over the large picture; returns how many frames it has."""
    count, steps = seconds * rate, len(whole) - WIDTH
    with ExitStack() as stack:
        add = start_video(path, rate, (WIDTH, HEIGHT), stack)
        for number in range(count):
            row, left = divmod(3 * number, steps)
            add(whole[row * HEIGHT : (row + 1) * HEIGHT, left : left + WIDTH])
    return count


def cut(folder: Path, whole: np.ndarray) -> int:
    """Write small pictures, parts of the large one; returns how many."""
    folder.mkdir()
    across = len(whole) // SIDE
    for number in range(PICTURES):
        top, left = (SIDE * place for place in divmod(number, across))
        part = whole[top : top + SIDE, left : left + SIDE]
        cv2.imwrite(str(folder / f"{number:05}.jpg"), part)
    return PICTURES


def main(run: Path | None) -> bool:
    """Measure all; whether memory stayed what it was."""
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as pool:
        folder = Path(temporary)
        run = run or train(folder)
        whole, objects = draw_scenes()
        cv2.imwrite(str(folder / "large.png"), whole)
        small = f"a folder, {SIDE} x {SIDE}, `--to coco csv`"
        calls = {small: ("small", cut(folder / "small", whole))}
        calls[f"{len(whole)} x {len(whole)} pixels, `--tile {TILE}`"] = ("large.png", 1)
        for seconds, rate in VIDEOS:
            name = f"{seconds // 60} min of video, {rate} a second, {WIDTH} x {HEIGHT}"
            calls[name] = (f"{rate}.mp4", film(folder / f"{rate}.mp4", whole, seconds, rate))
        options = {"small": (*QUICK, "--to", "coco", "csv"), "large.png": ("--tile", TILE)}
        jobs = {}
        for name, (source, count) in calls.items():
            more = options.get(source, QUICK)
            job = pool.submit(measure, run, folder / source, folder / f"of_{source}", *more)
            jobs[job] = (name, count)
        print("| input | pictures | CPU s | pictures a CPU s | peak, MiB | growth, MiB |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
        flat = []
        for job in as_completed(jobs):
            (name, count), (seconds, peak, growth) = jobs[job], job.result()
            row = f"{count:,} | {seconds:.0f} | {count / seconds:.2g} | {peak:.0f} | {growth:+.1f}"
            print(f"| {name} | {row} |", flush=True)
            flat.append(count == 1 or growth <= GROWTH * peak)
        print(compare(objects, folder / "of_large.png" / "predictions.json"))
    return all(flat)


if __name__ == "__main__":
    sys.exit(not main(Path(sys.argv[1]) if sys.argv[1:] else None))

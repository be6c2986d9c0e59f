"""A small detector of *shapes* alone and taught by a larger one: AP of seeds, by one command.

``OMP_NUM_THREADS=1 python tests/training/measure_distillation.py OUT [SEED ...]`` trains, for each
seed (0, 1 and 2), a teacher, and students alone, with each of the two losses and with both, from
the teacher of their seed; students take the same number of steps on the same pictures, from the
same weights. What OUT has is not trained again: the command goes on where it ended. Prints means,
standard deviations and the differences to the student alone of the same seed.
"""

import json
import statistics
import sys
from pathlib import Path

from mmconvnext.data import generate_shapes
from mmconvnext.engine.config import load_config, set_data_root
from mmconvnext.engine.runner import build_runner, resume_from

SIZE, TRAIN, VAL = 64, 2000, 200  # pixels and pictures
STEPS = {"teacher": 500, "student": 250}
# As in the trainings of docs/roadmap.md.
FEWER = {
    "model.train_cfg.rcnn.sampler.num": 32,
    "model.roi_head.mask_head.num_convs": 1,
    "model.test_cfg.rpn.max_per_img": 50,
}
TEACHER, STUDENT = "mask_rcnn_convnext_shapes.py", "distill/mask_rcnn_convnext_from_demo_shapes.py"
# What of the student's config is left out.
KINDS = {
    "teacher": (),
    "alone": ("teacher",),
    "features": ("teacher.logits",),
    "logits": ("teacher.feature",),
    "features and logits": (),
}
METRICS = ("coco/bbox_mAP", "coco/segm_mAP")


def train(out: Path, kind: str, seed: int) -> None:
    """Train one detector, from its last checkpoint if there is one, and validate it at the end."""
    folder, steps = str(folder_of(out, kind, seed)), steps_of(kind)
    cfg = load_config(TEACHER if kind == "teacher" else STUDENT)
    set_data_root(cfg, str(out / "data"))
    cfg.merge_from_dict(
        {
            **FEWER,
            **{"work_dir": folder, "experiment_name": folder, "visualizer.name": folder},
            **{f"train_cfg.{key}": steps for key in ("max_iters", "val_begin", "val_interval")},
            **{"param_scheduler.1.end": steps, "randomness.seed": seed, "val_loss": False},
            "default_hooks.checkpoint.interval": 100,
            "val_dataloader.num_workers": 0,
            "val_dataloader.persistent_workers": False,
        }
    )
    if kind != "teacher":
        cfg.teacher.config = str(folder_of(out, "teacher", seed))
        cfg.merge_from_dict(dict.fromkeys(KINDS[kind]))
    notes = resume_from(cfg, "auto")
    build_runner(cfg, ("train", "val"), notes).train()


def steps_of(kind: str) -> int:
    """How long a detector is trained."""
    return STEPS["teacher" if kind == "teacher" else "student"]


def folder_of(out: Path, kind: str, seed: int) -> Path:
    """The work folder of a training."""
    return out / kind.replace(" ", "_") / f"seed_{seed}"


def result(folder: Path) -> list[float] | None:
    """AP of boxes and masks, 0-100, of a training that has ended."""
    for path in folder.glob("*/vis_data/scalars.json"):
        for entry in map(json.loads, path.read_text("utf-8").splitlines()):
            if METRICS[0] in entry:
                return [100 * entry[name] for name in METRICS]
    return None


def table(out: Path, seeds: list[int]) -> str:
    """What has been trained, in Markdown."""
    lines = ["| | steps | box AP | mask AP | box AP of each seed | gain of each seed |"]
    lines.append("| --- | ---: | ---: | ---: | --- | --- |")
    found = {
        kind: {seed: r for seed in seeds if (r := result(folder_of(out, kind, seed)))}
        for kind in KINDS
    }
    for kind, of_seeds in found.items():
        means = [_mean(values) for values in zip(*of_seeds.values(), strict=True)] or ["-", "-"]
        boxes = {seed: box for seed, (box, _) in of_seeds.items()}
        each = ", ".join(f"{box:.1f}" for box in boxes.values())
        gains = [
            box - found["alone"][seed][0] for seed, box in boxes.items() if found["alone"].get(seed)
        ]
        gain = ", ".join(f"{g:+.1f}" for g in gains if kind not in ("teacher", "alone"))
        lines.append(f"| {kind} | {steps_of(kind)} | {' | '.join(means)} | {each} | {gain} |")
    return "\n".join(lines)


def _mean(values: tuple[float, ...]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main(out: str, *seeds: str) -> None:
    """Train what is not there yet, what is taught by both losses first, and print the table."""
    folder, numbers = Path(out), [int(seed) for seed in seeds] or [0, 1, 2]
    generate_shapes(folder / "data", num_train=TRAIN, num_val=VAL, image_size=SIZE)
    first = ("teacher", "alone", "features and logits")
    later = [kind for kind in KINDS if kind not in first]
    for kind, seed in [(k, s) for kinds in (first, later) for s in numbers for k in kinds]:
        if not result(folder_of(folder, kind, seed)):
            train(folder, kind, seed)
            print(table(folder, numbers), flush=True)
    print(table(folder, numbers))


if __name__ == "__main__":
    main(*sys.argv[1:])

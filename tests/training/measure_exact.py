"""What exact resume costs a training step: the seeds of the step and of its samples.

    python tests/training/measure_exact.py CONFIG DATA_ROOT [KEY=VALUE ...]

Steps on one batch, in turns with seeds and without: the median of each, and of the seeds alone.
"""

import statistics
import sys
import tempfile
import time

from mmengine.config import DictAction

from mmconvnext.engine import config as configs
from mmconvnext.engine.runner import build_runner
from mmconvnext.training.places import seed_all

TURNS = 15


def main(config: str, root: str, *options: str) -> None:
    """Take steps in turns and print a line."""
    cfg = configs.load_config(config)
    configs.set_data_root(cfg, root)
    values = (each.split("=", 1) for each in options)
    cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in values})
    cfg.merge_from_dict({"train_dataloader.num_workers": 0, "exact_resume": False})
    cfg.train_dataloader.persistent_workers = False
    cfg.work_dir, cfg.launcher = tempfile.mkdtemp(), "none"
    configs.drop_pretrained(cfg)
    runner = build_runner(cfg, ("train",))
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    batch = next(iter(runner.train_dataloader))
    images = len(batch["inputs"])
    seconds, seeds = {True: [], False: []}, []
    for turn in range(-4, 2 * TURNS):
        start = time.perf_counter()
        if turn % 2:
            for place in range(images + 1):
                seed_all(0, 0, turn, place)
            seeds.append(time.perf_counter() - start)
        runner.model.train_step(batch, runner.optim_wrapper)
        if turn >= 0:
            seconds[bool(turn % 2)].append(time.perf_counter() - start)
    with_seeds, without = (statistics.median(seconds[each]) for each in (True, False))
    alone = statistics.median(seeds)
    print(
        f"{config}: a step on {images} images takes {with_seeds * 1e3:.1f} ms with seeds and "
        f"{without * 1e3:.1f} ms without; the seeds alone {alone * 1e3:.3f} ms, "
        f"{alone / without:.3%} of it"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

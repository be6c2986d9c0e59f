"""What looking at losses and gradients costs a training step, in processor time.

    python tests/training/measure_finite.py CONFIG DATA_ROOT STEPS [KEY=VALUE ...]

The medians of what it adds to a step, and of steps.
"""

import statistics
import sys
import tempfile
import time

from mmengine.config import DictAction

from mmconvnext.engine import config as configs
from mmconvnext.engine.runner import build_runner
from mmconvnext.training.finite import FiniteStepHook


def main(config: str, root: str, steps: str, *options: str) -> None:
    """Train a batch some times and print a line."""
    cfg = configs.load_config(config)
    configs.set_data_root(cfg, root)
    values = (each.split("=", 1) for each in options)
    cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in values})
    cfg.merge_from_dict({"max_skipped_steps": None, "launcher": "none", "load_from": None})
    cfg.merge_from_dict({"train_dataloader": {"num_workers": 0, "persistent_workers": False}})
    configs.drop_pretrained(cfg)
    cfg.exact_resume, cfg.default_hooks.checkpoint = False, None
    cfg.work_dir = cfg.experiment_name = tempfile.mkdtemp()
    runner = build_runner(cfg, ("train",))
    batch = next(iter(runner.train_dataloader))
    runner.optim_wrapper = wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.model.init_weights()
    runner.model.train()
    hook = FiniteStepHook()
    hook.before_train(runner)
    own, watched = hook._step, wrapper.step
    extra, whole = [], []

    def timed_own(**kwargs):
        start = time.process_time()
        own(**kwargs)
        extra[-1] -= time.process_time() - start

    def timed(**kwargs):
        start = time.process_time()
        watched(**kwargs)
        extra[-1] += time.process_time() - start

    hook._step, wrapper.step = timed_own, timed
    for _ in range(int(steps) + 1):
        extra.append(0.0)
        start = time.process_time()
        outputs = runner.model.train_step(batch, optim_wrapper=wrapper)
        end = time.process_time()
        hook.after_train_iter(runner, 0, batch, outputs)
        extra[-1] += time.process_time() - end
        whole.append(time.process_time() - start)
    check, step = (statistics.median(taken[1:]) for taken in (extra, whole))
    print(
        f"{config}: {1e3 * check:.1f} ms of {1e3 * step:.0f} ms that a step takes of a processor: "
        f"{check / step:.2%}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

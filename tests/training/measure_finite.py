"""What looking at losses and gradients costs a training step, in processor time.

    python tests/training/measure_finite.py CONFIG DATA_ROOT STEPS [KEY=VALUE ...]

Steps with it and without, in turns; the medians of each are compared.
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
    """Train a batch in turns and print a line."""
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
    own = wrapper.step, wrapper.backward
    hook = FiniteStepHook()
    hook.before_train(runner)
    watched = wrapper.step, wrapper.backward
    seconds = {own: [], watched: []}
    for _ in range(int(steps) + 1):
        for methods, taken in seconds.items():
            wrapper.step, wrapper.backward = methods
            start = time.process_time()
            outputs = runner.model.train_step(batch, optim_wrapper=wrapper)
            if methods is watched:
                hook.after_train_iter(runner, 0, batch, outputs)
            taken.append(time.process_time() - start)
    without, with_it = (statistics.median(taken[1:]) for taken in seconds.values())
    print(
        f"{config}: a step takes {1e3 * with_it:.1f} ms of a processor with it and "
        f"{1e3 * without:.1f} ms without: {with_it / without - 1:+.2%}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What the loss on the validation set costs a validation, in processor time.

    python tests/training/measure_val_loss.py CONFIG DATA_ROOT CHECKPOINT [KEY=VALUE ...]

In turns, with it and without; the least of each counts, as other programs take time, too.
"""

import sys
import tempfile
import time

from mmengine.config import DictAction

from mmconvnext.engine import config as configs
from mmconvnext.engine.runner import build_runner

TURNS = 3


def main(config: str, root: str, checkpoint: str, *options: str) -> None:
    """Validate in turns and print a line."""
    seconds = {True: [], False: []}
    runners = {}
    for too in seconds:
        cfg = configs.load_config(config)
        configs.set_data_root(cfg, root)
        values = (each.split("=", 1) for each in options)
        cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in values})
        cfg.merge_from_dict({"val_loss": too, "load_from": checkpoint, "launcher": "none"})
        loader = {"num_workers": 0, "persistent_workers": False}
        cfg.merge_from_dict({"val_dataloader": loader, "train_dataloader": loader})
        cfg.default_hooks.checkpoint = None  # nothing is trained that could be saved
        cfg.work_dir = cfg.experiment_name = tempfile.mkdtemp()
        runners[too] = build_runner(cfg, ("train", "val"))
    for _ in range(TURNS):
        for too, runner in runners.items():
            start = time.process_time()
            runner.val()
            seconds[too].append(time.process_time() - start)
    with_loss, without = min(seconds[True]), min(seconds[False])
    pictures = len(runners[True].val_dataloader.dataset)
    print(
        f"{config}: {pictures} pictures take {with_loss:.1f} s of a processor with the loss and "
        f"{without:.1f} s without: {with_loss / without - 1:+.0%}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

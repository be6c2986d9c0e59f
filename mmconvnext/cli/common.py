"""What the commands share: arguments, and reading the config; imports nothing large."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmconvnext.compat.config_names import PREFIX, config_path
from mmconvnext.errors import ConfigError, UserError

if TYPE_CHECKING:
    from mmengine.config import Config


class OptionsAction(argparse.Action):
    """MMEngine's ``KEY=VALUE`` pairs; a pair that cannot be read is named, without a traceback."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, *rest: Any):
        """Read the pairs."""
        from mmengine.config import DictAction

        name = self.option_strings[0]
        for value in values:
            if "=" not in value.lstrip("="):
                parser.error(
                    f"{name}: {value!r} is no KEY=VALUE (without spaces around the =; what is no "
                    "option goes before it)"
                )
        try:
            DictAction(self.option_strings, self.dest)(parser, namespace, values, *rest)
        except (AssertionError, ValueError) as error:
            parser.error(f"{name}: cannot read {' '.join(values)}: {error}")


def existing_folder(path: str) -> str:
    """A folder of the command line; UserError where it is not there."""
    if "://" not in path and not Path(path).is_dir():
        raise UserError(f"the data folder {path} does not exist: there is no such folder")
    return path


def existing_checkpoint(path: str) -> str:
    """A checkpoint of the command line, or ``auto``; UserError where it is not there."""
    if "://" not in path and path != "auto" and not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}")
    return path


def existing_config(name: str) -> str:
    """A config of the command line, by path or name; UserError for a wrong one of this package."""
    others = "::" in name and not name.startswith(PREFIX)
    if not Path(name).exists() and not others and not name.endswith(".json"):
        try:
            config_path(name)
        except ConfigError as error:
            raise UserError(f"there is no config file {name}, and {error}") from None
    return name


def add_config(parser: argparse.ArgumentParser, example: str, other: str = "") -> None:
    """Add the config and ``--cfg-options``, with an example for its help, or what else it takes."""
    text = f"config file, or the name of one that the package brings{other}"
    parser.add_argument("config", type=existing_config, help=text)
    options = {"nargs": "+", "action": OptionsAction, "metavar": "KEY=VALUE"}
    overrides = f"override settings, for example {example}"
    parser.add_argument("--cfg-options", **options, help=overrides)
    allow = "let --cfg-options name what no registry holds: it is imported and called"
    parser.add_argument("--allow-imports", action="store_true", help=allow)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and evaluation share."""
    add_config(parser, 'train_dataloader.batch_size=4 or a="[1,2]"')
    add_data_arguments(parser)
    add = parser.add_argument
    add("--work-dir", help="where logs and results go; default: work_dirs/<name of the config>")
    launched = "what started the processes of a distributed run (torchrun: pytorch)"
    add("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help=launched)
    # torch.distributed.launch passes --local-rank; torchrun sets the environment variable.
    add("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def add_data_arguments(parser: argparse.ArgumentParser, own: bool = True) -> None:
    """Add where the data is, maybe in a layout of its own, and how it is checked."""
    where = parser.add_mutually_exclusive_group().add_argument
    root = "folder of the data set, in place of the config's data_root"
    where("--data-root", type=existing_folder, help=root)
    if own:
        text = "folder of pictures and annotations in any known layout; classes are taken from it"
        where("--dataset", type=existing_folder, metavar="DIR", help=text)
    parser.add_argument(
        "--data-checks",
        choices=["strict", "repair", "off"],
        help="faults of annotation files: refuse them, repair them in a copy, or do not look",
    )


def set_data(cfg: Config, args: argparse.Namespace) -> None:
    """Apply what :func:`add_data_arguments` added."""
    from mmconvnext.engine.config import set_data_root

    if args.data_root:
        set_data_root(cfg, args.data_root)
    if args.data_checks:
        cfg.data_checks = {**(cfg.get("data_checks") or {}), "mode": args.data_checks}


def read_config(args: argparse.Namespace) -> Config:
    """Read the config with its ``--cfg-options``; unexpected ones are named on stderr."""
    from mmconvnext.engine.config import load_config, merge_options

    cfg = load_config(args.config)
    for note in merge_options(cfg, args.cfg_options, args.allow_imports):
        print(note, file=sys.stderr)
    return cfg


def read_run_config(args: argparse.Namespace) -> tuple[Config, list[str]]:
    """Read the config with what :func:`add_run_arguments` adds, and lines for the log to come."""
    from mmconvnext.data.paths import write_whole
    from mmconvnext.engine import config as configs
    from mmconvnext.engine.backbone_swap import use_backbone
    from mmconvnext.training.checkpoints import check_writable

    # Where MMEngine looks for the rank that torch.distributed.launch passes as an argument.
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = configs.load_config(args.config)
    text = (
        use_backbone(cfg, args.config, args.backbone) if getattr(args, "backbone", None) else None
    )
    notes = configs.merge_options(cfg, args.cfg_options, args.allow_imports)
    cfg.launcher = args.launcher
    configs.set_work_dir(cfg, args.work_dir)
    check_writable(Path(cfg.work_dir))
    if text:
        path = Path(cfg.work_dir) / f"{Path(cfg.filename).stem}_{args.backbone}.py"
        write_whole(path, text)
        notes.append(f"written to {path}: a config for the same without --backbone\n{text}")
    set_data(cfg, args)
    return cfg, notes


def use_dataset(
    cfg: Config, args: argparse.Namespace, suffix: str, labels: Sequence[str] | None = None
) -> list[str]:
    """Point the config at ``--dataset``; write what was chosen into the work folder.

    Args:
        cfg: complete, changed.
        args: those of :func:`add_run_arguments`.
        suffix: of the name of the config that is written.
        labels: classes of the detector that is tested; None for a training.

    Returns:
        Lines for the log to come.
    """
    from mmconvnext.engine import own_data

    work_dir, root = Path(cfg.work_dir), Path(args.dataset)
    # so deep that it is not taken for a part of the data, where the work folder lies in its folder
    folder = work_dir / "dataset" / "annotations"
    chosen = own_data.use_dataset(cfg, root, folder, labels, suffix == "train")
    path = work_dir / f"{Path(cfg.filename).stem}_{suffix}_on_dataset.py"
    own_data.write_config(cfg, args.config, path)
    written = f"written to {path}: a config for the same without --dataset"
    return [*chosen.notes, f"what is in it:\n{chosen.table}", written]


def write_json(content: dict, path: str) -> None:
    """Write what was asked for with ``--json``, and say so; missing folders are made."""
    import mmengine

    try:
        mmengine.dump(content, path, file_format="json", indent=2)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    print(f"written to {path}")

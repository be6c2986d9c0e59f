"""Reading a config and changing it as a command line asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.model import PretrainedInit

from mmconvnext.errors import ConfigError


def load_config(path: str, cfg_options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file.

    Args:
        path: a config of MMEngine.
        cfg_options: settings by dotted names, merged into it.

    Raises:
        ConfigError: there is no such file, it does not parse, or an option does not fit it.
    """
    if not Path(path).is_file():
        raise ConfigError(f"there is no config file {path}")
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is Python code: anything can go wrong in it
        raise ConfigError(f"{path} does not parse: {type(error).__name__}: {error}") from error
    if cfg_options:
        try:
            cfg.merge_from_dict(dict(cfg_options))
        except Exception as error:
            raise ConfigError(f"--cfg-options does not fit {path}: {error}") from error
    return cfg


def set_work_dir(cfg: Config, work_dir: str | None) -> None:
    """Choose where results go: the command line, else the config, else the config's name."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / Path(cfg.filename).stem)


def set_data_root(cfg: Config, data_root: str) -> None:
    """Let every path under the config's ``data_root`` point into another folder.

    Args:
        cfg: changed in place.
        data_root: the folder of the data set.

    Raises:
        ConfigError: the config has no ``data_root``.
    """
    old = cfg.get("data_root")
    if not old:
        raise ConfigError(
            "--data-root replaces the config's data_root, and this config has none at its top "
            "level; set the paths of its data sets by --cfg-options"
        )
    new = str(Path(data_root)) + "/"

    def replace(value: Any) -> Any:
        if not isinstance(value, str) or not (value + "/").startswith(old.rstrip("/") + "/"):
            return value
        return new + value[len(old.rstrip("/")) :].lstrip("/")

    for key in list(cfg):
        cfg[key] = _map_values(cfg[key], replace)


def drop_pretrained(cfg: Config) -> list[str]:
    """Remove every pretrained checkpoint from the model.

    Args:
        cfg: changed in place; ``load_from`` is dropped, too.

    Returns:
        The checkpoints that were dropped.
    """
    dropped = [cfg.load_from] if cfg.get("load_from") else []
    cfg.load_from = None

    def drop(value: Any) -> Any:
        init_cfg = value.get("init_cfg") if isinstance(value, Mapping) else None
        entries = init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]
        pretrained = [entry for entry in entries if _is_pretrained(entry)]
        if not pretrained:
            return value
        dropped.extend(str(entry.get("checkpoint")) for entry in pretrained)
        kept = [entry for entry in entries if not _is_pretrained(entry)]
        return ConfigDict({**value, "init_cfg": kept or None})

    cfg.model = _map_values(cfg.get("model"), drop)
    return dropped


def use_amp(cfg: Config) -> None:
    """Train in mixed precision (``--amp``).

    Raises:
        ConfigError: the config has no ``optim_wrapper``.
    """
    if not cfg.get("optim_wrapper"):
        raise ConfigError("--amp needs an optim_wrapper in the config")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def use_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the total batch size (``--auto-scale-lr``).

    Raises:
        ConfigError: the config does not say which batch size its learning rate is for.
    """
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise ConfigError(
            "--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config: the "
            "total batch size that its learning rate is meant for"
        )
    cfg.auto_scale_lr.enable = True


def use_tta(cfg: Config) -> None:
    """Test with test-time augmentation (``--tta``): ``tta_model`` and ``tta_pipeline``.

    Raises:
        ConfigError: the config has no ``tta_model``, ``tta_pipeline`` or ``test_dataloader``.
    """
    needed = ("tta_model", "tta_pipeline", "test_dataloader")
    missing = [key for key in needed if cfg.get(key) is None]
    if missing:
        raise ConfigError(
            f"--tta needs {' and '.join(missing)} in the config; "
            "configs/_base_/datasets/coco_instance.py has them"
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    innermost_dataset(cfg.test_dataloader.dataset).pipeline = deepcopy(cfg.tta_pipeline)


def innermost_dataset(dataset: ConfigDict) -> ConfigDict:
    """The data set inside of wrappers such as ``RepeatDataset``."""
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    return dataset


def metrics_of(evaluator: Mapping[str, Any] | Sequence | None) -> list[ConfigDict]:
    """The metrics of an evaluator, which MMEngine takes as one dict or a list of them."""
    if evaluator is None:
        return []
    return [evaluator] if isinstance(evaluator, Mapping) else list(evaluator)


def replace_types(cfg: Config, old: Sequence[str], new: str) -> int:
    """Replace registered types throughout the model, and count how many."""
    count = 0

    def replace(value: Any) -> Any:
        nonlocal count
        if isinstance(value, Mapping) and value.get("type") in old:
            count += 1
            return ConfigDict({**value, "type": new})
        return value

    cfg.model = _map_values(cfg.model, replace)
    return count


def _is_pretrained(init_cfg: Any) -> bool:
    return isinstance(init_cfg, Mapping) and init_cfg.get("type") in ("Pretrained", PretrainedInit)


def _map_values(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to every value of nested dicts and lists, the outer ones first."""
    value = function(value)
    if isinstance(value, Mapping):
        return ConfigDict({k: _map_values(v, function) for k, v in value.items()})
    if isinstance(value, list | tuple):
        return type(value)(_map_values(v, function) for v in value)
    return value

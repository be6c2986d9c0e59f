"""Reading a config and changing it, in place, as a command line asks.

A change of settings that a config does not have, or to a value that cannot be, raises ConfigError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.hooks import EarlyStoppingHook, EMAHook
from mmengine.model import PretrainedInit

from mmconvnext.compat.config_names import PREFIX, config_path
from mmconvnext.compat.option_names import GIVEN, check_names
from mmconvnext.data.paths import leaf_datasets, metrics_of
from mmconvnext.engine.classes import apply_shortcuts
from mmconvnext.errors import ConfigError
from mmconvnext.evaluation.coco_metric import is_coco_metric
from mmconvnext.evaluation.pictures import ComparisonVisualizer

PRETRAINED = ("Pretrained", PretrainedInit)


def load_config(name: str) -> Config:
    """Read a config file by its path or, where there is no such file, by its name.

    Names are those of the configs that come with this package (``cascade_convnext_t_coco.py``, with
    or without ``mmconvnext::``) or another (``mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py``).
    A config's own ``classes`` and ``ann_files`` are put wherever they belong.
    """
    if Path(name).is_dir():
        raise ConfigError(
            f"{name} is a folder, not a config; one of pictures is given to a config: CONFIG "
            f"--dataset {name}"
        )
    try:
        if Path(name).is_file():
            path = name
        elif "::" in name and not name.startswith(PREFIX):
            path = Config._get_cfg_path(name, "")[0]  # what MMEngine does with a `_base_`
        else:
            path = config_path(name)
    except Exception as error:  # MMEngine asserts, and reads the other package's own files
        reason = error.args[0] if error.args else error
        raise ConfigError(f"there is no config file {name}, and {reason}") from None
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is Python code: anything can go wrong in it
        raise ConfigError(f"{path} does not parse: {type(error).__name__}: {error}") from error
    apply_shortcuts(cfg)
    return cfg


def merge_options(
    cfg: Config, options: Mapping[str, Any] | None, allow_imports: bool = False
) -> list[str]:
    """Merge ``--cfg-options``, settings by dotted names; return a log line for each new one.

    What they name must be in a registry when it is built, unless ``allow_imports``.
    """
    if allow_imports:
        cfg.allow_imports = True
        GIVEN.clear()
    else:
        for key, value in (options or {}).items():
            check_names(key, value)
    notes = [note for key in options or () if (note := _explain_new(cfg, key))]
    try:
        cfg.merge_from_dict(dict(options or {}))
    except Exception as error:
        raise ConfigError(f"--cfg-options does not fit {cfg.filename}: {error}") from error
    if any(key.partition(".")[0] in ("classes", "ann_files") for key in options or ()):
        apply_shortcuts(cfg)
    return notes


def _explain_new(cfg: Config, key: str) -> str | None:
    """Say that a config lacks a dotted key, and which one may be meant; None if it has it."""
    node, parts = cfg.to_dict(), key.split(".")
    for i, part in enumerate(parts):
        if isinstance(node, list | tuple):
            node = {str(index): value for index, value in enumerate(node)}
        if not isinstance(node, Mapping):
            return None  # merging refuses it
        if part not in node:
            similar = get_close_matches(part, node, n=1)
            hint = f" (did you mean {'.'.join([*parts[:i], *similar, *parts[i + 1 :]])}?)"
            return f"--cfg-options: {key} is new, the config had no such key{hint * len(similar)}"
        node = node[part]
    return None


def set_work_dir(cfg: Config, work_dir: str | None) -> None:
    """Choose where results go: the command line, else the config, else the config's name."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / Path(cfg.filename).stem)


def set_data_root(cfg: Config, data_root: str) -> None:
    """Let every path under the config's ``data_root`` point into another folder."""
    if not cfg.get("data_root"):
        raise ConfigError(
            "--data-root replaces the config's data_root, and this config has none at its top "
            "level; set the paths of its data sets by --cfg-options"
        )
    old, new = cfg.data_root.rstrip("/"), str(Path(data_root))

    def replace(value: Any) -> Any:
        if not isinstance(value, str) or not f"{value}/".startswith(f"{old}/"):
            return value
        return f"{new}/{value[len(old) :].lstrip('/')}"

    for key in list(cfg):
        cfg[key] = map_values(cfg[key], replace)


def drop_pretrained(cfg: Config, load_from: bool = True) -> list[str]:
    """Remove every checkpoint that the run would start from, or those of the model's parts alone.

    Returns:
        The checkpoints that were dropped; of alternatives the first, and how many others.
    """
    dropped = [cfg.load_from] if load_from and cfg.get("load_from") else []
    if load_from:
        cfg.load_from = None

    def drop(value: Any) -> Any:
        init_cfg = value.get("init_cfg") if isinstance(value, Mapping) else None
        entries = init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]
        kept = []
        for entry in entries:
            if not isinstance(entry, Mapping) or entry.get("type") not in PRETRAINED:
                kept.append(entry)
                continue
            checkpoint, more = entry.get("checkpoint"), 0
            if isinstance(checkpoint, list | tuple) and checkpoint:
                checkpoint, more = checkpoint[0], len(checkpoint) - 1
            others = f" and {more} alternative{'s' * (more > 1)}" * bool(more)
            dropped.append(f"{checkpoint}{others}")
        changed = len(kept) < len(entries)
        return ConfigDict({**value, "init_cfg": kept or None}) if changed else value

    cfg.model = map_values(cfg.get("model"), drop)
    return dropped


def use_amp(cfg: Config) -> None:
    """Train in mixed precision (``--amp``)."""
    if not cfg.get("optim_wrapper"):
        raise ConfigError("--amp needs an optim_wrapper in the config")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def use_early_stopping(cfg: Config, patience: int | bool) -> None:
    """End after ``patience`` validations (True: 5, or the config's) without a better checkpoint."""
    saved = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    monitor = saved.get("save_best")
    if not isinstance(monitor, str) or monitor == "auto":
        raise ConfigError(
            f"--early-stopping goes by default_hooks.checkpoint.save_best, which is {monitor!r} in "
            f"{cfg.filename}: name a metric there, as coco/segm_mAP or coco/bbox_mAP"
        )
    if patience < 1:
        raise ConfigError(f"--early-stopping {patience}: it takes one validation or more")
    defaults = {"monitor": monitor, "rule": saved.get("rule"), "min_delta": 0.001, "patience": 5}
    _use_hook(cfg, EarlyStoppingHook, defaults, {"patience": patience})


def use_ema(cfg: Config, momentum: float | bool) -> None:
    """Validate and save an average of the weights; True: momentum 0.0002, or the config's."""
    if momentum is not True and not 0 < momentum < 1:
        raise ConfigError(f"--ema {momentum}: it takes the share of the new weights, as 0.0002")
    defaults = {"ema_type": "ExpMomentumEMA", "momentum": 0.0002, "update_buffers": True}
    _use_hook(cfg, EMAHook, defaults, {"momentum": momentum})


def _use_hook(cfg: Config, kind: type, defaults: Mapping, given: Mapping[str, Any]) -> None:
    """Add a hook, or change the config's own one of this kind; True as a value says nothing."""
    given = {name: value for name, value in given.items() if value is not True}
    own = list(cfg.get("custom_hooks") or ())
    for hook in (*own, *(cfg.get("default_hooks") or {}).values()):
        if hook and hook.get("type") in (kind, kind.__name__):
            return hook.update(given)
    cfg.custom_hooks = [*own, {"type": kind.__name__, **defaults, **given}]


def use_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the total batch size (``--auto-scale-lr``)."""
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise ConfigError(
            "--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config: the "
            "total batch size that its learning rate is meant for"
        )
    cfg.auto_scale_lr.enable = True


def explain_batch_size(cfg: Config, world_size: int) -> list[str]:
    """Say, in a line or none, that the learning rate is meant for another batch size than this."""
    scaling = cfg.get("auto_scale_lr") or {}
    base, size = scaling.get("base_batch_size"), cfg.train_dataloader.get("batch_size")
    accumulated = (cfg.get("optim_wrapper") or {}).get("accumulative_counts", 1)
    if not base or not size:
        return []
    batch = size * world_size * accumulated
    times = f", accumulated {accumulated} times" if accumulated > 1 else ""
    total = f"{batch} images a step ({world_size} x {size}{times})"
    if scaling.get("enable"):
        note = f"the learning rate is multiplied by {batch / base:g}: {total}, meant for {base}"
        return [note] * (accumulated > 1)
    note = f"the learning rate is meant for {base} images a step and is kept, with {total}; "
    return [f"{note}--auto-scale-lr multiplies it by {batch / base:g}"] * (batch != base)


def use_tta(cfg: Config) -> None:
    """Test with test-time augmentation (``--tta``): ``tta_model`` and ``tta_pipeline``."""
    needed = ("tta_model", "tta_pipeline", "test_dataloader")
    missing = [key for key in needed if cfg.get(key) is None]
    if missing:
        raise ConfigError(
            f"--tta needs {' and '.join(missing)} in the config; "
            "configs/_base_/datasets/coco_instance.py has them"
        )
    if "module" in cfg.model:  # the config that such a test has left beside its log
        return
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        dataset["pipeline"] = deepcopy(cfg.tta_pipeline)


def ask_for_classwise(cfg: Config) -> None:
    """Let COCO metrics of the test report each class's AP (``--classwise``), boxes' and masks'."""
    metrics = list(filter(is_coco_metric, metrics_of(cfg.get("test_evaluator"))))
    if not metrics:
        raise ConfigError("--classwise needs CocoMetric or FastCocoMetric in test_evaluator")
    for metric in metrics:
        if "Fast" not in str(metric["type"]):
            metric["backend"] = "pycocotools"  # as was asked for
        # CocoMetric's keys are the same for boxes and masks.
        metric.update(type="FastCocoMetric", classwise="kinds")


def dump_predictions(cfg: Config, path: str) -> None:
    """Let the test write its predictions (``--out``), in MMDetection's format (masks as RLE)."""
    if not path.endswith((".pkl", ".pickle")):
        raise ConfigError(f"--out {path}: the file must end in .pkl or .pickle")
    dump = {"type": "DumpDetResults", "out_file_path": path}
    metrics = [*metrics_of(cfg.get("test_evaluator")), dump]
    if "metrics" in (cfg.get("test_evaluator") or {}):
        cfg.test_evaluator.update(type="MultiDatasetsAndAllEvaluator", metrics=metrics)
    else:
        cfg.test_evaluator = metrics


def draw_to(cfg: Config, folder: str) -> None:
    """Let the test draw each image's ground truth beside its predictions (``--show-dir``)."""
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise ConfigError(
            "--show-dir needs default_hooks=dict(visualization=dict(type='DetVisualizationHook'))"
        )
    if cfg.get("visualizer", {}).get("type") == "DetLocalVisualizer":
        cfg.visualizer.type = ComparisonVisualizer.__name__
    # Relative paths would be taken from inside of the work folder.
    hook.update(draw=True, test_out_dir=str(Path(folder).absolute()))


def replace_types(cfg: Config, old: Sequence[str], new: str) -> int:
    """Replace registered types throughout the model, and count how many."""
    count = 0

    def replace(value: Any) -> Any:
        nonlocal count
        if not isinstance(value, Mapping) or value.get("type") not in old:
            return value
        count += 1
        return ConfigDict({**value, "type": new})

    cfg.model = map_values(cfg.model, replace)
    return count


def map_values(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to every value of nested dicts and lists, the outer ones first."""
    value = function(value)
    if isinstance(value, Mapping):
        return ConfigDict({k: map_values(v, function) for k, v in value.items()})
    if isinstance(value, list | tuple):
        return type(value)(map_values(v, function) for v in value)
    return value

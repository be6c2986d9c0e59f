"""Building and starting MMEngine's runner, with errors that users can act on."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial, partialmethod
from pathlib import Path
from traceback import walk_tb
from typing import Any

import mmengine
from mmdet.models.detectors import BaseDetector
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dist import is_main_process, master_only
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIMIZERS, RUNNERS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from torch.utils.data import DataLoader

from mmconvnext.data.paths import check_data_paths, check_dataset, leaf_datasets
from mmconvnext.data.prepare import is_local_coco, prepare_data, training_classes
from mmconvnext.deploy.exported import tested_classes
from mmconvnext.engine.advice import explain_misfits, explain_num_classes
from mmconvnext.engine.classes import class_tensors
from mmconvnext.engine.config import drop_pretrained, explain_batch_size
from mmconvnext.engine.device import (
    adapt_to_device,
    check_launcher,
    convolutions_to_channels_last,
    init_distributed_on_cpu,
    lost_processes,
)
from mmconvnext.engine.distillation import find_teacher, teach
from mmconvnext.engine.provenance import write_run_info
from mmconvnext.engine.resume import FreshSchedule, log_differences, origin, schedule_of_config
from mmconvnext.engine.screen import ScreenHook, filter_screen, quiet, summary
from mmconvnext.errors import ConfigError, UnreadableCheckpointError, UserError
from mmconvnext.evaluation.coco_metric import with_missing_ap
from mmconvnext.training import loading
from mmconvnext.training.checkpoints import checkpoints_of, disk_fault, find_fault, newest_whole
from mmconvnext.training.exact import ExactResumeHook, exact_loop
from mmconvnext.training.finite import FiniteStepHook
from mmconvnext.training.global_losses import use_global_losses
from mmconvnext.training.gradients import ExplodingGradientHook
from mmconvnext.training.sharding import ShardingRunner, check_sharding
from mmconvnext.training.signals import Stopped, shield_worker
from mmconvnext.training.val_loss import ValidationLossHook
from mmconvnext.weights.detector import classes_of, load_matched, match_detector, unwrapped
from mmconvnext.weights.sources import fetch_first


@RUNNERS.register_module()
class DetectionRunner(ShardingRunner):
    """MMEngine's runner, which explains settings, data and checkpoints that it cannot use.

    What cannot be built raises ConfigError, which names the setting, or DataError, which names the
    annotation file.
    """

    _loads_for = "train"  # or "test", or "resume": what load_checkpoint insists on

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger; the screen shows what :mod:`mmconvnext.engine.screen` lets pass."""
        logger = super().build_logger(*args, **kwargs)
        filter_screen(logger)
        return logger

    @master_only
    def dump_config(self) -> None:
        """Write the config beside the log: in the work folder lies that of the last training."""
        self.cfg.dump(Path(self.log_dir, Path(self.cfg.filename or f"{self.timestamp}.py").name))

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build the model, with the layout of weights that the device is fastest with."""
        model = super().build_model(model)
        if self.cfg.get("global_losses"):
            use_global_losses(model)
        convolutions_to_channels_last(model)
        return model

    def train(self) -> nn.Module:
        """Train, to the end or as long as a :class:`StopHook` lets it.

        Raises:
            SystemExit: a signal stopped it, and a checkpoint is saved.
        """
        super().dump_config()
        try:
            with lost_processes():
                return super().train()
        except Stopped as end:
            self.call_hook("after_train")
            self.logger.info(end)
            if end.code:
                sys.exit(end.code)
            return self.model
        except loading.LoadingError as error:
            raise loading.stopped(error, self) from error
        except OSError as error:
            raise (disk_fault(error, Path(self.work_dir)) or error) from None

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call the hooks; a validation that found nothing has an AP of 0 for them."""
        if fn_name == "after_val_epoch":
            kwargs["metrics"] = with_missing_ap(kwargs["metrics"], self.cfg.get("val_evaluator"))
        super().call_hook(fn_name, **kwargs)

    def _load_for(self, purpose: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of MMEngine's that loads a checkpoint."""
        self._loads_for = purpose
        try:
            with lost_processes():
                return getattr(super(), method)(*args, **kwargs)
        finally:
            self._loads_for = "train"

    val = partialmethod(_load_for, "test", "val")
    test = partialmethod(_load_for, "test", "test")

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume from a checkpoint; UserError for one without the state of this training.

        With ``resume_schedule='config'`` the learning rate goes on as if the config's schedule had
        been there from the start.
        """
        fresh = None
        if schedule_of_config(self.cfg):
            fresh = FreshSchedule(self.optim_wrapper, self.param_schedulers or [])
            kwargs["resume_param_scheduler"] = False
        try:
            self._load_for("resume", "resume", filename, *args, **kwargs)
        except UserError:
            raise
        except (KeyError, ValueError) as error:
            raise UserError(
                f"cannot resume {filename}: it is no state of this training "
                f"({type(error).__name__}: {error}). To start a new one from its weights: "
                f"--cfg-options load_from={filename}, without --resume"
            ) from error
        if fresh:
            fresh.replay(self.optim_wrapper.param_groups, self.epoch, self.iter)

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = "cpu",
        strict: bool = False,
        revise_keys: Sequence[tuple[str, str]] = (),
    ) -> dict:
        """Load weights of any known layout, strictly, and log a line on the backbone.

        MMEngine warns and goes on: another detector's file would be evaluated as random weights.
        In a test and when resuming every tensor must arrive; ``load_from`` allows what the
        config's ``load_adapt`` names, see :func:`mmconvnext.weights.detector.match_detector`.
        ``strict`` makes tensors that the model lacks an error, too.
        """
        checkpoint = CheckpointLoader.load_checkpoint(filename, map_location, logger="silent")
        if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
            checkpoint = {"state_dict": checkpoint}
        if self._loads_for == "resume":
            if "optimizer" not in checkpoint:
                raise UserError(
                    f"cannot resume {filename}: it has no state of an optimizer, as no best_*.pth "
                    "has; resume from an epoch_*.pth or iter_*.pth, or start a new training from "
                    f"its weights: --cfg-options load_from={filename}, without --resume"
                )
            log_differences(self, checkpoint.get("meta") or {})
        state = checkpoint["state_dict"]
        for pattern, replacement in revise_keys:
            state = {re.sub(pattern, replacement, key): value for key, value in state.items()}
        adapt, must_fill = self.cfg.get("load_adapt") or (), self._loads_for != "train"
        names = (classes_of(checkpoint), training_classes(self.cfg))
        of_classes = lambda: class_tensors(unwrapped(self.model), self.cfg.model)  # noqa: E731
        given = (state, filename, adapt, must_fill, names, of_classes)
        with self.whole_weights():
            matched = match_detector(self.model, *given)
        checkpoint["state_dict"] = matched.state_dict
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        load_matched(self.model, checkpoint["state_dict"], matched.backbones, strict)
        self._has_loaded = True
        self.logger.info("loaded %s", filename)
        return checkpoint

    def _build(self, part: str, setting: str, *args: Any) -> Any:
        """Build what MMEngine builds, with the name of the setting in an error."""
        with config_errors(f"{setting} of {self.cfg.filename}", reads_files="loop" in part):
            built = getattr(super(), f"build_{part}")(*args)
        if "loop" in part:
            share = self.cfg.get("max_replaced_pictures", 0.01) if part == "train_loop" else None
            loading.load_safely(built.dataloader, self.seed, Path(self.log_dir), share)
        return built

    build_param_scheduler = partialmethod(_build, "param_scheduler", "param_scheduler")
    build_test_loop = partialmethod(_build, "test_loop", "test_cfg")

    def _build_loop(self, split: str, loop: Any) -> Any:
        """Build a loop and its data, and compare the model's number of classes with the data's."""
        built = self._build(f"{split}_loop", f"{split}_cfg", loop)
        if fault := explain_num_classes(unwrapped(self.model), built.dataloader.dataset):
            raise ConfigError(fault)
        return built

    def build_train_loop(self, loop: Any) -> Any:
        """Build the loop of the training; one that resumes exactly, but for exact_resume=False."""
        exact = exact_loop(loop) if self.cfg.get("exact_resume", True) else loop
        built = self._build_loop("train", exact)
        if exact is not loop:
            self.register_hook(ExactResumeHook(origin(built.dataloader.dataset)))
        return built

    build_val_loop = partialmethod(_build_loop, "val")

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer."""
        optimizer = optim_wrapper.get("optimizer") if isinstance(optim_wrapper, Mapping) else None
        kind = optimizer.get("type") if isinstance(optimizer, Mapping) else None
        with OPTIMIZERS.switch_scope_and_registry(None) as registry:
            if isinstance(kind, str) and registry.get(kind) is None:  # MMEngine does not name it
                raise ConfigError(
                    f"optim_wrapper of {self.cfg.filename} cannot be built: {kind} is not in the "
                    "optimizer registry, which has torch's by name"
                )
        return self._build("optim_wrapper", "optim_wrapper", optim_wrapper)

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None) -> None:
        """Scale the learning rate by the images of a step, with those of accumulated gradients."""
        accumulated = (self.cfg.get("optim_wrapper") or {}).get("accumulative_counts", 1)
        if auto_scale_lr and auto_scale_lr.get("enable") and accumulated > 1:
            base = auto_scale_lr["base_batch_size"] / accumulated
            auto_scale_lr = {**auto_scale_lr, "base_batch_size": base}
        super().scale_lr(optim_wrapper, auto_scale_lr)

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> DataLoader:
        """Build a data loader and check that it has something to load."""
        try:
            with quiet():
                built = Runner.build_dataloader(dataloader, *args, **kwargs)
        except Exception:
            datasets = leaf_datasets(dataloader["dataset"])
            for dataset in filter(is_local_coco, datasets):
                # an empty one fails in MMEngine, when its list is packed
                with suppress(ValueError, TypeError, KeyError):
                    check_dataset(DATASETS.build({**dataset, "serialize_data": False}))
            name = datasets[0].get("ann_file") or datasets[0].get("type")
            with config_errors(f"the data loader of {name}", reads_files=True):
                raise
        check_dataset(built.dataset)
        loading.watch(built)
        built.worker_init_fn = partial(shield_worker, built.worker_init_fn)
        return built

    def build_evaluator(self, evaluator: Any) -> Any:
        """Build the metrics."""
        with config_errors(f"the evaluator of {self.cfg.filename}"), quiet():
            return super().build_evaluator(evaluator)


def resume_from(cfg: Config, checkpoint: str) -> list[str]:
    """Let a run resume from a file, or by ``auto`` from the newest whole one in the work folder.

    Raises:
        UserError: the file is not there or not whole, or no checkpoint of the folder is whole.
    """
    notes = []
    if checkpoint == "auto":
        latest, notes = newest_whole(Path(cfg.work_dir))
        notes = [f"--resume: {fault}" for fault in notes]
        if latest is None:
            return [f"--resume: no checkpoint in {cfg.work_dir} yet, starting a new run"]
        checkpoint = str(latest)
    elif Path(checkpoint).is_file() and (fault := find_fault(Path(checkpoint))):
        raise UnreadableCheckpointError(f"--resume: {fault}; name another, or none for the last")
    check_checkpoint(checkpoint)
    drop_pretrained(cfg)
    cfg.resume, cfg.load_from = True, checkpoint
    return [*notes, f"resuming {checkpoint}; the pretrained backbone is not loaded again"]


def check_new(cfg: Config) -> None:
    """Refuse to start a run where it would write over the checkpoints of an earlier one."""
    if there := checkpoints_of(Path(cfg.work_dir)):
        raise UserError(
            f"{cfg.work_dir} has checkpoints of an earlier training, the last one "
            f"{there[0].name}: --resume goes on with it, --restart trains anew and writes over "
            "them, --work-dir FOLDER trains elsewhere"
        )


def check_checkpoint(path: str) -> None:
    """Check that a checkpoint to load is there, or raise UserError."""
    if "://" not in path and not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}")


def build_runner(cfg: Config, splits: Sequence[str], notes: Sequence[str] = ()) -> Runner:
    """Check the data, adapt the config, in place, to the device and build the runner.

    Args:
        cfg: complete, with ``work_dir`` and ``launcher``.
        splits: whose data is used, out of ``train``, ``val`` and ``test``.
        notes: lines for the log that came up before there was one.

    Raises:
        UserError: the data, a checkpoint or a setting is wrong.
    """
    check_launcher(cfg.get("launcher", "none"))
    check_sharding(cfg, trains="train" in splits)
    for split in splits:
        if split != "val" and cfg.get(f"{split}_dataloader") is None:
            raise ConfigError(f"{cfg.filename} has no {split}_dataloader: nothing to {split} on")
    teacher = find_teacher(cfg) if "train" in splits else None
    check_data_paths(cfg, tuple(splits))
    data = prepare_data(cfg, splits, tested_classes(cfg) if "test" in splits else None)
    data.raise_refusals()
    notes = [*notes, *data.notes]
    if isinstance(cfg.get("load_from"), Sequence) and not isinstance(cfg.load_from, str):
        cfg.load_from = str(fetch_first(list(cfg.load_from))[1])
    if cfg.get("load_from"):
        check_checkpoint(cfg.load_from)
        if dropped := drop_pretrained(cfg, load_from=False):
            notes.append(f"load_from={cfg.load_from}: not loading {', '.join(dropped)} before it")
    notes += adapt_to_device(cfg)
    init_distributed_on_cpu(cfg.get("launcher", "none"), cfg.get("env_cfg"))
    cfg.setdefault("runner_type", "DetectionRunner")
    with config_errors(cfg.filename):
        runner = RUNNERS.build(cfg)
    runner.register_hook(ScreenHook())
    if teacher:
        with config_errors(f"teacher of {cfg.filename}"):
            notes.append(teach(runner.model, cfg, teacher))
    if "train" in splits:
        runner.register_hook(ExplodingGradientHook())
        if (most := cfg.get("max_skipped_steps", 10)) is not None:
            runner.register_hook(FiniteStepHook(most))
        if cfg.get("val_loss", True) and isinstance(unwrapped(runner.model), BaseDetector):
            runner.register_hook(ValidationLossHook())
        notes += explain_batch_size(cfg, runner.world_size)
        notes += check_fit(runner.model, cfg)
        notes += summary(runner, data.report)
    for note in notes:
        runner.logger.info(note)
    if is_main_process():
        mmengine.dump(data.report, Path(runner.log_dir) / "data_checks.json", indent=2)
        runner.logger.info("versions and hardware: %s", write_run_info(cfg, runner.log_dir))
    return runner


def check_fit(model: nn.Module, cfg: Config) -> list[str]:
    """What of a detector does not go with its backbone, as lines for the log.

    With ``data_checks.mode='strict'``, and where several processes would fail, it is a ConfigError.
    """
    misfits = explain_misfits(unwrapped(model), cfg)
    strict = (cfg.get("data_checks") or {}).get("mode") == "strict"
    fails = cfg.get("launcher", "none") != "none" and not cfg.get("find_unused_parameters")
    refused = [text for kind, text in misfits.items() if strict or (fails and kind == "unused")]
    if refused:
        raise ConfigError(f"{cfg.filename}: {'; '.join(refused)}")
    return list(misfits.values())


@contextmanager
def config_errors(setting: str, reads_files: bool = False) -> Iterator[None]:
    """Raise ConfigError with the name of a setting whose type or arguments cannot be built.

    With ``reads_files``, errors that files may be the cause of stay as they are.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, ImportError) as error:
        if reads_files and not _is_of_settings(error):
            raise
        message = error.args[0] if error.args else error
        raise ConfigError(f"{setting} cannot be built: {message}") from error


def _is_of_settings(error: Exception) -> bool:
    """Whether a registry raised an error, or a constructor was called with wrong arguments.

    Python raises at the call: in the registry, or in a constructor that passes its arguments on.
    """
    *_, (frame, _) = walk_tb(error.__traceback__)
    if frame.f_globals["__name__"].startswith("mmengine.registry."):
        return True
    return isinstance(error, TypeError) and frame.f_code.co_name == "__init__"

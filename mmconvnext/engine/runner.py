"""Building and starting MMEngine's runner, with errors that users can act on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint
from torch.utils.data import DataLoader

from mmconvnext.engine.config import drop_pretrained, metrics_of
from mmconvnext.engine.data_checks import (
    DataError,
    check_data_paths,
    check_dataset,
    explain_annotation_file,
    leaf_datasets,
)
from mmconvnext.engine.device import adapt_to_device, init_distributed_on_cpu
from mmconvnext.engine.provenance import write_run_info
from mmconvnext.errors import ConfigError, UserError


@RUNNERS.register_module()
class DetectionRunner(Runner):
    """MMEngine's runner, which explains data that it cannot use."""

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> DataLoader:
        """Build a data loader and check that it has something to load.

        Raises:
            DataError: the annotation file is not COCO, or has nothing to use.
        """
        try:
            built = Runner.build_dataloader(dataloader, *args, **kwargs)
        except Exception as error:
            for dataset in leaf_datasets(dataloader["dataset"]):
                path = Path(dataset.get("data_root") or "", dataset.get("ann_file") or "")
                _explain(str(path), error)
            raise
        check_dataset(built.dataset)
        return built

    def build_evaluator(self, evaluator: Any) -> Any:
        """Build the metrics.

        Raises:
            DataError: the annotation file of a metric is not COCO.
        """
        try:
            return super().build_evaluator(evaluator)
        except Exception as error:
            for metric in metrics_of(evaluator):
                _explain(metric.get("ann_file") or "", error)
            raise


def _explain(ann_file: str, error: Exception) -> None:
    fault = explain_annotation_file(ann_file) if Path(ann_file).is_file() else None
    if fault:
        raise DataError(f"{ann_file} is not a COCO annotation file: {fault}") from error


def resume_from(cfg: Config, checkpoint: str) -> list[str]:
    """Let a run go on from a checkpoint.

    Args:
        cfg: changed in place.
        checkpoint: a file, or ``auto`` for the last one in the work folder (a new run if there is
            none).

    Returns:
        Lines for the log.

    Raises:
        UserError: there is no such file.
    """
    if checkpoint == "auto":
        latest = find_latest_checkpoint(cfg.work_dir) if Path(cfg.work_dir).is_dir() else None
        if latest is None:
            return [f"--resume: no checkpoint in {cfg.work_dir} yet, starting a new run"]
        checkpoint = latest
    check_checkpoint(checkpoint)
    drop_pretrained(cfg)
    cfg.resume, cfg.load_from = True, checkpoint
    return [f"resuming {checkpoint}; the pretrained backbone is not loaded again"]


def check_checkpoint(path: str) -> None:
    """Check that a checkpoint to load is there.

    Raises:
        UserError: it is not.
    """
    if "://" not in path and not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}")


def build_runner(cfg: Config, splits: Sequence[str], notes: Sequence[str] = ()) -> Runner:
    """Check the data, adapt the config to the device and build the runner.

    Args:
        cfg: complete, with ``work_dir`` and ``launcher``; changed in place.
        splits: whose data is used, out of ``train``, ``val`` and ``test``.
        notes: lines for the log that came up before there was one.

    Raises:
        UserError: the data, a checkpoint or a setting is wrong.
    """
    check_data_paths(cfg, tuple(splits))
    if cfg.get("load_from"):
        check_checkpoint(cfg.load_from)
    notes = [*notes, *adapt_to_device(cfg)]
    init_distributed_on_cpu(cfg.get("launcher", "none"))
    cfg.setdefault("runner_type", "DetectionRunner")
    try:
        runner = RUNNERS.build(cfg)
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, ImportError) as error:
        message = error.args[0] if error.args else error
        raise ConfigError(f"{cfg.filename} cannot be built: {message}") from error
    for note in notes:
        runner.logger.info(note)
    if is_main_process():
        runner.logger.info("versions and hardware: %s", write_run_info(cfg, runner.log_dir))
    return runner

"""What MMEngine and MMDetection raise for a mistake in a config or a file, said for its author."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any

from mmcv.cnn import VGG
from mmdet.datasets import CocoDataset
from mmdet.models.roi_heads.mask_heads import FusedSemanticHead
from mmdet.registry import DATASETS
from mmengine.registry import OPTIMIZERS
from torch import nn

from mmconvnext.data.checks import explain_annotation_file
from mmconvnext.errors import ConfigError, DataError, UserError


@contextmanager
def config_errors(setting: str, reads_files: bool = False) -> Iterator[None]:
    """Name the setting whose type or arguments cannot be built.

    Args:
        setting: what is built.
        reads_files: errors that files may be the cause of stay as they are.

    Raises:
        ConfigError: in place of the errors of registries and constructors.
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


def check_optimizer_type(optim_wrapper: Any) -> None:
    """Check that an optimizer is registered; MMEngine's own message does not name it.

    Raises:
        KeyError: it is not.
    """
    optimizer = optim_wrapper.get("optimizer") if isinstance(optim_wrapper, Mapping) else None
    kind = optimizer.get("type") if isinstance(optimizer, Mapping) else None
    with OPTIMIZERS.switch_scope_and_registry(None) as registry:
        if isinstance(kind, str) and registry.get(kind) is None:
            raise KeyError(f"{kind} is not in the optimizer registry, which has torch's by name")


def explain_num_classes(model: nn.Module, dataset: Any) -> str | None:
    """Say which heads of a detector have another number of classes than the data set.

    What is compared is what MMDetection's ``NumClassCheckHook`` compares; None where it is equal.
    """
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes") or ()
    found = {
        name: module.num_classes
        for name, module in model.named_modules()
        if hasattr(module, "num_classes")
        and not name.endswith("rpn_head")
        and not isinstance(module, VGG | FusedSemanticHead)
    }
    wrong = {name: number for name, number in found.items() if number != len(classes)}
    if not classes or not wrong:
        return None
    heads = ", ".join(f"{name} has num_classes={number}" for name, number in wrong.items())
    options = " ".join(f"model.{name}.num_classes={len(classes)}" for name in wrong)
    return (
        f"{heads}, and {getattr(dataset, 'ann_file', 'the data set')} has {len(classes)} classes: "
        f"--cfg-options {options}, or set metainfo=dict(classes=(...)) of every data set"
    )


def is_coco(dataset: Mapping[str, Any]) -> bool:
    """Whether the settings of a data set are those of MMDetection's ``CocoDataset``."""
    kind = dataset.get("type")
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, CocoDataset)


def check_annotation_file(path: str, cause: Exception) -> None:
    """Look for the cause of an error in a COCO annotation file.

    Raises:
        DataError: the file is there and not COCO.
    """
    fault = explain_annotation_file(path) if Path(path).is_file() else None
    if fault:
        raise DataError(f"{path} is not a COCO annotation file: {fault}") from cause

"""A training step once more whose loss or gradient was not finite."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from mmconvnext.engine.config import load_config
from mmconvnext.engine.runner import build_runner
from mmconvnext.errors import DataError, UserError
from mmconvnext.training.places import seed_all
from mmconvnext.weights.detector import unwrapped

KEYS = {"batches", "checkpoint", "config", "iteration", "seed"}


def read_record(path: Path) -> dict[str, Any]:
    """Read what :class:`mmconvnext.training.finite.FiniteStepHook` wrote, or raise UserError."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(record, dict) or not {*record} >= KEYS:
        raise UserError(f"{path} is no not_finite/iter_N.json of a training")
    return record


def replay(record: Mapping[str, Any], checkpoint: str | None = None) -> Iterator[tuple[str, bool]]:
    """Do the forward and backward passes of a step again, of all ranks one after the other.

    The images are augmented as they were where the training had exact_resume, else anew.

    Args:
        record: of :func:`read_record`.
        checkpoint: other weights than those of the step.

    Yields:
        For each batch a line on its losses and gradients, and whether all of them are finite.

    Raises:
        UserError: the config, the weights or an image is not there any more.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(record["config"])
        cfg.merge_from_dict(
            {
                "work_dir": folder,
                "experiment_name": folder,  # of which MMEngine keeps logs, by the second
                "launcher": "none",
                "resume": False,
                "load_from": checkpoint or record["checkpoint"],
                "randomness": {"seed": record["seed"]},
                "train_dataloader": {"num_workers": 0, "persistent_workers": False},
                "exact_resume": False,  # its batches are chosen here
            }
        )
        runner = _ready(cfg, record)
        dataset = runner.train_dataloader.dataset
        indices = {_key(dataset.get_data_info(n)): n for n in range(len(dataset))}
        for batch in record["batches"]:
            if lost := [image for image in batch["images"] if _key(image) not in indices]:
                raise DataError(f"{lost[0]} is not in the training set of {record['config']}")
            yield _step(runner, batch, record["seed"], indices)


def _key(image: Mapping[str, Any]) -> tuple:
    return image.get("img_id"), str(image.get("img_path"))


def _ready(cfg: Config, record: Mapping[str, Any]) -> Runner:
    """A runner with its weights loaded, as in the middle of a training."""
    runner = build_runner(cfg, ("train",))
    runner.train_dataloader  # noqa: B018 (builds the loop, which classes are compared with)
    runner.load_or_resume()
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    # which TOOD's head and YOLOX's images ask for
    place = {"epoch": record["epoch"] - 1, "iter": record["iteration"] - 1}
    runner.message_hub.update_info_dict(place)
    runner.model.train()
    return runner


def _step(
    runner: Runner, batch: Mapping[str, Any], seed: int, indices: Mapping[tuple, int]
) -> tuple[str, bool]:
    loader, model, samples = runner.train_dataloader, unwrapped(runner.model), []
    for image in batch["images"]:
        seed_all(*image.get("seed", [seed]))
        samples.append(loader.dataset[indices[_key(image)]])
    seed_all(seed, batch["iteration"] - 1, batch["rank"], -1)  # as exact_resume does
    with runner.optim_wrapper.optim_context(model):
        data = model.data_preprocessor(loader.collate_fn(samples), True)
        losses = model(**data, mode="loss")
    loss, values = model.parse_losses(losses)
    model.zero_grad()
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    said = " ".join(f"{name} {value.item():.4g}" for name, value in values.items())
    images = ", ".join(str(image.get("img_path")) for image in batch["images"])
    finite = bool(loss.isfinite()) and not bad
    of = (
        f"not finite: gradients of {len(bad)} of {len(gradients)} parameters ({', '.join(bad[:3])})"
    )
    line = f"iteration {batch['iteration']}, rank {batch['rank']}: {said}; "
    return f"{line}{'all are finite' if finite else of}; images {images}", finite

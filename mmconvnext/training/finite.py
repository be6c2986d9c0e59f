"""Losses and gradients that are not finite: steps that are skipped, and what led to them."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner, save_checkpoint, weights_to_cpu
from torch import Tensor
from torch.nn.utils import get_total_norm

from mmconvnext.data.paths import write_whole
from mmconvnext.errors import UserError
from mmconvnext.training.checkpoints import newest_whole
from mmconvnext.training.gradients import CAUSE
from mmconvnext.training.sharding import whole_state
from mmconvnext.weights.detector import unwrapped

FOLDER = "not_finite"  # in the work folder
LEAST_SCALE = 1.0  # of mixed precision's loss: below it even the gradients themselves overflow
SHOWN = 20  # names of parameters in a file
WINDOW, FEWEST = 100, 30  # losses that a spike is compared with
SPIKE = 10.0  # robust standard deviations
PAUSE = 50  # iterations after a line on a spike


class FiniteStepHook(Hook):
    """Skips a step of the optimizer, on all ranks alike, whose loss or gradient is not finite.

    What led to it is written to ``not_finite/iter_N.json`` in the work folder, which ``mmconvnext
    replay`` reads, and the weights of the first in a row beside it. With accumulated gradients the
    whole step is skipped, with the gradients of all its batches. Float16's loss scaler skips steps
    itself as long as it has a smaller scale to go to; those are not counted.

    Args:
        max_skipped: steps in a row.

    Raises:
        UserError: there were more.
    """

    priority = "HIGHEST"  # before those who log or average the losses

    def __init__(self, max_skipped: int = 10) -> None:
        self.max_skipped = max_skipped
        self._row = 0  # steps that were skipped, one after the other
        self._seen: list[tuple[int, Any, dict[str, Tensor]]] = []  # since the last step
        self._losses: list[Tensor] = []  # of them, as they went into the backward pass
        self._fault: dict[str, Any] | None = None  # of this step
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._quiet_until = 0

    def before_train(self, runner: Runner) -> None:
        """Take the place of the optimizer's step."""
        wrapper = self._wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper):  # several optimizers, each with its own step
            return
        self._step = wrapper.step
        # with the mark of MMEngine's schedulers, which warn where it is missing
        wrapper.step = update_wrapper(partial(self._finite_step), self._step)
        self._backward, wrapper.backward = wrapper.backward, self._watched_backward
        self._names = {id(p): name for name, p in unwrapped(runner.model).named_parameters()}
        # the forward pass has put what is not finite into the running statistics of batch norm
        self._buffers = [b for b in runner.model.buffers() if b.is_floating_point()]
        self._kept = [buffer.clone() for buffer in self._buffers]

    def _watched_backward(self, loss: Tensor, **kwargs: Any) -> None:
        self._losses.append(loss.detach())
        self._backward(loss, **kwargs)

    def _finite_step(self, **kwargs: Any) -> None:
        """Take the optimizer's step if every rank's loss and gradient are finite."""
        losses, self._losses = torch.stack(self._losses), []
        groups = [[*_gradients(group)] for group in self._wrapper.optimizer.param_groups]
        gradients = [gradient for group in groups for _, gradient in group]
        in_loss, in_gradient = _on_any_rank(losses, get_total_norm(gradients))
        names = []
        if in_gradient:  # or its square is too large for a number
            named = (pair for group in groups for pair in group)
            names = [self._names.get(id(p), "?") for p, g in named if not g.isfinite().all()]
            _, in_gradient = _on_any_rank(losses, torch.tensor(math.nan if names else 0.0))
        if not in_loss and (not in_gradient or self._scaler_has_room()):
            self._step(**kwargs)
            self._row = self._row if in_gradient else 0
            if self._buffers:  # the function takes no empty lists
                torch._foreach_copy_(self._kept, self._buffers)
            return
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._kept)
        settings = zip(self._wrapper.optimizer.param_groups, groups, strict=True)
        self._fault = {
            "reason": "loss" if in_loss else "gradient",
            "parameters": names[:SHOWN],
            "groups": [
                {
                    **{key: group[key] for key in ("layer_id", "lr") if key in group},
                    "first": self._names.get(id(group["params"][0]), "?"),
                    "gradient_norm": _number(get_total_norm([g for _, g in pairs])),
                }
                for group, pairs in settings
            ],
        }

    def _scaler_has_room(self) -> bool:
        """Whether float16's loss scaler skips this step itself, and goes to a smaller scale."""
        scaler = getattr(self._wrapper, "loss_scaler", None)
        fixed = getattr(self._wrapper, "_scale_update_param", None) is not None
        return scaler is not None and not fixed and scaler.get_scale() > LEAST_SCALE

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any, outputs: dict[str, Tensor]
    ) -> None:
        """Keep what led to a step that was skipped, or look for a spike."""
        self._seen.append((runner.iter, data_batch, {k: v.detach() for k, v in outputs.items()}))
        fault, self._fault = self._fault, None
        if fault:
            self._skipped(runner, fault)
        loss = outputs["loss"].item()
        if math.isfinite(loss):
            self._look_for_spike(runner, loss, data_batch)
        else:  # one would make the means that are logged NaN
            for name in [name for name, value in outputs.items() if not value.isfinite().all()]:
                del outputs[name]
        if not self._losses:
            self._seen.clear()

    def _skipped(self, runner: Runner, fault: dict[str, Any]) -> None:
        self._row += 1
        path = Path(runner.work_dir, FOLDER, f"iter_{runner.iter + 1}.json")
        batches = [
            {
                "rank": runner.rank,
                "iteration": iteration + 1,
                "losses": {name: _number(value) for name, value in outputs.items()},
                "images": images_of(batch),
            }
            for iteration, batch, outputs in self._seen
        ]
        batches = [batch for each in all_gather_object(batches) for batch in each]
        fault |= {"batches": batches, "in_a_row": self._row, **self._place(runner)}
        state = whole_state(runner) if self._row == 1 else {}  # of all ranks, if it is sharded
        if is_main_process():
            self._write(runner, path, fault, state)
        losses = {k: v for b in batches for k, v in b["losses"].items() if isinstance(v, str)}
        what = (
            f"losses {losses}" if losses else f"gradients of {', '.join(fault['parameters'][:3])}"
        )
        runner.logger.warning(  # as one string: of equal templates MMEngine logs the first alone
            f"iteration {runner.iter + 1}: {what} are not finite; the step is skipped ({self._row} "
            f"in a row of at most {self.max_skipped}). Images, losses and gradients: {path}"
        )
        if self._row > self.max_skipped:
            raise UserError(self._explain(runner, path, fault))

    def _place(self, runner: Runner) -> dict[str, Any]:
        """Where in the training this is, and with what it was started."""
        scaler = getattr(self._wrapper, "loss_scaler", None)
        config = Path(runner.cfg.filename or f"{runner.timestamp}.py").name
        return {
            "iteration": runner.iter + 1,
            "epoch": runner.epoch + 1,
            "seed": runner.seed,
            "world_size": runner.world_size,
            "loss_scale": scaler and scaler.get_scale(),
            "config": str(Path(runner.work_dir, config)),
        }

    def _write(
        self, runner: Runner, path: Path, fault: dict[str, Any], state: dict[str, Tensor]
    ) -> None:
        """Write the JSON and, of the first in a row, the weights; earlier weights are removed."""
        try:
            path.parent.mkdir(exist_ok=True)
            if state:
                for earlier in path.parent.glob("*.pth"):
                    earlier.unlink()
                self._weights = str(path.with_suffix(".pth"))
                save_checkpoint({"state_dict": weights_to_cpu(state), "meta": {}}, self._weights)
            write_whole(path, json.dumps(fault | {"checkpoint": self._weights}, indent=1))
        except OSError as error:
            runner.logger.error("%s cannot be written: %s", path, error.strerror or error)

    def _explain(self, runner: Runner, path: Path, fault: dict[str, Any]) -> str:
        last, _ = newest_whole(Path(runner.work_dir))
        scale, floor = fault["loss_scale"], ""
        if fault["reason"] == "gradient" and scale is not None:
            floor = (
                f" Float16's loss scale is down at {scale:g}: gradients overflow float16 (65,504) "
                "without being scaled, as they may where GRN divides by small means; "
                "optim_wrapper.dtype='bfloat16' has float32's range."
            )
        exploded = any(getattr(hook, "exploded", False) for hook in runner.hooks) * f"{CAUSE}. "
        return (
            f"the {fault['reason']} was not finite in {self._row} steps in a row (max_skipped_steps"
            f"={self.max_skipped}), the last one iteration {runner.iter + 1}: training stops. "
            f"The weights are still finite; the last good checkpoint is {last or 'none'}.{floor} "
            f"{exploded}`mmconvnext replay {path}` does the last of them again; where no image is "
            "to blame, a smaller learning rate, optim_wrapper.clip_grad=dict(max_norm=1.0) and a "
            "longer warm-up help"
        )

    def _look_for_spike(self, runner: Runner, loss: float, data_batch: Any) -> None:
        """Log a loss far above those before it; of the main process, which alone logs."""
        if len(self._window) >= FEWEST and runner.iter >= self._quiet_until:
            median = float(np.median(self._window))
            spread = 1.4826 * float(np.median(np.abs(np.array(self._window) - median)))
            score = (loss - median) / max(spread, 1e-3 * abs(median), 1e-12)
            if score > SPIKE:
                self._quiet_until = runner.iter + PAUSE
                names = [str(each.get("img_id", "?")) for each in images_of(data_batch)]
                runner.logger.warning(
                    f"iteration {runner.iter + 1}: the loss is {loss:.4g}, {score:.0f} robust "
                    f"standard deviations above the median {median:.4g} of the last "
                    f"{len(self._window)}; images {', '.join(names)}"
                )
        self._window.append(loss)


def _gradients(group: Mapping[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """The parameters of a group that have a gradient, and what this rank has of it."""
    for parameter in group["params"]:
        if (gradient := parameter.grad) is not None:
            yield parameter, gradient.to_local() if hasattr(gradient, "to_local") else gradient


def _on_any_rank(losses: Tensor, norm: Tensor) -> tuple[bool, bool]:
    """Whether losses, and a norm of gradients, are not finite on any rank."""
    faults = torch.stack([losses.isfinite().all(), norm.isfinite().to(losses.device)]).logical_not()
    faults = faults.float()  # no backend reduces booleans
    all_reduce(faults, "max")
    in_loss, in_gradient = faults.tolist()
    return bool(in_loss), bool(in_gradient)


def _number(value: Tensor) -> float | str:
    """A number of a tensor; those that JSON lacks as strings."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


def images_of(data_batch: Any) -> list[dict[str, Any]]:
    """What is known of the images of a batch: ids, files, and seeds of their augmentation."""
    samples = data_batch.get("data_samples", ()) if isinstance(data_batch, Mapping) else ()
    metas = (sample.metainfo for sample in samples if hasattr(sample, "metainfo"))
    keys = ("img_id", "img_path", "seed")
    return [{key: meta[key] for key in keys if key in meta} for meta in metas]

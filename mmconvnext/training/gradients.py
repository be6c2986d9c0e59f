"""Gradients that explode in the first steps from scratch, explained."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmconvnext.models.stages import Stages
from mmconvnext.weights.detector import unwrapped

LARGEST = 1e6  # norm of the gradient of the stem's bias
ITERATIONS = 50
CAUSE = (
    "without pretrained weights, the zeros that pad images leave positions that are equal in all "
    "channels, and each LayerNorm (eps 1e-6) multiplies their gradient by up to 1000. What helps: "
    "pretrained weights (backbone.init_cfg); optim_wrapper.clip_grad=dict(max_norm=1.0); or a bias "
    "of the first convolution that is not zero"
)


class ExplodingGradientHook(Hook):
    """Warns once where the gradient of the stem's bias is huge in the first steps, and says why.

    What to do about it is the user's choice: nothing is changed.
    """

    def __init__(self) -> None:
        self.exploded = False
        self._norm, self._handle = 0.0, None

    def before_train(self, runner: Runner) -> None:
        """Watch the first bias of this package's backbones."""
        backbone = getattr(unwrapped(runner.model), "backbone", None)
        if not isinstance(backbone, Stages) or not len(backbone.downsample_layers):
            return
        # of the weight's gradient nothing comes from padding: its input there is zero
        bias = getattr(backbone.downsample_layers[0][0], "bias", None)
        if bias is not None and bias.requires_grad:
            self._handle = bias.register_hook(self._see)

    def _see(self, gradient: Tensor) -> None:
        self._norm = gradient.detach().norm()

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Look at the norm of this iteration."""
        if self._handle is None:
            return
        scaler = getattr(runner.optim_wrapper, "loss_scaler", None)
        norm = float(self._norm) / (scaler.get_scale() if scaler else 1.0)
        if norm > LARGEST:
            self.exploded = True
            runner.logger.warning(
                "the gradient of the backbone's first bias has a norm of %.1e in iteration %d: %s",
                *(norm, runner.iter + 1, CAUSE),
            )
        if norm > LARGEST or runner.iter + 1 >= ITERATIONS:
            self._handle.remove()
            self._handle = None

"""What backbones of stages share: freezing, loading, and where each parameter stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmconvnext.variants import NUM_STAGES, is_number, is_positive_int
from mmconvnext.weights.load import LoadsAnyLayout, load_pretrained, pretrained_cfg

# Layer-wise decay counts this many blocks of the third stage as one layer; see `layer_id`.
BLOCKS_PER_LAYER = 3


class Stages(LoadsAnyLayout, BaseModule):
    """A backbone of ``downsample_layers``, ``stages`` and output norms ``norm{i}``.

    Subclasses fill these; stages after the last of ``out_indices`` are not built. ``depths`` are
    blocks of each stage, the other arguments those of :class:`mmconvnext.ConvNeXt`.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        depths: Sequence[int],
        out_indices: Sequence[int],
        frozen_stages: int,
        with_cp: bool,
        init_cfg: dict | list[dict] | None,
    ):
        super().__init__(init_cfg=init_cfg)
        _check_stages(out_indices, frozen_stages)
        self.depths, self.out_indices = tuple(depths), tuple(out_indices)
        self.frozen_stages, self.with_cp = frozen_stages, with_cp
        # of learning-rate decay; 6 layers for T, 12 for S, B, L and XL
        self.num_layers = 3 + -(-self.depths[2] // BLOCKS_PER_LAYER)
        self.num_stages = NUM_STAGES
        self.downsample_layers, self.stages = nn.ModuleList(), nn.ModuleList()

    def _freeze(self) -> None:
        """To be called when all is built."""
        for module in self._frozen_modules():
            module.eval().requires_grad_(False)

    def _run(
        self, x: Tensor, before_stage: Callable[[int, Tensor], None] | None = None
    ) -> tuple[Tensor, ...]:
        """Compute the feature maps of ``out_indices``; ``before_stage`` sees each stage's input."""
        # In channels_last the depthwise convolutions are several times as fast on the CPU, and
        # LayerNorm and the linear layers work on views.
        x = x.contiguous(memory_format=torch.channels_last)
        outs = []
        for index, stage in enumerate(self.stages):
            x = self.downsample_layers[index](x)
            if before_stage is not None:
                before_stage(index, x)
            x = self._run_stage(stage, x)
            if index in self.out_indices:
                outs.append(self.get_submodule(f"norm{index}")(x))
        return tuple(outs)

    def _run_stage(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        if not (self.with_cp and self.training and torch.is_grad_enabled()):
            return stage(x)
        for block in stage:
            x = checkpoint(block, x, use_reentrant=False)
        return x

    def init_weights(self) -> None:
        """Load the checkpoint that ``init_cfg`` names, or initialise as MMEngine does.

        Raises:
            WeightsError: the checkpoint does not fit; see
                :func:`mmconvnext.weights.load.load_pretrained`.
        """
        pretrained = pretrained_cfg(self.init_cfg)
        if pretrained is None:
            super().init_weights()
        else:
            load_pretrained(self, **pretrained)
            self.is_init = True

    def train(self, mode: bool = True) -> Stages:
        """Set the mode of all but the frozen parts, which stay in eval mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        k = self.frozen_stages
        return [] if k < 0 else [*self.downsample_layers[: max(k, 1)], *self.stages[:k]]

    def layer_id(self, name: str) -> int:
        """Which layer a parameter belongs to in layer-wise learning-rate decay.

        By the rule of the official detection code; ``name`` is within this module, for example
        ``stages.2.4.gamma``. What is outside of the stages, the output norms, is the last.
        """
        kind, stage, block = _place(name)
        last = self.num_layers
        if stage is None:
            return last + 1
        of_stages = {
            "downsample_layers": (0, 2, 3, last),
            "stages": (1, 2, 3 + block // BLOCKS_PER_LAYER, last),
        }
        return of_stages[kind][stage]

    def stage_id(self, name: str) -> int:
        """Which layer a parameter belongs to in stage-wise learning-rate decay.

        The stem and downsampling layers are 0, stage s is s + 1, and all else ``num_stages`` + 1.
        """
        kind, stage, _ = _place(name)
        if stage is None:
            return self.num_stages + 1
        return 0 if kind == "downsample_layers" else stage + 1


def drop_path_rates(depths: Sequence[int], last: float) -> Iterator[float]:
    """The rate of each block, growing linearly from 0 to that of the last one."""
    intervals = sum(depths) - 1
    return (last * block / intervals for block in range(intervals + 1))


def _place(name: str) -> tuple[str, int | None, int]:
    """Split a parameter name into kind, stage (None outside of the stages) and block."""
    kind, *rest = name.split(".")
    is_outside = kind not in ("downsample_layers", "stages")
    return (kind, None, 0) if is_outside else (kind, int(rest[0]), int(rest[1]))


def _check_stages(out_indices: object, frozen_stages: object) -> None:
    stages, freezable = range(NUM_STAGES), range(-1, NUM_STAGES + 1)
    are_ints = isinstance(out_indices, Sequence) and all(type(i) is int for i in out_indices)
    if not are_ints or not out_indices or [*out_indices] != [i for i in stages if i in out_indices]:
        raise ValueError(
            f"{out_indices=} must be an ascending sequence of different stages out of {(*stages,)}"
        )
    if type(frozen_stages) is not int or frozen_stages not in freezable:
        raise ValueError(
            f"{frozen_stages=} must be one of {(*freezable,)}: -1 freezes nothing, 0 the stem, k "
            "the stem and the first k stages"
        )


def check_blocks(in_channels, kernel_size, drop_path_rate, layer_scale_init_value) -> None:
    """Raise a ValueError that names the first argument out of range, its value and the choices."""
    checks = {
        f"{in_channels=}": (is_positive_int(in_channels), "a positive integer (3 for RGB)"),
        f"{kernel_size=}": (
            is_positive_int(kernel_size) and kernel_size % 2,
            "an odd positive integer (7 in the paper): an even one changes the size of the maps",
        ),
        f"{drop_path_rate=}": (
            is_number(drop_path_rate) and 0 <= drop_path_rate < 1,
            "a number in [0, 1)",
        ),
        f"{layer_scale_init_value=}": (
            is_number(layer_scale_init_value) and layer_scale_init_value >= 0,
            "a number above 0 (1.0 in the detection recipes), or 0 for no layer scale",
        ),
    }
    for argument, (is_right, choices) in checks.items():
        if not is_right:
            raise ValueError(f"{argument} must be {choices}")

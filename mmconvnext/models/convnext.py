"""The ConvNeXt backbone: stages, output norms, freezing, and where each parameter stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice

import torch
from mmcv.cnn.bricks import DropPath
from mmdet.registry import MODELS
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmconvnext.models.block import Block, LayerNorm2d
from mmconvnext.models.fused_block import FusedBlock, is_recorded
from mmconvnext.variants import NUM_STAGES, is_number, is_positive_int, resolve_arch
from mmconvnext.weights.load import LoadsAnyLayout, load_pretrained, pretrained_cfg

# Layer-wise decay counts this many blocks of the third stage as one layer; see `layer_id`.
BLOCKS_PER_LAYER = 3


@MODELS.register_module()
class ConvNeXt(LoadsAnyLayout, BaseModule):
    """ConvNeXt V1 and V2 as a detection backbone.

    "A ConvNet for the 2020s" (arXiv 2201.03545) and "ConvNeXt V2" (arXiv 2301.00808). Parameter
    names are those of the official detection code, so that its state dicts load as they are:
    ``downsample_layers``, ``stages`` and one output norm ``norm{i}`` for each of ``out_indices``.
    Stages after the last of ``out_indices`` and norms of other stages are not built: every
    parameter takes part in the forward pass.

    Args:
        arch: a name (atto, femto, pico, nano, tiny, small, base, large, xlarge, huge) or
            ``dict(depths=..., widths=...)`` with four numbers each.
        in_channels: channels of the image.
        kernel_size: of the depthwise convolutions; odd.
        drop_path_rate: stochastic depth; the rate grows linearly from 0 at the first block to
            this at the last one of all four stages. In [0, 1).
        layer_scale_init_value: the initial value of the layer scale; 0 for none (V2 has none).
        use_grn: Global Response Normalisation in each block (V2).
        out_indices: the stages whose features are returned, in ascending order, out of 0, 1, 2, 3.
        frozen_stages: as in MMDetection's ResNet: -1 freezes nothing, 0 the stem, k the stem and
            the first k stages (with the downsampling before them). Frozen parts do not require
            gradients and stay in eval mode. Output norms are new in a detector and never frozen.
        with_cp: recompute each block in the backward pass instead of keeping its activations.
        fused: compute blocks in tiles that stay in the cache, and recompute in the backward pass
            what is larger than their inputs; see :mod:`mmconvnext.models.fused_block`. ``"auto"``
            does so where it was measured to pay: on the CPU, but for small maps. On accelerators
            nothing was measured, so there it computes layer by layer. ``True`` does so wherever it
            is possible, whatever the device and size, ``False`` nowhere. The first forward pass
            logs the outcome; see also :meth:`fusion_status`.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads the backbone strictly, with
            the arguments of :func:`mmconvnext.weights.load.load_pretrained`; ``None`` keeps the
            initialisation of the paper (truncated normal of std 0.02, zero biases).

    Raises:
        ValueError: an argument is out of range; the message names it, its value and the choices.
        TypeError: ``arch`` is neither a name nor a mapping.

    Example:
        >>> backbone = ConvNeXt('tiny', out_indices=(1, 3))
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 8, 12), (1, 768, 2, 3)]
    """

    def __init__(
        self,
        arch: str | Mapping[str, Sequence[int]] = "tiny",
        in_channels: int = 3,
        kernel_size: int = 7,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1.0,
        use_grn: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        with_cp: bool = False,
        fused: bool | str = "auto",
        init_cfg: dict | list[dict] | None = None,
    ):
        super().__init__(init_cfg=init_cfg)
        self.depths, self.widths = resolve_arch(arch)
        _check_blocks(in_channels, kernel_size, drop_path_rate, layer_scale_init_value)
        _check_stages(out_indices, frozen_stages)
        if fused not in ("auto", True, False):
            raise ValueError(f"{fused=} must be 'auto', True or False")
        self.out_indices, self.frozen_stages = tuple(out_indices), frozen_stages
        self.in_channels, self.use_grn, self.with_cp = in_channels, use_grn, with_cp
        # of learning-rate decay; 6 layers for T, 12 for S, B, L and XL
        self.num_layers = 3 + -(-self.depths[2] // BLOCKS_PER_LAYER)
        self.num_stages = NUM_STAGES
        self._fusion_is_logged = False

        build = partial(FusedBlock, fused=fused) if fused else Block
        options = (layer_scale_init_value, use_grn)
        last_block = sum(self.depths) - 1
        rates = (drop_path_rate * block / last_block for block in range(last_block + 1))
        self.downsample_layers, self.stages = nn.ModuleList(), nn.ModuleList()
        for stage in range(self.out_indices[-1] + 1):
            width = self.widths[stage]
            self.downsample_layers.append(_downsampling(in_channels, self.widths, stage))
            stage_rates = islice(rates, self.depths[stage])
            blocks = (build(width, kernel_size, DropPath(rate), *options) for rate in stage_rates)
            self.stages.append(nn.Sequential(*blocks))
        for index in self.out_indices:
            self.add_module(f"norm{index}", LayerNorm2d(self.widths[index]))
        self.apply(_init_parameters)
        for module in self._frozen_modules():
            module.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of ``out_indices``.

        Args:
            x: images (N, in_channels, H, W) in either memory format. Sides that are no multiple of
                32 lose their last rows and columns, as in every strided convolution; MMDetection's
                data preprocessor pads to a multiple of 32.

        Returns:
            A map (N, widths[i], H / 2^(i+2), W / 2^(i+2)), in channels_last, for each stage i.
        """
        if is_recorded(x) or self._fusion_is_logged:
            return self._features(x)
        reasons: dict[str, str | None] = {}
        outs = self._features(x, reasons)
        self._fusion_is_logged = True
        print_log(f"{type(self).__name__}: {_summary(reasons)}", logger="current")
        return outs

    def fusion_status(self, x: Tensor) -> dict[str, str | None]:
        """Why each block is computed layer by layer, by its name; None for those that are fused.

        The answer depends on size, type and device of the images ``x`` as for :meth:`forward`,
        which is run, on autocast, and on whether gradients are wanted.
        """
        reasons: dict[str, str | None] = {}
        self._features(x, reasons)
        return reasons

    def _features(self, x: Tensor, reasons: dict[str, str | None] | None = None) -> tuple:
        # In channels_last the depthwise convolutions are several times as fast on the CPU, and
        # LayerNorm and the linear layers work on views.
        x = x.contiguous(memory_format=torch.channels_last)
        outs = []
        for index, stage in enumerate(self.stages):
            x = self.downsample_layers[index](x)
            if reasons is not None:  # all blocks of a stage have inputs of the same size
                for name, block in stage.named_modules(prefix=f"stages.{index}"):
                    if isinstance(block, Block):
                        reasons[name] = block.why_not_fused(x)
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

    def train(self, mode: bool = True) -> ConvNeXt:
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


def _summary(reasons: Mapping[str, str | None]) -> str:
    counts = Counter(reasons.values())
    layer_by_layer = [f"{n} layer by layer ({why})" for why, n in counts.items() if why]
    return "; ".join([f"{counts[None]} of {len(reasons)} blocks are fused", *layer_by_layer])


def _downsampling(in_channels: int, widths: Sequence[int], stage: int) -> nn.Sequential:
    """The stem (stage 0) or the downsampling layer before another stage."""
    if stage == 0:
        conv = nn.Conv2d(in_channels, widths[0], kernel_size=4, stride=4)
        return nn.Sequential(conv, LayerNorm2d(widths[0]))
    conv = nn.Conv2d(widths[stage - 1], widths[stage], kernel_size=2, stride=2)
    return nn.Sequential(LayerNorm2d(widths[stage - 1]), conv)


def _init_parameters(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _place(name: str) -> tuple[str, int | None, int]:
    """Split a parameter name into kind, stage (None outside of the stages) and block."""
    kind, *rest = name.split(".")
    is_outside = kind not in ("downsample_layers", "stages")
    return (kind, None, 0) if is_outside else (kind, int(rest[0]), int(rest[1]))


def _check_blocks(in_channels, kernel_size, drop_path_rate, layer_scale_init_value) -> None:
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

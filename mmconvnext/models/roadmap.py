"""From ResNet to ConvNeXt, one switch a step ("A ConvNet for the 2020s", section 2, figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from mmcv.cnn.bricks import DropPath
from mmdet.registry import MODELS
from torch import Tensor, nn

from mmconvnext.errors import ConfigError
from mmconvnext.models.block import LayerNorm2d
from mmconvnext.models.stages import Stages, check_blocks, drop_path_rates


@dataclass(frozen=True)
class Design:
    """The switches of the walk; the defaults are ResNet-50's."""

    depths: tuple[int, ...] = (3, 4, 6, 3)  # blocks of each stage
    # Channels in the first stage: of a block's 3x3 convolution, or, where `inverted_bottleneck`
    # is set, of its input and output.
    width: int = 64
    patchify: bool = False  # a stem of 4x4 with stride 4 for 7x7 with stride 2 and max pooling
    depthwise: bool = False  # a group for each channel in a block's spatial convolution
    inverted_bottleneck: bool = False  # four times as many channels within a block as at its ends
    move_up: bool = False  # the spatial convolution comes first in a block
    kernel_size: int = 3  # of the spatial convolution; odd
    gelu: bool = False  # for ReLU
    fewer_activations: bool = False  # one in a block, before its last layer, and none in the stem
    fewer_norms: bool = False  # one in a block, after the spatial convolution
    layer_norm: bool = False  # for BatchNorm
    # LayerNorm and 2x2 with stride 2 between stages, LayerNorm after the last one, layer scale;
    # for a stride in a stage's first block.
    separate_downsampling: bool = False

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels after each stage."""
        first = self.width if self.inverted_bottleneck else 4 * self.width
        return tuple(first * 2**stage for stage in range(4))

    @property
    def norm(self) -> type[nn.Module]:
        """The normalisation layer of feature maps."""
        return LayerNorm2d if self.layer_norm else nn.BatchNorm2d

    @property
    def has_bias(self) -> bool:
        """As ConvNeXt's layers; before, BatchNorm's shift follows each convolution."""
        return self.fewer_norms or self.layer_norm

    @property
    def activation(self) -> nn.Module:
        """A new activation."""
        return nn.GELU() if self.gelu else nn.ReLU()


# What each step changes on the way from ResNet-50 to ConvNeXt-T, at the cost of Swin-T.
WALK: dict[str, dict[str, Any]] = {
    "resnet": {},
    "stage_ratio": {"depths": (3, 3, 9, 3)},
    "patchify": {"patchify": True},
    "depthwise": {"depthwise": True},
    "width": {"width": 96},
    "inverted_bottleneck": {"inverted_bottleneck": True},
    "move_up": {"move_up": True},
    "kernel_7": {"kernel_size": 7},
    "gelu": {"gelu": True},
    "fewer_activations": {"fewer_activations": True},
    "fewer_norms": {"fewer_norms": True},
    "layer_norm": {"layer_norm": True},
    "separate_downsampling": {"separate_downsampling": True},
}
# The same by regime; "base" goes from ResNet-200 to ConvNeXt-B, at the cost of Swin-B.
WALKS = {
    "tiny": WALK,
    "base": WALK
    | {
        "resnet": {"depths": (3, 24, 36, 3)},
        "stage_ratio": {"depths": (3, 3, 27, 3), "width": 84},
        "width": {"width": 128},
    },
}
STEPS = tuple(WALK)


def design_of(step: str, regime: str, **switches: Any) -> Design:
    """The design after a step of the walk, with switches of one's own.

    Raises:
        ConfigError: there is no such step, regime or switch.
    """
    known = [field.name for field in fields(Design)]
    asked = [("regime", regime, WALKS), ("step", step, STEPS)]
    for name, value, choices in (*asked, *(("switches", name, known) for name in switches)):
        if value not in choices:
            raise ConfigError(f"{name}={value!r} must be one of {', '.join(choices)}")
    design = Design()
    for change in islice(WALKS[regime].values(), STEPS.index(step) + 1):
        design = replace(design, **change)
    return replace(design, **switches)


class Pointwise(nn.Linear):
    """A 1x1 convolution, with the weights of a linear layer, which ConvNeXt's blocks have."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (N, C, H, W) to (N, D, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class RoadmapBlock(nn.Module):
    """A block on the way from ResNet's bottleneck to ConvNeXt's, with the names of the latter.

    ``stride`` is that of the spatial convolution and of the shortcut, ``drop_path`` drops whole
    samples of the branch in training, and ``layer_scale`` is where ``gamma`` begins; 0 for none.
    """

    def __init__(
        self,
        design: Design,
        inputs: int,
        outputs: int,
        stride: int,
        drop_path: nn.Module,
        layer_scale: float,
    ):
        super().__init__()
        hidden = outputs * 4 if design.inverted_bottleneck else outputs // 4
        spatial = inputs if design.move_up else hidden
        groups = spatial if design.depthwise else 1
        kernel, norm, bias = design.kernel_size, design.norm, {"bias": design.has_bias}
        fewer = nn.Identity if design.fewer_norms else norm
        self.is_moved_up, self.is_plain = design.move_up, not design.fewer_activations
        self.pwconv1 = Pointwise(inputs, hidden, **bias)
        self.norm1 = fewer(hidden)
        self.dwconv = nn.Conv2d(
            spatial, spatial, kernel, stride, padding=kernel // 2, groups=groups, **bias
        )
        self.norm = norm(spatial)
        self.pwconv2 = Pointwise(hidden, outputs, **bias)
        self.norm2 = fewer(outputs)
        self.activation = design.activation
        has_scale = design.separate_downsampling and layer_scale
        self.gamma = nn.Parameter(torch.full((outputs,), float(layer_scale))) if has_scale else None
        self.drop_path = drop_path
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, **bias)
            self.shortcut = nn.Sequential(conv, norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``x`` (N, C, H, W); strides shrink the result."""
        activation = self.activation if self.is_plain else nn.Identity()
        first = (self.pwconv1, self.norm1), (self.dwconv, self.norm)
        (conv1, norm1), (conv2, norm2) = reversed(first) if self.is_moved_up else first
        y = activation(norm1(conv1(x)))
        y = self.activation(norm2(conv2(y)))
        y = self.norm2(self.pwconv2(y))
        if self.gamma is not None:
            y = y * self.gamma[:, None, None]
        return activation(self.shortcut(x) + self.drop_path(y))


@MODELS.register_module()
class ModernizedResNet(Stages):
    """A step on the way from ResNet to ConvNeXt as a detection backbone.

    The first step is torchvision's ResNet-50, the last one :class:`mmconvnext.ConvNeXt`; weights of
    both load into it. Names of parameters are ConvNeXt's all the way: ``dwconv`` is the spatial
    convolution also where it is not depthwise.

    Args:
        step: the last step taken, see ``STEPS``.
        regime: ``tiny`` (ResNet-50, Swin-T) or ``base`` (ResNet-200, Swin-B).
        switches: fields of :class:`Design` that differ from those of the step.
        norm_eval: keep BatchNorm's statistics, as detectors with pretrained ResNets do.

    The others are those of :class:`mmconvnext.ConvNeXt`; layer scale is that of the last step.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> backbone = ModernizedResNet("patchify", switches=dict(kernel_size=5))
        >>> [x.shape[1] for x in backbone(torch.rand(1, 3, 64, 64))]
        [256, 512, 1024, 2048]
    """

    def __init__(
        self,
        step: str = "separate_downsampling",
        regime: str = "tiny",
        switches: Mapping[str, Any] | None = None,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1.0,
        norm_eval: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ):
        design = design_of(step, regime, **(switches or {}))
        check_blocks(in_channels, design.kernel_size, drop_path_rate, layer_scale_init_value)
        super().__init__(design.depths, out_indices, frozen_stages, with_cp, init_cfg)
        self.design, self.norm_eval = design, norm_eval
        self.out_channels = design.out_channels
        rates, channels = drop_path_rates(design.depths, drop_path_rate), design.width
        for stage, outputs in enumerate(design.out_channels[: self.out_indices[-1] + 1]):
            self.downsample_layers.append(_downsampling(design, in_channels, stage))
            stride = 2 if stage else 1
            if stage and design.separate_downsampling:
                stride, channels = 1, outputs
            blocks = nn.Sequential()
            for rate in islice(rates, design.depths[stage]):
                drop = DropPath(rate)
                blocks.append(
                    RoadmapBlock(design, channels, outputs, stride, drop, layer_scale_init_value)
                )
                stride, channels = 1, outputs
            self.stages.append(blocks)
        for index in self.out_indices:
            norm = LayerNorm2d if design.separate_downsampling else nn.Identity
            self.add_module(f"norm{index}", norm(self.out_channels[index]))
        self.apply(partial(_init_parameters, design))
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of ``out_indices`` of images (N, in_channels, H, W)."""
        return self._run(x)

    def train(self, mode: bool = True) -> ModernizedResNet:
        """Set the mode of all but the frozen parts and, with ``norm_eval``, BatchNorm."""
        super().train(mode)
        for module in self.modules() if self.norm_eval else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def _downsampling(design: Design, in_channels: int, stage: int) -> nn.Sequential:
    """The stem (stage 0) or, in the last step, a layer of its own before another stage."""
    if stage:
        if not design.separate_downsampling:
            return nn.Sequential()
        before, after = design.out_channels[stage - 1 : stage + 1]
        return nn.Sequential(LayerNorm2d(before), nn.Conv2d(before, after, 2, stride=2))
    kernel, stride, padding = (4, 4, 0) if design.patchify else (7, 2, 3)
    conv = nn.Conv2d(in_channels, design.width, kernel, stride, padding, bias=design.has_bias)
    layers = [conv, design.norm(design.width)]
    if not design.fewer_activations:
        layers.append(design.activation)
    if not design.patchify:
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(*layers)


def _init_parameters(design: Design, module: nn.Module) -> None:
    """ConvNeXt's initialisation from ``layer_norm`` on, before it ResNet's."""
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return
    if design.layer_norm:
        nn.init.trunc_normal_(module.weight, std=0.02)
    else:
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if module.bias is not None:
        nn.init.zeros_(module.bias)

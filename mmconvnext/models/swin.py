"""Swin Transformer with depthwise convolution for local attention: DWNet (arXiv 2106.04263)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from mmdet.models.backbones import SwinTransformer
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional

from mmconvnext.errors import ConfigError, WeightsError

TOKEN_MIXERS = ("window", "depthwise", "dynamic")
# DWNet's own names, after MMDetection's swin_converter() -> ours.
NAMES = ((r"\.attn2conv\.", ".attn."), (r"(blocks\.\d+)\.bn\.", r"\1.norm2.bn."))
# What a classification file may lack; MMDetection computes relative_position_index itself.
NOT_NEEDED = re.compile(r"norm\d\.|.*\.relative_position_index$")


class TokenBatchNorm(nn.Module):
    """BatchNorm of tokens (N, L, C); a module within, as SyncBatchNorm takes its place."""

    def __init__(self, channels: int):
        super().__init__()
        self.bn = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (N, L, C)."""
        return self.bn(x.flatten(0, 1)).view(x.shape)


class DynamicDepthwiseConv(nn.Module):
    """Depthwise convolution whose filters are predicted from the image's mean over all positions.

    A training step needs two images, as there is one value a channel in each for BatchNorm.
    """

    def __init__(self, channels: int, kernel_size: int, reduction: int = 4):
        super().__init__()
        self.kernel_size = kernel_size
        self.conv1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels // reduction)
        self.conv2 = nn.Conv2d(channels // reduction, channels * kernel_size**2, 1)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Filter each image of ``x`` (N, C, H, W) with filters of its own."""
        filters = self.conv2(functional.relu(self.bn(self.conv1(x.mean((2, 3), keepdim=True)))))
        y = functional.conv2d(
            x.reshape(1, -1, *x.shape[2:]),
            filters.view(-1, 1, self.kernel_size, self.kernel_size),
            self.bias.repeat(len(x)),
            padding=self.kernel_size // 2,
            groups=len(x) * x.shape[1],
        )
        return y.view(x.shape)


class DepthwiseMixer(nn.Module):
    """What stands for window attention, with the names of DWNet's checkpoints.

    ``dynamic`` predicts the filters of the depthwise convolution from its input; ``drop`` drops
    whole samples in training, as after attention.
    """

    def __init__(self, channels: int, kernel_size: int, dynamic: bool, drop: nn.Module):
        super().__init__()
        self.kernel_size = kernel_size
        self.conv0 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn0 = nn.BatchNorm2d(channels)
        if dynamic:
            self.conv = DynamicDepthwiseConv(channels, kernel_size)
        else:
            padding = kernel_size // 2
            self.conv = nn.Conv2d(channels, channels, kernel_size, padding=padding, groups=channels)
        self.bn = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.drop = drop

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Mix tokens ``query`` (N, H*W, C) of a feature map of height and width ``hw_shape``."""
        height, width = hw_shape
        x = query.transpose(1, 2).unflatten(2, (height, width))
        # Padded as for windows, which shows at the border, and in the means of dynamic filters.
        x = functional.pad(x, (0, -width % self.kernel_size, 0, -height % self.kernel_size))
        x = functional.relu(self.bn0(self.conv0(x)))
        x = functional.relu(self.bn(self.conv(x)))
        x = self.bn2(self.conv2(x))[..., :height, :width]
        return self.drop(x.flatten(2).transpose(1, 2))


@MODELS.register_module()
class MixerSwinTransformer(SwinTransformer):
    """MMDetection's Swin Transformer, with a choice of what mixes tokens.

    With ``depthwise`` and ``dynamic`` it is DWNet as published with detectors: 1x1, 7x7 depthwise
    and 1x1 convolutions with BatchNorm after each and ReLU between them for window attention, no
    normalisation before them, and BatchNorm before the MLP and at the outputs. Its checkpoints
    load with ``convert_weights=True``, as Swin's do.

    Args:
        token_mixer: ``window`` for Swin's attention; ``depthwise``; or ``dynamic``, where the
            depthwise filters are predicted from their input.
        kwargs: MMDetection's, see :class:`mmdet.models.backbones.SwinTransformer`; ``window_size``
            is the size of the filters, too.

    Raises:
        ConfigError: there is no such token mixer, or filters would have an even size.
        WeightsError: pretrained weights are those of another network.
    """

    def __init__(self, token_mixer: str = "window", **kwargs: Any):
        if token_mixer not in TOKEN_MIXERS:
            choices = ", ".join(TOKEN_MIXERS)
            raise ConfigError(f"token_mixer={token_mixer!r} must be one of {choices}")
        super().__init__(**kwargs)
        self.token_mixer = token_mixer
        if token_mixer == "window":
            return
        for block in (block for stage in self.stages for block in stage.blocks):
            size, channels = block.attn.window_size, block.attn.w_msa.embed_dims
            if size % 2 == 0:
                raise ConfigError(
                    f"window_size={size} must be odd with token_mixer={token_mixer!r}, as it is "
                    "the size of the filters"
                )
            is_dynamic = token_mixer == "dynamic"
            block.attn = DepthwiseMixer(channels, size, is_dynamic, block.attn.drop)
            block.norm1, block.norm2 = nn.Identity(), TokenBatchNorm(channels)
        for index in self.out_indices:
            setattr(self, f"norm{index}", TokenBatchNorm(self.num_features[index]))

    def train(self, mode: bool = True) -> MixerSwinTransformer:
        """Set the mode of all but the frozen parts."""
        super().train(mode)  # MMDetection's returns nothing
        return self

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights; MMDetection's ``init_weights`` does so without ``strict``, unchecked."""
        if self.token_mixer != "window":
            for pattern, ours in NAMES:
                state_dict = {re.sub(pattern, ours, key): v for key, v in state_dict.items()}
        result = super().load_state_dict(state_dict, strict, assign)
        missing = [key for key in result.missing_keys if not NOT_NEEDED.match(key)]
        if missing:
            raise WeightsError(
                f"the weights for token_mixer={self.token_mixer!r} lack {len(missing)} tensors, "
                f"among them {missing[0]}; give the weights of a network with this token mixer "
                "(convert_weights=True for those of the original code), or init_cfg=None"
            )
        return result

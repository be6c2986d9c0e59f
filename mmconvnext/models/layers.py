"""The parts of a ConvNeXt block that torch does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYER_NORM_EPS = 1e-6
GRN_EPS = 1e-6


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a feature map, at each position by itself.

    A subclass of ``nn.LayerNorm`` so that rules that look for normalisation layers find it. With a
    channels_last input both permutations are views and nothing is copied.
    """

    def __init__(self, num_channels: int, eps: float = LAYER_NORM_EPS):
        super().__init__(num_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape (N, C, H, W); the result has the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GRN(nn.Module):
    """Global Response Normalisation ("ConvNeXt V2", arXiv 2301.00808, section 3.2).

    Of x (N, H, W, C): ``g = ||x||_2`` over H and W; ``n = g / (mean of g over channels + eps)``;
    the result is ``gamma * (x * n) + beta + x``. The statistics are computed in float32 whatever
    the type of ``x``: the sum of squares of a feature map overflows in float16.
    """

    def __init__(self, num_channels: int, eps: float = GRN_EPS):
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, num_channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape (N, H, W, C); the result has the same shape and type."""
        norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=_at_least_float32(x))
        scale = 1 + self.gamma * (norm / (norm.mean(dim=-1, keepdim=True) + self.eps))
        return torch.addcmul(self.beta.to(x.dtype), x, scale.to(x.dtype))

    def extra_repr(self) -> str:
        """Channels and eps, for ``print(model)``."""
        return f"{self.gamma.shape[-1]}, eps={self.eps}"


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


class Block(nn.Module):
    """One ConvNeXt block (arXiv 2201.03545, figure 4; with GRN: arXiv 2301.00808, figure 5).

    Depthwise convolution, LayerNorm, linear C -> 4C, GELU, (GRN,) linear 4C -> C, layer scale,
    stochastic depth, sum with the input. Parameter names are those of the official code.

    Args:
        channels: C, the channels in and out.
        kernel_size: of the depthwise convolution; odd, so that the size of the map is kept.
        drop_path: a module that drops whole samples of the branch in training.
        layer_scale_init_value: the initial value of ``gamma``; 0 builds no layer scale.
        use_grn: whether GRN stands between GELU and the second linear layer (V2).
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        drop_path: nn.Module,
        layer_scale_init_value: float,
        use_grn: bool,
    ):
        super().__init__()
        padding = kernel_size // 2
        self.dwconv = nn.Conv2d(channels, channels, kernel_size, padding=padding, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.grn = GRN(4 * channels) if use_grn else None
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = (
            nn.Parameter(torch.full((channels,), float(layer_scale_init_value)))
            if layer_scale_init_value
            else None
        )
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``x`` of shape (N, C, H, W); the result has the same shape."""
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = functional.gelu(self.pwconv1(self.norm(y)))
        if self.grn is not None:
            y = self.grn(y)
        y = self.pwconv2(y)
        if self.gamma is not None:
            y = y * self.gamma
        return x + self.drop_path(y.permute(0, 3, 1, 2))

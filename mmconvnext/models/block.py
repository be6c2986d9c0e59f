"""The ConvNeXt block and its normalisation layers, written as in the papers' figures.

:mod:`mmconvnext.models.fused_block` computes the same block faster and with less memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

EPS = 1e-6  # of LayerNorm and GRN


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a feature map, at each position by itself.

    A subclass of ``nn.LayerNorm`` so that rules that look for normalisation layers find it. With a
    channels_last input both permutations are views and nothing is copied.
    """

    def __init__(self, num_channels: int, eps: float = EPS):
        super().__init__(num_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape (N, C, H, W); the result has the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GRN(nn.Module):
    """Global Response Normalisation ("ConvNeXt V2", arXiv 2301.00808, section 3.2).

    Of x (N, H, W, C): ``g = ||x||_2`` over H and W; ``n = g / (mean of g over channels + eps)``;
    the result is ``gamma * (x * n) + beta + x``. Sums over positions, forward and backward, are in
    float32 at least: those of squares overflow in float16, and their terms vanish.
    """

    def __init__(self, num_channels: int, eps: float = EPS):
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, num_channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape (N, H, W, C); the result has the same shape and type."""
        arguments = (x, self.gamma, self.beta)
        wants_grad = torch.is_grad_enabled() and any(t.requires_grad for t in arguments)
        if not wants_grad or torch.jit.is_tracing():  # TorchScript cannot save a Python function
            return _normalise(*arguments, _norm(x), self.eps)
        return _GRN.apply(*arguments, self.eps)

    def no_weight_decay(self) -> set[str]:
        """The names of its parameters without weight decay (timm's convention)."""
        return {"gamma", "beta"}

    def extra_repr(self) -> str:
        """Channels and eps, for ``print(model)``."""
        return f"{self.gamma.shape[-1]}, eps={self.eps}"


def _norm(x: Tensor) -> Tensor:
    """The norms over positions (N, 1, 1, C), in float32 at least."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=dtype)


def _normalise(x: Tensor, gamma: Tensor, beta: Tensor, norm: Tensor, eps: float) -> Tensor:
    return torch.addcmul(beta.to(x.dtype), x, grn_scale(norm, gamma, eps).to(x.dtype))


def grn_scale(norm: Tensor, gamma: Tensor, eps: float) -> Tensor:
    """What GRN multiplies each channel with, before adding ``beta``: ``1 + gamma * n``.

    ``norm`` is that of each channel over the positions of a sample; all shapes are (..., C).
    """
    return 1 + gamma * (norm / (norm.mean(dim=-1, keepdim=True) + eps))


def grn_scale_backward(
    grad_scale: Tensor, norm: Tensor, gamma: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Differentiate :func:`grn_scale`, given the gradient of its result: the sum of ``grad * x``.

    Returns:
        The gradient of ``gamma`` for each sample, and what ``x`` is to be multiplied with for the
        part of its gradient that goes through its norm; both (..., C).
    """
    divisor = norm.mean(dim=-1, keepdim=True) + eps
    response = norm / divisor
    # a norm acts on the response of its own channel and, by the mean, on those of all
    grad_response = grad_scale * gamma
    through_mean = (grad_response * response).mean(dim=-1, keepdim=True)
    grad_norm = (grad_response - through_mean) / divisor
    per_x = torch.where(norm > 0, grad_norm / norm, 0)  # torch, too, has a slope of 0 at 0
    return grad_scale * response, per_x


class _GRN(torch.autograd.Function):
    """GRN with a backward pass that torch's own differentiation does in the type of ``x``."""

    @staticmethod
    def forward(ctx, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
        norm = _norm(x)
        ctx.save_for_backward(x, gamma, norm)
        ctx.eps = eps
        return _normalise(x, gamma, beta, norm, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, gamma, norm = ctx.saved_tensors
        # bfloat16 has the range for products of gradients and activations, float16 has not
        dtype = norm.dtype if x.dtype == torch.float16 else x.dtype
        product = grad * x if x.dtype == dtype else grad.to(dtype).mul_(x)
        grad_scale = product.sum((1, 2), keepdim=True, dtype=norm.dtype)
        del product
        grad_gamma, per_x = grn_scale_backward(grad_scale, norm, gamma, ctx.eps)
        grad_beta = grad.sum((0, 1, 2), keepdim=True, dtype=norm.dtype)
        # computed in the type of the factors, stored in that of x
        scale = grn_scale(norm, gamma, ctx.eps).to(dtype)
        grad_x = torch.mul(grad, scale, out=torch.empty_like(x)).addcmul_(x, per_x.to(dtype))
        grad_gamma = grad_gamma.sum(0, keepdim=True).to(gamma.dtype)
        return grad_x, grad_gamma, grad_beta.to(gamma.dtype), None


class Block(nn.Module):
    """One ConvNeXt block (arXiv 2201.03545, figure 4; with GRN: arXiv 2301.00808, figure 5).

    Depthwise convolution, LayerNorm, linear C -> 4C, GELU, (GRN,) linear 4C -> C, layer scale,
    stochastic depth, sum with the input. Pruning leaves other numbers than 4C. Parameter names are
    those of the official code.

    Args:
        channels: C, the channels in and out.
        kernel_size: of the depthwise convolution; odd, so that the size of the map is kept.
        drop_path: a module that drops whole samples of the branch in training.
        layer_scale_init_value: the initial value of ``gamma``; 0 builds no layer scale.
        use_grn: whether GRN stands between GELU and the second linear layer (V2).
        hidden: channels between the linear layers; 4C by default.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        drop_path: nn.Module,
        layer_scale_init_value: float,
        use_grn: bool,
        hidden: int | None = None,
    ):
        super().__init__()
        padding = kernel_size // 2
        self.hidden = hidden = hidden or 4 * channels
        self.dwconv = nn.Conv2d(channels, channels, kernel_size, padding=padding, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.pwconv1 = nn.Linear(channels, hidden)
        self.grn = GRN(hidden) if use_grn else None
        self.pwconv2 = nn.Linear(hidden, channels)
        gamma = torch.full((channels,), float(layer_scale_init_value))
        self.gamma = nn.Parameter(gamma) if layer_scale_init_value else None
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

    def why_not_fused(self, x: Tensor) -> str | None:
        """Why its output for ``x`` is computed layer by layer; None where it is fused."""
        return "fused=False"

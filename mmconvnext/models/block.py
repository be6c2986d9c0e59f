"""The parts of a ConvNeXt block that torch does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mmconvnext.models.depthwise import depthwise_conv2d
from mmconvnext.models.fusing import can_fuse
from mmconvnext.models.mixer import MixerParameters, mix
from mmconvnext.models.strips import apply_block

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
    the result is ``gamma * (x * n) + beta + x``. Whatever is summed over positions, forward and
    backward, is summed in float32 even where ``x`` is of lower precision: sums of squares and
    gradients of ``gamma`` overflow in float16, and their terms vanish.
    """

    def __init__(self, num_channels: int, eps: float = GRN_EPS):
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, num_channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape (N, H, W, C); the result has the same shape and type."""
        arguments = (x, self.gamma, self.beta)
        learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in arguments)
        if not learns or torch.jit.is_tracing():  # TorchScript cannot save a Python function
            return _normalised(*arguments, *_response(x, self.eps))
        return _ResponseNormalisation.apply(*arguments, self.eps)

    def extra_repr(self) -> str:
        """Channels and eps, for ``print(model)``."""
        return f"{self.gamma.shape[-1]}, eps={self.eps}"


def _response(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norms over positions, in float32 at least, and what they are divided by."""
    norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=_at_least_float32(x))
    return norm, norm.mean(dim=-1, keepdim=True) + eps


def _normalised(x: Tensor, gamma: Tensor, beta: Tensor, norm: Tensor, divisor: Tensor) -> Tensor:
    scale = 1 + gamma * (norm / divisor)
    return torch.addcmul(beta.to(x.dtype), x, scale.to(x.dtype))


class _ResponseNormalisation(torch.autograd.Function):
    """GRN with a backward pass that torch's own differentiation does in the type of ``x``."""

    @staticmethod
    def forward(ctx, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
        norm, divisor = _response(x, eps)
        ctx.save_for_backward(x, gamma, norm, divisor)
        return _normalised(x, gamma, beta, norm, divisor)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, gamma, norm, divisor = ctx.saved_tensors
        response, wide = norm / divisor, norm.dtype
        # bfloat16 has the range for products of gradients and activations, float16 has not
        dtype = wide if x.dtype == torch.float16 else x.dtype
        product = grad * x if x.dtype == dtype else grad.to(dtype).mul_(x)
        grad_scale = product.sum((1, 2), keepdim=True, dtype=wide)
        del product
        grad_gamma = (grad_scale * response).sum(0, keepdim=True)
        grad_beta = grad.sum((0, 1, 2), keepdim=True, dtype=wide)

        # a norm acts on the response of its own channel and, by the mean, on those of all
        grad_response = grad_scale * gamma
        through_mean = (grad_response * response).mean(dim=-1, keepdim=True)
        grad_norm = (grad_response - through_mean) / divisor
        per_x = torch.where(norm > 0, grad_norm / norm, 0)  # torch, too, takes 0 for its slope at 0
        # computed in the type of the factors, stored in that of x
        scale = (1 + gamma * response).to(dtype)
        grad_x = torch.mul(grad, scale, out=torch.empty_like(x)).addcmul_(x, per_x.to(dtype))
        return grad_x, grad_gamma.to(gamma.dtype), grad_beta.to(gamma.dtype), None


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
        fused: compute all after the convolution in one go, by
            :func:`mmconvnext.models.mixer.mix`, and the convolution's gradient by
            :func:`mmconvnext.models.depthwise.depthwise_conv2d`, or where nobody wants gradients
            all of it by :func:`mmconvnext.models.strips.apply_block`; the result is the same to
            rounding. Differentiable once. Where that cannot be (GRN; in a graph that is traced,
            compiled or exported; where a layer was replaced, changed or has hooks), or where maps
            are so small that it does not pay, layer by layer; see
            :func:`mmconvnext.models.fusing.can_fuse`.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        drop_path: nn.Module,
        layer_scale_init_value: float,
        use_grn: bool,
        fused: bool = True,
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
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``x`` of shape (N, C, H, W); the result has the same shape."""
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *self.parameters()))
        if self.fused and can_fuse(self, x, learns):
            return self._fused(x, learns)
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = functional.gelu(self.pwconv1(self.norm(y)))
        if self.grn is not None:
            y = self.grn(y)
        y = self.pwconv2(y)
        if self.gamma is not None:
            y = y * self.gamma
        return x + self.drop_path(y.permute(0, 3, 1, 2))

    def _fused(self, x: Tensor, learns: bool) -> Tensor:
        # on the CPU wherever `x` is: which samples are dropped decides what is computed
        scales = self.drop_path(torch.ones(len(x), 1, 1, 1)).flatten().tolist()
        params = MixerParameters(
            norm_weight=self.norm.weight,
            norm_bias=self.norm.bias,
            weight1=self.pwconv1.weight,
            bias1=self.pwconv1.bias,
            weight2=self.pwconv2.weight,
            bias2=self.pwconv2.bias,
            gamma=self.gamma,
        )
        weight, bias, eps = self.dwconv.weight, self.dwconv.bias, self.norm.eps
        if learns:
            return mix(x, depthwise_conv2d(x, weight, bias), params, eps, scales)
        return apply_block(x, weight, bias, params, eps, scales)

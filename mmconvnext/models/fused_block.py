"""When a ConvNeXt block is computed in tiles (:mod:`mmconvnext.models.tiles`), and why not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmconvnext.models.block import GRN, Block
from mmconvnext.models.tiles import BlockParameters, Settings, TiledBlock, forward_tiles

# Of the 4C channels of a block, on the CPU: what is smaller stays in the cache anyway, and is
# computed sooner layer by layer. In training more is saved then; that weighs more than time.
FUSED_FROM_BYTES = 8 * 2**20
TRAINED_FUSED_FROM_BYTES = 2 * 2**20


class FusedBlock(Block):
    """A :class:`Block` that is computed in tiles where that is possible and pays.

    The result is the same to rounding; differentiable once.

    Args:
        fused: ``"auto"`` fuses on the CPU alone, and there maps that are large enough to gain
            from it; ``True`` wherever it is possible.
    """

    def __init__(self, *args, fused: bool | str = "auto", **kwargs):
        super().__init__(*args, **kwargs)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``x`` of shape (N, C, H, W); the result has the same shape."""
        if self.why_not_fused(x) is not None:
            return super().forward(x)
        # on the CPU wherever `x` is: which samples are dropped decides what is computed
        scales = self.drop_path(torch.ones(len(x), 1, 1, 1)).flatten().tolist()
        grn = self.grn
        settings = Settings(tuple(scales), compute_dtype(x), self.norm.eps, grn and grn.eps)
        layers = (self.dwconv, self.norm, self.pwconv1, self.pwconv2)
        weights = (param for layer in layers for param in (layer.weight, layer.bias))
        params = BlockParameters(*weights, self.gamma, grn and grn.gamma, grn and grn.beta)
        x = x.contiguous(memory_format=torch.channels_last)
        # autocast has decided in which type the layers work; within nothing else does
        with torch.autocast(x.device.type, enabled=False):
            if self._wants_grad(x):
                return TiledBlock.apply(x, settings, *params)
            return forward_tiles(x, None, params.to(settings.dtype), settings)[0]

    def _wants_grad(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and any(t.requires_grad for t in (x, *self.parameters()))

    def why_not_fused(self, x: Tensor) -> str | None:
        """Why its output for ``x`` is computed layer by layer; None where it is fused."""
        if is_recorded(x):
            return "torch traces, compiles, transforms or only shapes its operators"
        if self.fused == "auto":
            if x.device.type != "cpu":
                return f"on {x.device.type} it was not measured to pay; fused=True forces it"
            least = TRAINED_FUSED_FROM_BYTES if self._wants_grad(x) else FUSED_FROM_BYTES
            positions = x.numel() // x.shape[1]
            if positions * self.hidden * compute_dtype(x).itemsize < least:
                return f"its hidden map has less than {least / 2**20:g} MiB; fused=True forces it"
        kinds = {"dwconv": nn.Conv2d, "norm": nn.LayerNorm, "pwconv1": nn.Linear}
        kinds |= {"pwconv2": nn.Linear} | ({} if self.grn is None else {"grn": GRN})
        changed = [n for n, kind in kinds.items() if not _is_original(getattr(self, n), kind)]
        return f"{', '.join(changed)} replaced, changed or with hooks" if changed else None


def is_recorded(x: Tensor) -> bool:
    """Whether torch records, transforms or only shapes operators: those must be torch's own."""
    return (
        torch.compiler.is_compiling()
        or type(x) is not Tensor  # one that is faked, distributed, watched
        or x.is_meta
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
    )


def _is_original(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer is as built, so that using its parameters alone is the same."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)
    hooks += (layer._backward_hooks, layer._backward_pre_hooks)
    if type(layer) is not kind or any(hooks) or any(p is None for p in layer._parameters.values()):
        return False
    return kind is not nn.Conv2d or (  # depthwise, and keeps the size of the map
        layer.stride == layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and layer.padding == (layer.kernel_size[0] // 2,) * 2
        and layer.groups == layer.in_channels == layer.out_channels
    )


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type that autocast asks for, if it is on and ``x`` is not float64; else that of ``x``."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)

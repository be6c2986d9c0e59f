"""The ConvNeXt backbone: stages, output norms, freezing, and where each parameter stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from mmcv.cnn.bricks import DropPath
from mmdet.registry import MODELS
from mmengine.logging import print_log
from torch import Tensor, nn

from mmconvnext.models.block import Block, LayerNorm2d
from mmconvnext.models.fused_block import FusedBlock, is_recorded
from mmconvnext.models.stages import Stages, check_blocks, drop_path_rates
from mmconvnext.variants import resolve_arch, resolve_hidden


@MODELS.register_module()
class ConvNeXt(Stages):
    """ConvNeXt V1 and V2 as a detection backbone.

    "A ConvNet for the 2020s" (arXiv 2201.03545) and "ConvNeXt V2" (arXiv 2301.00808). Parameter
    names are those of the official detection code, so that its state dicts load as they are:
    ``downsample_layers``, ``stages`` and one output norm ``norm{i}`` for each of ``out_indices``.
    Stages after the last of ``out_indices`` and norms of other stages are not built: every
    parameter takes part in the forward pass.

    Args:
        arch: a name in ``mmconvnext.variants.VARIANTS`` (``"tiny"``) or
            ``dict(depths=..., widths=...)`` with four numbers each. ``hidden``, of each stage the
            hidden channels of each block, is what ``mmconvnext prune`` leaves of four times the
            width.
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
        depths, self.widths = resolve_arch(arch)
        self.hidden = resolve_hidden(arch)
        check_blocks(in_channels, kernel_size, drop_path_rate, layer_scale_init_value)
        super().__init__(depths, out_indices, frozen_stages, with_cp, init_cfg)
        if fused not in ("auto", True, False):
            raise ValueError(f"{fused=} must be 'auto', True or False")
        self.in_channels, self.use_grn = in_channels, use_grn
        self._fusion_is_logged = False

        build = partial(FusedBlock, fused=fused) if fused else Block
        options = (layer_scale_init_value, use_grn)
        rates = drop_path_rates(self.depths, drop_path_rate)
        for stage in range(self.out_indices[-1] + 1):
            width = self.widths[stage]
            self.downsample_layers.append(_downsampling(in_channels, self.widths, stage))
            blocks = (  # the rates are those of all blocks, one stage after the other
                build(width, kernel_size, DropPath(rate), *options, hidden)
                for hidden, rate in zip(self.hidden[stage], rates, strict=False)
            )
            self.stages.append(nn.Sequential(*blocks))
        for index in self.out_indices:
            self.add_module(f"norm{index}", LayerNorm2d(self.widths[index]))
        self.apply(_init_parameters)
        self._freeze()

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
        def note(index: int, x: Tensor) -> None:  # all blocks of a stage have inputs of one size
            for name, block in self.stages[index].named_modules(prefix=f"stages.{index}"):
                if isinstance(block, Block):
                    reasons[name] = block.why_not_fused(x)

        return self._run(x, None if reasons is None else note)


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

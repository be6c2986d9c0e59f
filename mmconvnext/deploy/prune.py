"""Structured pruning of a ConvNeXt: hidden channels of its blocks, and whole blocks.

The hidden channels of a block are seen by nobody outside of it: rows of ``pwconv1`` with its bias,
columns of ``pwconv2`` and, in V2, entries of GRN go together, and no dependency graph is needed. A
block that loses all of them is its residual connection, and is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmconvnext.errors import ConfigError, UserError
from mmconvnext.models.block import Block
from mmconvnext.models.convnext import ConvNeXt

# Channels that are removed together: matrix products are fastest in multiples of a vector's size.
GROUP = 8
BLOCK = re.compile(r"stages\.(\d+)\.(\d+)\.(.+)")

# By stage and block: the importance of each hidden channel, or the channels that are left.
Scores = list[list[Tensor]]
Kept = list[list[Tensor]]


class Costs(NamedTuple):
    """Multiply-adds of a backbone for each 32 x 32 pixels of the image."""

    fixed: int  # of stem, downsampling and frozen stages
    block: tuple[int, ...]  # of a block of each stage without its hidden channels: the convolution
    channel: tuple[int, ...]  # of a hidden channel of each stage

    def of(self, hidden: Iterable[Iterable[int]]) -> int:
        """All of them, given the hidden channels of each block; 0 for one that is left out."""
        stages = zip(self.block, self.channel, hidden, strict=True)
        return self.fixed + sum(b * bool(n) + c * n for b, c, blocks in stages for n in blocks)


def costs_of(backbone: ConvNeXt) -> Costs:
    """Count the multiply-adds of a backbone's parts, as ``mmconvnext flops`` does."""
    positions = [4 ** (3 - stage) for stage in range(len(backbone.stages))]
    layers = zip(positions, backbone.downsample_layers, strict=True)
    fixed = sum(p * m.weight.numel() for p, ms in layers for m in ms if isinstance(m, nn.Conv2d))
    stages = list(zip(positions, backbone.stages, strict=True))
    block = tuple(p * blocks[0].dwconv.weight.numel() for p, blocks in stages)
    channel = tuple(2 * p * width for p, width in zip(positions, backbone.widths, strict=False))
    return Costs(fixed, block, channel)


def backbone_of(model: nn.Module) -> ConvNeXt:
    """The backbone of a detector that can be pruned.

    Raises:
        ConfigError: it is none.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, ConvNeXt):
        raise ConfigError(
            f"model.backbone is a {type(backbone).__name__}; prune knows the blocks of this "
            "package's ConvNeXt alone"
        )
    return backbone


def magnitude(backbone: ConvNeXt) -> Scores:
    """The importance of each hidden channel by the norms of its weights.

    The norm of its row of ``pwconv1``, times that of its column of ``pwconv2``, multiplied with the
    layer scale. Norms are the usual measure without data (Li et al., "Pruning Filters for Efficient
    ConvNets", arXiv 1608.08710).
    """

    def score(block: Block) -> Tensor:
        columns = block.pwconv2.weight
        if block.gamma is not None:
            columns = columns * block.gamma[:, None]
        return (block.pwconv1.weight.norm(dim=1) * columns.norm(dim=0)).detach().cpu()

    return [[score(block) for block in stage] for stage in backbone.stages]


def taylor(model: nn.Module, losses: Iterable[Tensor]) -> Scores:
    """The importance of each hidden channel by what the loss would change without it.

    "Importance Estimation for Neural Network Pruning" (Molchanov et al., CVPR 2019, arXiv
    1906.10771), first order, with a gate on each channel (equation 8 for a gate of 1): the squared
    gradient of the gate, summed over batches. ``pwconv2`` is linear in the channel, so that the
    gate's gradient is the sum of weight times gradient over its column.

    Args:
        model: a detector; of its parameters only those of ``pwconv2`` require gradients after this.
        losses: of training batches, each computed when it is asked for.

    Raises:
        UserError: a loss is not finite, or there is none.
    """
    blocks = [[*stage] for stage in backbone_of(model).stages]
    model.requires_grad_(False)
    weights = [block.pwconv2.weight.requires_grad_() for stage in blocks for block in stage]
    totals = [weight.new_zeros(weight.shape[1]) for weight in weights]
    count = 0
    for count, loss in enumerate(losses, 1):
        if not loss.isfinite():
            raise UserError(f"the loss of training batch {count} is {loss.item()}: no importance")
        gradients = torch.autograd.grad(loss, weights)
        for total, weight, gradient in zip(totals, weights, gradients, strict=True):
            total += (weight.detach() * gradient).sum(0).square()
    if not count:
        raise UserError("there was no training batch to compute the importance with")
    found = iter(total.cpu() for total in totals)
    return [[next(found) for _ in stage] for stage in blocks]


class _Left:
    """What is left of a block: groups of channels, the least important first."""

    def __init__(self, stage: int, scores: Tensor, costs: Costs):
        self.stage, self.order = stage, scores.argsort(stable=True)
        self.own, self.channel = costs.block[stage], costs.channel[stage]
        count = len(scores)
        sizes = [*([count % GROUP] if count % GROUP else []), *[GROUP] * (count // GROUP)]
        self.ends = [*accumulate(sizes, initial=0)]
        sums = [part.sum().item() for part in scores[self.order].double().split(sizes)]
        self.below = [*accumulate(sums, initial=0.0)]
        self.gone = 0  # groups

    def candidates(self, may_go: bool) -> Iterator[tuple[float, int, int]]:
        """Importance for each multiply-add, multiply-adds, and groups gone, of what can go."""
        groups = len(self.ends) - 1
        for gone in (self.gone + 1, groups):
            whole = gone == groups
            if self.gone < gone <= groups and (may_go or not whole):
                cost = (self.ends[gone] - self.ends[self.gone]) * self.channel + self.own * whole
                yield (self.below[gone] - self.below[self.gone]) / cost, cost, gone

    def kept(self) -> Tensor:
        return self.order[self.ends[self.gone] :].sort().values


def check_keep(backbone: ConvNeXt, keep: float) -> None:
    """Raise ConfigError where a share of the backbone's multiply-adds cannot be left."""
    costs, built = costs_of(backbone), backbone.hidden[: len(backbone.stages)]
    frozen = max(backbone.frozen_stages, 0)
    fewest = [[min(GROUP, *hidden)] for hidden in built]
    least = costs.of([*built[:frozen], *fewest[frozen:]]) / costs.of(built)
    if not least <= keep < 1:
        raise ConfigError(
            f"--keep {keep:g} must be a share of the backbone's multiply-adds below 1 and of at "
            f"least {least + 0.0005:.3f}: stem, downsampling, frozen stages, and in each other "
            f"stage a block with {GROUP} hidden channels stay"
        )


def choose(backbone: ConvNeXt, scores: Scores, keep: float) -> Kept:
    """Choose the channels and blocks to keep, for a share of the backbone's multiply-adds.

    Among groups of ``GROUP`` channels of all blocks, and blocks as wholes, the one with the least
    importance for each multiply-add that it saves goes first, until at most ``keep`` is left. Each
    stage keeps a block, and each frozen stage everything.

    Raises:
        ConfigError: so little cannot be left.
    """
    check_keep(backbone, keep)
    costs, frozen = costs_of(backbone), max(backbone.frozen_stages, 0)
    stages = [[_Left(s, each, costs) for each in blocks] for s, blocks in enumerate(scores)]
    cost = costs.of(backbone.hidden[: len(stages)])
    left, target = [len(stage) for stage in stages], keep * cost
    while cost > target:
        found = (
            (*candidate, block)
            for block in (block for stage in stages[frozen:] for block in stage)
            for candidate in block.candidates(left[block.stage] > 1)
        )
        # many groups at once only where they do not go beyond the target
        fits = (c for c in found if cost - c[1] >= target or c[2] == c[3].gone + 1)
        _, saved, gone, block = min(fits, key=lambda candidate: candidate[0])
        left[block.stage] -= gone == len(block.ends) - 1
        block.gone, cost = gone, cost - saved
    return [[block.kept() for block in stage] for stage in stages]


def arch_of(backbone: ConvNeXt, kept: Kept) -> dict[str, tuple]:
    """The ``arch`` of the pruned backbone."""
    hidden = [tuple(len(block) for block in stage if len(block)) for stage in kept]
    hidden += backbone.hidden[len(hidden) :]  # stages that are not built
    depths = tuple(map(len, hidden))
    return {"depths": depths, "widths": tuple(backbone.widths), "hidden": tuple(hidden)}


@torch.no_grad()
def prune_state(state: Mapping[str, Tensor], kept: Kept, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of the pruned network; ``prefix`` is what the backbone's names begin with.

    The network computes what the full one does with rows of ``pwconv1`` and its bias set to 0 for
    the channels that go, and without the branches of blocks that go. In V2, channels that are 0
    still count in the mean of GRN, by which it divides, and add ``beta``: ``gamma`` is multiplied
    with the ratio of the numbers of channels, and ``beta`` goes into the bias. It is the same but
    for rounding and GRN's eps.
    """
    pruned = {}
    for name, tensor in state.items():
        match = BLOCK.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if not match:
            pruned[name] = tensor.clone()
            continue
        stage, block, leaf = int(match[1]), int(match[2]), match[3]
        channels = kept[stage][block].to(tensor.device)
        if not len(channels):
            continue
        start = name.removesuffix(leaf)
        if leaf in ("pwconv1.weight", "pwconv1.bias"):
            tensor = tensor[channels]
        elif leaf in ("pwconv2.weight", "grn.beta"):
            tensor = tensor[..., channels]
        elif leaf == "grn.gamma":
            tensor = tensor[..., channels] * (tensor.shape[-1] / len(channels))
        elif leaf == "pwconv2.bias" and f"{start}grn.beta" in state:
            beta = state[f"{start}grn.beta"].flatten().clone()
            beta[channels] = 0
            tensor = tensor + state[f"{start}pwconv2.weight"] @ beta
        index = sum(len(each) > 0 for each in kept[stage][:block])
        pruned[f"{prefix}stages.{stage}.{index}.{leaf}"] = tensor.clone()
    return pruned

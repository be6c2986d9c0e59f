"""One library's ConvNeXt at work: the weights and the image that all get, and a pass over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.backbone_peers import NUM_STAGES, PEERS, Peer
from benchmarks.comparison import BenchmarkError
from mmconvnext.models import ConvNeXt
from mmconvnext.models.block import LayerNorm2d
from mmconvnext.weights.formats import convert, find_backbone

SEED = 0
FEATURES = "features of stage "
GRADIENT = "gradients of "


class Backbone:
    """The factory of the comparison of backbones, see :class:`benchmarks.Candidate`.

    What is timed is what a library does of itself. Output norms differ: timm and torchvision return
    maps without any, ours, transformers and mmpretrain normalise each. Only in ``check()``, the
    maps of the former go through the norms of ours, so that like is compared with like.

    Args:
        peer: a key of ``PEERS``.
        depths: blocks of each stage.
        widths: channels of each stage.
        shape: height and width of the image in pixels.
        batch: number of images.
        dtype: float32, or another for autocast.
        train: forward and backward, with gradients of all parameters; ``check()`` adds the
            gradient of the image, which training does not need.
        device: in torch's words.
    """

    def __init__(
        self,
        peer: str,
        depths: Sequence[int],
        widths: Sequence[int],
        shape: Sequence[int],
        batch: int,
        dtype: str,
        train: bool,
        device: str,
    ):
        self._peer = PEERS[peer]
        self._dtype = getattr(torch, dtype)
        self._device = torch.device(device)
        _forbid_tf32()
        weights = random_weights(depths, widths)
        self._model = self._peer.build(depths, widths)
        fill(self._model, weights)
        self._norms = nn.ModuleList() if self._peer.has_norms else _norms(widths, weights)
        self._place(train)
        generator = torch.Generator().manual_seed(SEED)
        image = torch.randn(batch, 3, *shape, generator=generator).to(self._device)
        self._image = image.contiguous(memory_format=_memory_format(self._peer))
        self._gradients = _random_gradients(batch, widths, shape, generator) if train else []
        if train:  # the neck's gradients come in the layout of the maps
            pairs = zip(self._gradients, self._forward(), strict=True)
            self._gradients = [torch.empty_like(x).copy_(gradient) for gradient, x in pairs]

    def run(self) -> None:
        """Compute the four maps, and in training the gradients of all parameters."""
        if self._gradients:
            torch.autograd.backward(self._forward(), self._gradients)
            return
        with torch.inference_mode(), self._autocast():
            self._model(self._image)

    def check(self) -> dict[str, np.ndarray]:
        """Return the normalised maps, and in training all gradients, by our names."""
        if not self._gradients:
            with torch.inference_mode(), self._autocast():
                return _arrays(self._named_maps())
        self._forget_gradients()
        self._image.requires_grad_()
        with self._autocast():
            maps = self._named_maps()
        pairs = zip(self._gradients, maps.values(), strict=True)
        torch.autograd.backward(list(maps.values()), [g.to(x.dtype) for g, x in pairs])
        arrays = _arrays({**maps, **self._named_gradients()})
        self._image.requires_grad_(False)
        self._forget_gradients()
        return arrays

    def facts(self) -> dict[str, float]:
        """Return the bytes that the forward pass saves for the backward pass."""
        return {"saved_bytes": self._saved_bytes()} if self._gradients else {}

    def _place(self, train: bool) -> None:
        for module in (self._model, self._norms):
            module.train(train).to(self._device, memory_format=_memory_format(self._peer))

    def _forward(self) -> Sequence[Tensor]:
        self._forget_gradients()
        with self._autocast():
            return self._model(self._image)

    def _forget_gradients(self) -> None:
        self._image.grad = None
        for module in (self._model, self._norms):
            module.zero_grad(set_to_none=True)

    def _autocast(self) -> AbstractContextManager:
        is_on = self._dtype != torch.float32
        return torch.autocast(self._device.type, dtype=self._dtype, enabled=is_on)

    def _named_maps(self) -> dict[str, Tensor]:
        maps = self._model(self._image)
        if not self._peer.has_norms:
            maps = [norm(x) for norm, x in zip(self._norms, maps, strict=True)]
        return {f"{FEATURES}{stage}": x for stage, x in enumerate(maps)}

    def _named_gradients(self) -> dict[str, Tensor]:
        gradients = {name: param.grad for name, param in self._model.named_parameters()}
        named = convert(gradients, find_backbone(gradients))
        for index, norm in enumerate(self._norms):
            for name, param in norm.named_parameters():
                named[f"norm{index}.{name}"] = param.grad
        named["the image"] = self._image.grad
        return {f"{GRADIENT}{name}": gradient for name, gradient in named.items()}

    def _saved_bytes(self) -> int:
        """What autograd keeps, each storage once; not parameters, and not the image itself."""
        not_counted = {_address(x) for x in (*self._model.parameters(), self._image)}
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if _address(tensor) not in not_counted:
                saved[_address(tensor)] = tensor.untyped_storage().nbytes()
            return tensor  # stays alive until the graph is freed: no address is used twice

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            maps = self._forward()
        del maps
        return sum(saved.values())


def random_weights(depths: Sequence[int], widths: Sequence[int]) -> dict[str, Tensor]:
    """Draw weights of our names that an error would show with: no part of the sum is small.

    Args:
        depths: blocks of each stage.
        widths: channels of each stage.
    """
    with torch.device("meta"):
        shapes = ConvNeXt({"depths": depths, "widths": widths}).state_dict()
    generator = torch.Generator().manual_seed(SEED)
    weights = {}
    for name, tensor in shapes.items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("gamma"):
            weights[name] = 0.3 + 0.1 * noise
        elif tensor.ndim > 1:
            weights[name] = noise / tensor[0].numel() ** 0.5
        else:  # biases, and the norms' weights
            weights[name] = 0.1 * noise + name.endswith("weight")
    return weights


@torch.no_grad()
def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy our weights into a model of any known layout.

    Args:
        model: its own tensors are renamed to ours; renaming copies nothing, so what is written
            into the renamed ones is in the model.
        weights: by our names.

    Raises:
        BenchmarkError: the model has parameters that ours has not, or the other way round (output
            norms aside), or they would not be in the model.
    """
    own = dict(model.state_dict())
    converted = convert(own, find_backbone(own))
    unknown = sorted(set(converted) - set(weights))
    unfilled = sorted(n for n in set(weights) - set(converted) if not n.startswith("norm"))
    if unknown or unfilled:
        raise BenchmarkError(
            f"its parameters are not ours: only it has {unknown[:3]}, only ours {unfilled[:3]}"
        )
    addresses = {_address(param) for param in model.parameters()}
    for name, target in converted.items():
        target.copy_(weights[name])
        addresses.discard(_address(target))
    if addresses:
        raise BenchmarkError(f"{len(addresses)} of its parameters did not get our weights")


def _norms(widths: Sequence[int], weights: Mapping[str, Tensor]) -> nn.ModuleList:
    norms = nn.ModuleList(LayerNorm2d(width) for width in widths)
    for index, norm in enumerate(norms):
        names = ("weight", "bias")
        norm.load_state_dict({name: weights[f"norm{index}.{name}"] for name in names})
    return norms


def _random_gradients(
    batch: int, widths: Sequence[int], shape: Sequence[int], generator: torch.Generator
) -> list[Tensor]:
    """Draw the gradient of a loss with respect to each of the four maps."""
    sides = [[side // 2 ** (stage + 2) for side in shape] for stage in range(NUM_STAGES)]
    return [
        torch.randn(batch, width, *size, generator=generator)
        for width, size in zip(widths, sides, strict=True)
    ]


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}


def _memory_format(peer: Peer) -> torch.memory_format:
    return torch.channels_last if peer.channels_last else torch.contiguous_format


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _forbid_tf32() -> None:
    """Have float32 mean float32 on a GPU, for all."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False

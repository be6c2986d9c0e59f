"""What the tests of backbone and blocks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

# Layer scale and GRN: those of V1, of neither, of V2, and both at once.
KINDS = {"V1": (0.7, False), "V1 without gamma": (0, False), "V2": (0, True), "both": (0.7, True)}
SMALL = {"depths": (1, 1, 3, 1), "widths": (8, 16, 24, 32)}


def image(batch: int = 2, height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def distance(actual: Tensor, expected: Tensor) -> float:
    """Relative in the L2 norm; 0 for two zeros."""
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-30))


def assert_near(ours: dict, theirs: dict, tolerance: float = 1e-4) -> None:
    """The same names with the same tensors to a tolerance; None where there is no gradient."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        if expected is None:
            assert ours[name] is None, name
        else:
            assert distance(ours[name], expected) < tolerance, name


def assert_all_near(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float) -> None:
    assert_near(dict(enumerate(ours)), dict(enumerate(theirs)), tolerance)


def saved(function: Callable, x: Tensor, params: Iterator[Tensor], dtype=None) -> dict[int, int]:
    """The bytes of each storage that is saved for the backward pass, but for the parameters'."""
    sizes, known = {}, {p.untyped_storage().data_ptr() for p in params}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    autocast = torch.autocast("cpu", dtype) if dtype else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        function(x)
    return sizes

"""Where a comparison runs."""

from __future__ import annotations

from benchmarks.comparison import BenchmarkError


def choose_device(name: str | None = None) -> str:
    """Check a device, or choose the GPU where there is one.

    Args:
        name: in torch's words; None chooses.

    Raises:
        BenchmarkError: torch does not know or does not have it.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # without CUDA, torch asserts
        first = str(error).partition("\n")[0]
        raise BenchmarkError(
            f"--device {name} cannot be used: {first}; --device cpu can"
        ) from error
    return name

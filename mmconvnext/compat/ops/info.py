"""What mmcv's report of the environment prints about its operators."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["get_compiler_version", "get_compiling_cuda_version"]


def get_compiler_version() -> str:
    """Say that nothing was compiled and where the operators come from."""
    try:
        return f"none (operators from torchvision {version('torchvision')} through mmconvnext)"
    except PackageNotFoundError:
        return "none (and torchvision is not installed)"


def get_compiling_cuda_version() -> str:
    """Say that mmcv was not compiled for CUDA."""
    return "not compiled"

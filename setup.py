"""The package for people who install it into an environment of their own (`pip install -e .`).

The project's own environment is made by `make setup`, with the pins of requirements.txt.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Returns the version as text: importing the package would need torch and MMDetection."""
    init = ROOT / "mmconvnext" / "__init__.py"
    match = re.search(r"""^__version__ = ["']([^"']+)["']""", init.read_text("utf-8"), re.M)
    if match is None:
        raise RuntimeError(f"{init} has no line like __version__ = '0.1.0': add it")
    return match[1]


def read_readme() -> str:
    """Returns the README, or nothing where a copy of the sources lacks it."""
    readme = ROOT / "README.md"
    return readme.read_text("utf-8") if readme.exists() else ""


setup(
    name="mmconvnext",
    version=read_version(),
    description="ConvNeXt backbones and layer-wise learning-rate decay for MMDetection 3.x",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["object detection", "instance segmentation", "ConvNeXt", "MMDetection", "COCO"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    packages=find_packages(include=["mmconvnext", "mmconvnext.*"]),
    # mmengine calls pkgutil.find_loader, which Python 3.14 no longer has.
    python_requires=">=3.10,<3.14",
    # Neither mmcv nor mmcv-lite: they share their files, so requiring one of them would
    # overwrite the other. Who has none of them takes the extra `lite`.
    install_requires=[
        # torch.serialization.safe_globals with names of one's own, which safe checkpoints need.
        "torch>=2.6",
        "mmengine>=0.10.4,<1",
        "mmdet>=3.3,<4",
        "numpy",
        "pycocotools",
        # mmengine imports pkg_resources to find `mmdet::` configs.
        "setuptools<81",
    ],
    extras_require={
        # torchvision's kernels stand in for the compiled part that mmcv-lite lacks.
        "lite": ["mmcv-lite>=2.0,<2.2", "torchvision"],
        # COCO's numbers in a fraction of the time.
        "fast": ["hotcoco>=1.3,<2"],
        # timm:// and hf:// names, and .safetensors files.
        "weights": ["huggingface_hub", "safetensors", "timm>=1.0"],
        "test": ["pytest", "hypothesis", "ruff", "timm>=1.0", "torchvision"],
    },
)

"""mmpretrain's ConvNeXt as an independent implementation, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("mmpretrain_features.py")
# Where `make setup` puts it.
FOLDER = Path(sys.prefix) / "peers" / "mmpretrain"


def run(spec: dict, seed: int = 0) -> dict:
    """Run mmpretrain's ConvNeXt on random weights and a random image, or skip the test.

    Args:
        spec: ``depths`` and ``widths``, and what differs from V1 as a detector's backbone:
            ``use_grn``, ``layer_scale`` (0 for none), ``detector`` (False for a classifier's).
        seed: of weights and image.

    Returns:
        ``state_dict``; ``input`` (N, 3, H, W); ``stages``, the feature map after each stage,
        without output norm; ``outputs``, what the backbone returns.
    """
    if not FOLDER.is_dir():
        pytest.skip(f"mmpretrain is not in {FOLDER}: `make setup` puts it there")
    spec = {"use_grn": False, "layer_scale": 1.0, "detector": True, **spec}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.pth"
        result = subprocess.run(
            [sys.executable, "-W", "ignore", SCRIPT, json.dumps(spec), str(seed), path],
            # In place of the caller's own: nothing else may come before the environment.
            env={**os.environ, "PYTHONPATH": str(FOLDER)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, f"mmpretrain did not run: {result.stderr[-2000:]}"
        return torch.load(path, weights_only=True)

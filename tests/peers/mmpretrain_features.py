"""What mmpretrain's ConvNeXt computes with random weights, written to a file.

To be run by `mmpretrain_peer.py`, in a process of its own and with mmpretrain's folder in
PYTHONPATH: mmpretrain cannot be imported where transformers can, as in the tests' own process. It
imports nothing of ours, neither the package nor other tests (a package in that folder brings a
module `tests`).

    python mmpretrain_features.py SPEC SEED FILE

SPEC is a JSON object: depths, widths, use_grn, layer_scale (the initial value, 0 for none), and
detector, true for the four normalised feature maps that a detector takes, false for mmpretrain's
default, the normalised mean of the last.
"""

import importlib
import json
import sys

import torch
from torch import Tensor, nn

IMAGE = (2, 3, 64, 96)


def build(spec: dict) -> nn.Module:
    """Build mmpretrain's backbone, in evaluation mode."""
    backbone = importlib.import_module("mmpretrain.models.backbones.convnext").ConvNeXt
    outputs = {"out_indices": [0, 1, 2, 3], "gap_before_final_norm": False}
    model = backbone(
        arch={"depths": spec["depths"], "channels": spec["widths"]},
        use_grn=spec["use_grn"],
        layer_scale_init_value=spec["layer_scale"],
        **(outputs if spec["detector"] else {}),
    )
    model.eval()
    return model


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter a value that it would be noticed by."""
    for name, param in model.named_parameters():
        noise = torch.randn(param.shape, generator=generator)
        if name.endswith("gamma"):
            param.copy_(0.5 + 0.1 * noise)
        elif param.ndim > 1:
            param.copy_(noise / param[0].numel() ** 0.5)
        else:  # biases, and the norms' weights
            param.copy_(0.1 * noise + name.endswith("weight"))


def stage_maps(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the feature map after each stage, before any output norm."""
    maps = []
    for downsample, stage in zip(model.downsample_layers, model.stages, strict=True):
        x = stage(downsample(x))
        maps.append(x)
    return maps


@torch.no_grad()
def main(spec: str, seed: str, path: str) -> None:
    model = build(json.loads(spec))
    generator = torch.Generator().manual_seed(int(seed))
    randomise(model, generator)
    image = torch.randn(IMAGE, generator=generator)
    features = {
        "state_dict": dict(model.state_dict()),
        "input": image,
        "stages": stage_maps(model, image),
        "outputs": list(model(image)),
    }
    torch.save(features, path)


if __name__ == "__main__":
    main(*sys.argv[1:])

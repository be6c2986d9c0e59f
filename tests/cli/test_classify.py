"""`mmconvnext classify` on made-up folders whose classes are colours."""

import json

import pytest
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ImageNetInfo

from mmconvnext import cli

# fewer than five would make top-5 certain
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of 1K and 22K, right on pictures of one colour; a folder of a class a colour."""
    from timm.models.convnext import ConvNeXt

    root = tmp_path_factory.mktemp("classify")
    torch.manual_seed(0)
    model = ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), num_classes=1000).eval()
    mean, std = (torch.tensor(v) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    x = (torch.tensor(COLOURS) / 255 - mean) / std
    with torch.no_grad():
        for layer in (*model.stem.modules(), *(s.downsample[1] for s in list(model.stages)[1:])):
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.normal_(std=0.3)
        pooled = model.forward_head(
            model.forward_features(x[:, :, None, None].expand(-1, -1, 224, 224)), pre_logits=True
        )
        state = model.state_dict()
        head = torch.zeros(1000, pooled.shape[1])
        bias = torch.full((1000,), -1e4)
        # the nearest prototype
        head[: len(x)], bias[: len(x)] = pooled, -0.5 * pooled.square().sum(1)
        state.update({"head.fc.weight": head, "head.fc.bias": bias})
        torch.save(state, root / "1k.pth")
        places = ImageNetInfo("imagenet-22k").label_names()
        wnids = ImageNetInfo("imagenet-1k").label_names()
        big = torch.zeros(21841, pooled.shape[1]), torch.full((21841,), 1e4)
        for i, wnid in enumerate(wnids):
            if wnid in places:
                big[0][places.index(wnid)], big[1][places.index(wnid)] = head[i], bias[i]
        torch.save({**state, "head.fc.weight": big[0], "head.fc.bias": big[1]}, root / "22k.pth")
    for wnid, colour in zip(wnids, COLOURS, strict=False):
        folder = root / "data" / "val" / wnid
        folder.mkdir(parents=True)
        for name in "ab":
            Image.new("RGB", (40, 30), colour).save(folder / f"{name}.JPEG", quality=95)
    return root


def run(capsys, *arguments, code=0):
    assert cli.main(["classify", *map(str, arguments), "--workers", "0"]) == code
    return capsys.readouterr()


@pytest.mark.parametrize("weights", ["1k.pth", "22k.pth"])
def test_all_right(files, capsys, weights):
    out, err = run(capsys, files / weights, "--data", files / "data", "--batch", "5")
    assert "top-1 100.00 %, top-5 100.00 % of 12 pictures" in out
    assert "ImageNet's defaults, since nothing is known of these weights" in out
    assert "published: no figure" in out
    assert ("the head lacks count as wrong: n04399382" in out) == (weights == "22k.pth")
    assert "ETA" in err


def test_wrong_ones_count(files, capsys, tmp_path):
    """Two folders change places: four of twelve are wrong, and within the best five."""
    val = tmp_path / "val"
    wnids = sorted(folder.name for folder in (files / "data/val").iterdir())
    val.mkdir()
    for wnid, other in zip(wnids, [wnids[1], wnids[0], *wnids[2:]], strict=True):
        (val / wnid).symlink_to(files / "data/val" / other)
    report = tmp_path / "report.json"
    out, _ = run(capsys, files / "1k.pth", "--data", tmp_path, "--json", report)
    assert "top-1 66.67 %" in out
    written = json.loads(report.read_text())
    assert written["top1"] == pytest.approx(200 / 3)
    assert written["top5"] >= written["top1"]
    assert (written["pictures"], written["unreadable"]) == (12, [])


def test_a_limit_takes_all_classes(files, capsys):
    out, _ = run(capsys, files / "1k.pth", "--data", files / "data", "--limit", "6", "--size", "64")
    assert "of 6 pictures" in out
    assert "64 pixels" in out
    assert "but for --size" in out


def test_pictures_that_cannot_be_read(files, capsys, tmp_path):
    wnid = min(folder.name for folder in (files / "data/val").iterdir())
    (tmp_path / wnid).mkdir()
    whole = (files / "data/val" / wnid / "a.JPEG").read_bytes()
    (tmp_path / wnid / "whole.JPEG").write_bytes(whole)
    (tmp_path / wnid / "half.JPEG").write_bytes(whole[: len(whole) // 2])
    out, _ = run(capsys, files / "1k.pth", "--data", tmp_path, code=1)
    assert "top-1 100.00 %, top-5 100.00 % of 1 pictures" in out
    assert f"cannot be read, left out: {tmp_path / wnid / 'half.JPEG'}: " in out


def test_the_published_figure(files, capsys, tmp_path):
    path = tmp_path / "convnext_tiny_1k_224_ema.pth"  # by its name alone
    path.symlink_to(files / "1k.pth")
    out, _ = run(capsys, path, "--data", files / "data", "--limit", "2")
    assert "published: top-1 82.1 % (README of facebookresearch/ConvNeXt, of 50,000 pict" in out
    assert "difference" not in out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--batch", "0"], "--batch 0 must be 1 or more"),
        (["--limit", "0"], "--limit 0 must be 1 or more"),
        (["--size", "8"], "--size 8 is less than 32"),
        (["--data", "absent"], "--data absent is no folder; give one of the layout val/<wnid>"),
    ],
)
def test_wrong_inputs(files, capsys, options, says):
    _, err = run(capsys, files / "1k.pth", "--data", files / "data", *options, code=1)
    assert err.startswith(f"error: {says}")

"""Each start costs seconds: what needs no command line is tested in the rooms behind it."""

import json

import pytest
import torch

from mmconvnext.compat import read_checkpoint
from mmconvnext.models import ConvNeXt

CONFIG = "configs/mask_rcnn_convnextv2_atto_coco.py"
CHECKPOINT = "model.backbone.init_cfg.checkpoint"
NAMES = {"dwconv": "depthwise_conv", "pwconv": "pointwise_conv"}


def theirs(name):
    for ours, other in NAMES.items():
        name = name.replace(ours, other)
    return name


@pytest.fixture(scope="module")
def state():
    return ConvNeXt("atto", use_grn=True, layer_scale_init_value=0.0).state_dict()


@pytest.fixture(scope="module")
def path(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    file = {f"backbone.{theirs(k)}": v for k, v in state.items()}
    torch.save({"state_dict": file, "optimizer": {"m": torch.ones(2)}}, path)
    return path


def succeeded(process):
    assert process.returncode == 0, process.stderr
    return process.stdout


def failed(process):
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-2].startswith("error: ")
    return process.stderr


def test_inspect_prints_and_writes_what_the_file_is(run_tool, path, state, tmp_path):
    written = tmp_path / "new" / "found.json"
    output = succeeded(run_tool("weights.py", "inspect", path, "--json", written))
    content = json.loads(written.read_text())
    assert content["configs"] == [CONFIG.removeprefix("configs/")]
    assert content["tensors"] == len(state)
    assert content["other_parts"] == {"optimizer": 1}
    for fact in ("mmpretrain", "V2 atto", content["sha256"], content["configs"][0]):
        assert f" {fact} " in output
    assert output.splitlines()[-1] == f"written to {written}"


def test_convert_writes_and_does_not_overwrite(run_tool, path, state, tmp_path):
    out = tmp_path / "out.safetensors"
    output = succeeded(run_tool("weights.py", "convert", path, out))
    assert output == f"mmpretrain layout -> ours: {len(state)} tensors written to {out}\n"
    tensors = read_checkpoint(out)
    assert tensors.keys() == {f"backbone.{k}" for k in state}
    assert all(torch.equal(tensors[f"backbone.{k}"], v) for k, v in state.items())
    # refused before the source, which may be a long download
    again = failed(run_tool("weights.py", "convert", tmp_path / "none.pth", out))
    assert f"{out} is there already" in again


def test_list_shows_what_is_known(run_tool):
    lines = succeeded(run_tool("weights.py", "list", "nano")).splitlines()
    columns = ["name, sources", "arch", "top-1", "pretraining", "licence"]
    assert [column.strip() for column in lines[0].split("  ") if column] == columns
    assert max(map(len, lines)) <= 120
    assert all("nano" in line for line in lines if "://" in line)
    start = next(i for i, s in enumerate(lines) if s.startswith("convnextv2_nano_1k_224_ema "))
    for fact in ("nano V2", "81.9%", "FCMAE, then ImageNet-1K,", "CC-BY-NC 4.0"):
        assert f"  {fact}" in lines[start]
    host = "https://dl.fbaipublicfiles.com/convnext/convnextv2/im1k"
    assert f"  {host}/convnextv2_nano_1k_224_ema.pt" in lines
    assert "  hf://facebook/convnextv2-nano-1k-224" in lines


def test_list_of_nothing_is_an_error(run_tool):
    error = failed(run_tool("weights.py", "list", "nothing_like_it"))
    assert "no known weights have 'nothing_like_it' in any of their facts" in error


def test_verify_reports_the_load(run_tool, path):
    process = run_tool("weights.py", "verify", CONFIG, "--cfg-options", f"{CHECKPOINT}={path}")
    succeeded(process)
    (line,) = (process.stdout + process.stderr).splitlines()
    assert "backbone: loaded 144 of 144 tensors (100.00% of the parameters)" in line
    assert f"from {path} (mmpretrain layout, V2 atto)" in line


def test_verify_of_a_misfit_fails(run_tool, path):
    options = [f"{CHECKPOINT}={path}", "model.backbone.arch=femto"]
    error = failed(run_tool("weights.py", "verify", CONFIG, "--cfg-options", *options))
    assert f"error: cannot load the backbone from {path} (mmpretrain layout, V2 atto)" in error
    assert (
        "The file is V2 atto, the backbone V2 femto: set arch='atto', the neck's in_channels="
        in error
    )


def test_verify_without_weights_says_so(run_tool):
    options = ["--cfg-options", "model.backbone.init_cfg=None"]
    output = succeeded(run_tool("weights.py", "verify", CONFIG, *options))
    assert output == f"{CONFIG} names no weights: its backbone starts from random ones\n"

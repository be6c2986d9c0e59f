"""Each command from its arguments to what it prints; train and test: tests/tools."""

import json

import pytest
import torch

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.data import CLASSES
from mmconvnext.models import ConvNeXt

ATTO = "mask_rcnn_convnextv2_atto_coco.py"
DATA = ["--data-root", "data"]
OFF = ("--data-checks", "off")
CHECKPOINT = "model.backbone.init_cfg.checkpoint"
THEIRS = {"dwconv": "depthwise_conv", "pwconv": "pointwise_conv"}


def cells(output: str) -> dict[str, list[str]]:
    lines = (line.strip("|").split("|") for line in output.splitlines() if line.startswith("|"))
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


# flops


def test_flops_prints_parts_sum_and_protocol(main):
    output = main("flops", "mask_rcnn_convnext_t_coco.py")
    rows = cells(output)
    assert rows["sum"] == ["48.1", "261.9"]
    assert rows["backbone"] == ["27.8", "90.9"]
    assert "800x1280 (height x width), 1000 proposals" in output
    assert "100 RoIs through each mask head" in output


def test_flops_with_settings_and_a_file(main, tmp_path):
    path = tmp_path / "new" / "cost.json"
    options = ["--cfg-options", "model.backbone.arch=small", "modle.a=1"]
    options += ["--shape", 64, 96, "--json", path]
    output = main("flops", "mask_rcnn_convnext_t_coco.py", *options)
    assert f"written to {path}" in output
    assert output.endswith(
        "--cfg-options: modle.a is new, the config had no such key (did you mean model.a?)\n"
    )
    content = json.loads(path.read_text())
    assert content["shape"] == [64, 96]
    assert content["parts"][0]["name"] == "backbone"
    assert content["parts"][0]["params"] == 49_456_032
    assert cells(output)["sum"][1] == f"{content['flops'] / 1e9:.1f}"


# make-shapes


def test_make_shapes_makes_the_data_set_and_counts_it(main, tmp_path):
    rows = cells(main("make-shapes", tmp_path, "--train", 8, "--val", 3, "--size", 96))
    content = json.loads((tmp_path / "annotations" / "instances_train.json").read_text())
    assert rows["images"] == ["8", "3"]
    for index, name in enumerate(CLASSES):
        objects = (a for a in content["annotations"] if a["category_id"] == index + 1)
        assert rows[name][0] == str(sum(not each["iscrowd"] for each in objects))


# mistakes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["flops", "configs/none.py"], "no config file configs/none.py"),
        (["flops", ATTO, "--shape", 0, 64], "shape=(0, 64) must be two positive integers"),
        (["make-shapes", "{}", "--size", 3], "image_size=3 must be an integer of at least 64"),
        (["make-shapes", "{}", "--size", 64], "has other files: data (2 in all)"),
        (["weights", "list", "nothing_like_it"], "have 'nothing_like_it' in any of their facts"),
        (["weights", "inspect", "{}/none.pth"], "there is no checkpoint"),
        (["train", "no_such.py"], "no config file no_such.py"),
        (["train", ATTO, "--data-root", "/no/such"], "the data folder /no/such does not exist"),
        (["train", ATTO, *DATA, "--resume", "no.pth"], "there is no checkpoint no.pth"),
        (["test", ATTO, "no.pth", *DATA], "there is no checkpoint no.pth"),
        (
            ["test", ATTO, "thesis.txt", "--out", "a.json"],
            "--out a.json: the file must end in .pkl",
        ),
        (
            [
                "train",
                ATTO,
                *DATA,
                "--data-checks",
                "off",
                "--cfg-options",
                "model.backbone.arch=tinny",
            ],
            "arch='tinny' is not a ConvNeXt variant",
        ),
        (
            ["train", ATTO, *DATA, "--from-scratch", "--cfg-options", "experiment_name=broken"],
            "instances_train2017.json: not COCO: it has no list 'images'",
        ),
    ],
)
def test_mistakes_are_one_message(main, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMCONVNEXT_TRACEBACK", raising=False)
    (tmp_path / "thesis.txt").write_text("mine")
    for folder in ("annotations", "train2017", "val2017"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for split in ("train", "val"):
        path = tmp_path / "data" / "annotations" / f"instances_{split}2017.json"
        path.write_text('{"shapes": []}')
    arguments = [str(argument).format(tmp_path) for argument in arguments]
    assert says in main(*arguments, code=1)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


# weights


@pytest.fixture(scope="module")
def state():
    return ConvNeXt("atto", use_grn=True, layer_scale_init_value=0.0).state_dict()


@pytest.fixture(scope="module")
def path(state, tmp_path_factory):
    """A file in mmpretrain's layout."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    file = {}
    for name, value in state.items():
        for ours, theirs in THEIRS.items():
            name = name.replace(ours, theirs)
        file[f"backbone.{name}"] = value
    torch.save({"state_dict": file, "optimizer": {"m": torch.ones(2)}}, path)
    return path


def test_inspect_prints_and_writes_what_the_file_is(main, path, state, tmp_path):
    written = tmp_path / "new" / "found.json"
    output = main("weights", "inspect", path, "--json", written)
    content = json.loads(written.read_text())
    assert content["configs"] == [ATTO]
    assert content["tensors"] == len(state)
    assert content["other_parts"] == {"optimizer": 1}
    for fact in ("mmpretrain", "V2 atto", content["sha256"], ATTO):
        assert f" {fact} " in output
    assert output.splitlines()[-1] == f"written to {written}"


def test_convert_writes_and_does_not_overwrite(main, path, state, tmp_path):
    out = tmp_path / "out.safetensors"
    output = main("weights", "convert", path, out)
    assert output == f"mmpretrain layout -> ours: {len(state)} tensors written to {out}\n"
    tensors = read_checkpoint(out)
    assert tensors.keys() == {f"backbone.{k}" for k in state}
    assert all(torch.equal(tensors[f"backbone.{k}"], v) for k, v in state.items())
    # refused before the source, which may be a long download
    again = main("weights", "convert", tmp_path / "none.pth", out, code=1)
    assert f"{out} is there already" in again


def test_list_shows_the_zoo(main):
    lines = main("weights", "list", "nano").splitlines()
    assert max(map(len, lines)) <= 120
    assert all("nano" in line for line in lines if "://" in line)
    start = next(i for i, s in enumerate(lines) if s.startswith("convnextv2_nano_1k_224_ema "))
    for fact in ("nano V2", "81.9%", "FCMAE, then ImageNet-1K,", "CC-BY-NC 4.0"):
        assert f"  {fact}" in lines[start]
    host = "https://dl.fbaipublicfiles.com/convnext/convnextv2/im1k"
    assert f"  {host}/convnextv2_nano_1k_224_ema.pt" in lines
    assert "  hf://facebook/convnextv2-nano-1k-224" in lines


def test_verify_reports_the_load(main, path, lines):
    main("weights", "verify", ATTO, "--cfg-options", f"{CHECKPOINT}={path}")
    (line,) = lines()
    assert "backbone: loaded 144 of 144 tensors (100.00% of the parameters)" in line
    assert f"from {path} (mmpretrain layout, V2 atto)" in line


def test_verify_of_a_misfit_fails(main, path):
    options = [f"{CHECKPOINT}={path}", "model.backbone.arch=femto"]
    error = main("weights", "verify", ATTO, "--cfg-options", *options, code=1)
    assert f"error: cannot load the backbone from {path} (mmpretrain layout, V2 atto)" in error
    assert "The file is V2 atto, the backbone V2 femto: set arch='atto'" in error


def test_verify_without_weights_says_so(main):
    output = main("weights", "verify", ATTO, "--cfg-options", "model.backbone.init_cfg=None")
    assert output == f"{ATTO} names no weights: its backbone is randomly initialised\n"

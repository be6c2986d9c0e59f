"""The parts of layouts.py that no library's checkpoint shows; test_layouts.py has the rest."""

import pytest
import torch

from mmconvnext.weights.layouts import LAYOUTS, convert, find_backbone, flatten

ONE = torch.ones(1)
DEPTHWISE = {"timm": "stages.0.blocks.0.conv_dw.weight", "sparse": "stages.1.0.dwconv.kernel"}


def converted(layout, tensors):
    tensors = tensors | {DEPTHWISE[layout]: torch.ones(1, 1)}
    return convert(tensors, find_backbone(tensors))


def test_nested_dicts_are_joined_by_dots_and_only_tensors_are_kept():
    file = {"a": {"b": ONE, 3: {"c": ONE}}, "epoch": 3, "names": ["x"], "d": ONE}
    assert list(flatten(file)) == ["a.b", "a.3.c", "d"]


@pytest.mark.parametrize("file", [None, [ONE], ONE, {"a": {"b": 1}}])
def test_without_tensors(file):
    with pytest.raises(ValueError, match="it has no named tensors, but a"):
        flatten(file)


@pytest.mark.parametrize("file", [{"a": {"b": ONE}, "a.b": ONE}, {1: ONE, "1": ONE}])
def test_two_tensors_of_one_flattened_name_are_an_error(file):
    with pytest.raises(ValueError, match=r"two tensors would be called (a\.b|1)$"):
        flatten(file)


def test_no_name_belongs_to_two_layouts():
    names = {
        "official": "stages.0.0.dwconv.weight",
        "official FCMAE, sparse": "stages.0.0.dwconv.kernel",
        "mmpretrain": "stages.0.0.depthwise_conv.weight",
        "timm": "stages.0.blocks.0.conv_dw.weight",
        "torchvision": "features.1.0.block.0.weight",
        "torchvision ResNet": "layer1.0.conv3.weight",
        "transformers": "encoder.stages.0.layers.0.dwconv.weight",
        "transformers DINOv3": "model.stages.0.layers.0.depthwise_conv.weight",
    }
    assert names.keys() == {layout.name for layout in LAYOUTS}
    for name, key in names.items():
        for prefix in ("", "model.", "state_dict.module.backbone."):
            found = find_backbone({prefix + key: ONE})
            assert (found.layout.name, found.prefix) == (name, prefix)


def test_of_mixed_names_the_most_frequent_layout_counts():
    tensors = {f"stages.0.{i}.dwconv.weight": ONE for i in range(3)}
    assert (
        find_backbone(tensors | {"stages.0.3.depthwise_conv.weight": ONE}).layout.name == "official"
    )


def test_two_tensors_of_one_name_are_an_error():
    with pytest.raises(ValueError, match=r"two tensors would be called norm\.weight"):
        converted("timm", {"head.norm.weight": ONE, "norm_pre.weight": ONE})


def test_sparse_kernels_run_down_the_columns():
    kernel = torch.arange(9.0).reshape(9, 1)
    weight = converted("sparse", {"stages.0.0.dwconv.kernel": kernel})["stages.0.0.dwconv.weight"]
    assert weight.shape == (1, 1, 3, 3)
    assert weight[0, 0, :, 0].tolist() == [0, 1, 2]
    dense = converted("sparse", {"downsample_layers.1.1.kernel": torch.rand(4, 3, 5)})
    assert dense["downsample_layers.1.1.weight"].shape == (5, 3, 2, 2)


@pytest.mark.parametrize("shape", [(7, 3), (4, 3, 5, 6), (9,), (), (0, 3)])
def test_sparse_kernels_of_other_shapes(shape):
    with pytest.raises(ValueError, match=r"x\.kernel has the shape .*a sparse kernel has"):
        converted("sparse", {"x.kernel": torch.ones(shape)})


def test_nothing_is_copied():
    tensors = {
        "stages.0.0.dwconv.kernel": torch.rand(49, 8),
        "stages.0.0.pwconv1.linear.bias": torch.rand(1, 32),
    }
    ours = convert(tensors, find_backbone(tensors))
    assert ours["stages.0.0.pwconv1.bias"].shape == (32,)
    for old, new in zip(tensors.values(), ours.values(), strict=True):
        assert old.untyped_storage().data_ptr() == new.untyped_storage().data_ptr()


@pytest.mark.parametrize("norms", [("norm3",), ("norm0", "norm1", "norm2", "norm3")])
def test_mmpretrains_last_norm_is_final_in_a_classifier(norms):
    tensors = {f"backbone.{n}.weight": ONE for n in norms} | {"head.fc.weight": ONE}
    tensors["backbone.stages.0.0.depthwise_conv.weight"] = ONE
    ours = convert(tensors, find_backbone(tensors))
    assert ("norm.weight" in ours) == (len(norms) == 1)
    assert ("norm3.weight" in ours) == (len(norms) == 4)

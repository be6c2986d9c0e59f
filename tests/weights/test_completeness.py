"""A kind of ConvNeXt has the tensors of the backbone of that kind."""

import pytest

from mmconvnext.models import ConvNeXt
from mmconvnext.weights.anatomy import describe
from mmconvnext.weights.completeness import expected, fault_of


@pytest.mark.parametrize("use_grn", [True, False])
@pytest.mark.parametrize(("in_channels", "kernel_size", "scale"), [(3, 7, 1e-6), (1, 5, 0.0)])
def test_names_and_shapes_are_those_of_the_backbone(use_grn, in_channels, kernel_size, scale):
    arch = {"depths": (1, 2, 3, 1), "widths": (8, 16, 24, 32)}
    settings = {"in_channels": in_channels, "kernel_size": kernel_size, "use_grn": use_grn}
    state = ConvNeXt(arch, layer_scale_init_value=scale, **settings).state_dict()
    found = expected(describe(state))
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in state.items()}
    assert fault_of(state) is None
    del state["stages.1.1.pwconv1.bias"]
    assert "stages.1.1.pwconv1.bias" in fault_of(state)
    gone = {k: v for k, v in state.items() if "layers.0.0" not in k}
    assert "the stem is missing" in fault_of(gone)

import pytest
import torch
from mmengine.logging import MMLogger

from mmconvnext.models import ConvNeXt
from mmconvnext.weights import WeightsError, load_pretrained
from mmconvnext.weights.formats import select_prefix, unwrap

SMALL = {"depths": (1, 1, 3, 1), "widths": (8, 16, 24, 32)}


def backbone(seed: int = 0, **kwargs) -> ConvNeXt:
    torch.manual_seed(seed)
    return ConvNeXt(SMALL, **kwargs)


def classifier_state(**kwargs) -> dict[str, torch.Tensor]:
    """The official classification layout: no output norms, a final norm and a head."""
    state = {
        k: v for k, v in backbone(1, **kwargs).state_dict().items() if not k.startswith("norm")
    }
    state |= {"norm.weight": torch.ones(32), "norm.bias": torch.zeros(32)}
    return state | {"head.weight": torch.zeros(10, 32), "head.bias": torch.zeros(10)}


def write(tmp_path, content) -> str:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    return str(path)


def same(model: ConvNeXt, state: dict[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return all(torch.equal(own[k], state[k]) for k in own if not k.startswith("norm"))


@pytest.fixture
def log(caplog):
    logger = MMLogger.get_instance("weights_test", log_level="INFO")
    logger.addHandler(caplog.handler)
    MMLogger.get_current_instance()
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model": s},
        lambda s: {"state_dict": s, "meta": {"epoch": 3}},
        lambda s: s,
        lambda s: {"state_dict": {f"backbone.{k}": v for k, v in s.items()}},
    ],
    ids=["official", "mmengine", "bare", "inside a detector"],
)
def test_a_classifiers_weights_all_arrive(tmp_path, wrap, log):
    state = classifier_state()
    model = backbone(init_cfg={"type": "Pretrained", "checkpoint": write(tmp_path, wrap(state))})
    model.init_weights()
    assert same(model, state)
    lines = [r.getMessage() for r in log.records if "backbone: loaded" in r.getMessage()]
    assert len(lines) == 1
    total, own = len(model.state_dict()), len(model.state_dict()) - 8
    assert f"loaded {own} of {total} tensors" in lines[0]
    assert "new, not in the file: norm0.bias" in lines[0]
    assert "not needed: head.bias, head.weight, norm.bias, norm.weight" in lines[0]


def test_an_official_detectors_backbone_arrives_with_its_norms(tmp_path):
    state = backbone(1).state_dict()
    for index in range(4):
        state[f"norm{index}.weight"] = torch.randn(SMALL["widths"][index])
    detector = {f"backbone.{k}": v for k, v in state.items()} | {"neck.w": torch.zeros(1)}
    model = backbone()
    load_pretrained(model, write(tmp_path, {"state_dict": detector}))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"type": "Constant", "layer": "LayerNorm", "val": 0.5}, "'Constant', 'layer': 'LayerN"),
        ({"type": "Pretrained", "checkpoint": "other.pth"}, "other.pth"),
    ],
)
def test_nothing_may_stand_beside_a_checkpoint(tmp_path, other, named):
    pretrained = {"type": "Pretrained", "checkpoint": write(tmp_path, classifier_state())}
    with pytest.raises(WeightsError, match=f"remove .*{named}"):
        backbone(init_cfg=[pretrained, other]).init_weights()
    backbone(init_cfg=[pretrained]).init_weights()


def test_stages_that_are_not_built_are_left_out(tmp_path):
    model = backbone(out_indices=(0, 1))
    load_pretrained(model, write(tmp_path, classifier_state()))
    assert same(model, classifier_state())


def without(key):
    return lambda s: {k: v for k, v in s.items() if k != key}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("stages.2.1.gamma"), "Missing: stages.2.1.gamma 24"),
        (lambda s: s | {"stages.2.9.gamma": torch.ones(24)}, "Unexpected: stages.2.9.gamma 24"),
        (
            lambda s: s | {"stages.0.0.pwconv1.weight": torch.ones(32, 9)},
            "Of another shape: stages.0.0.pwconv1.weight 32x9 for 32x8",
        ),
        (lambda s: {"conv1.weight": torch.ones(1), "fc.bias": torch.ones(1)}, "and 66 more"),
    ],
    ids=["missing", "unexpected", "another shape", "another architecture"],
)
def test_anything_else_is_refused_and_changes_nothing(tmp_path, change, says):
    model = backbone()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(WeightsError, match=says):
        load_pretrained(model, write(tmp_path, change(classifier_state())))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_v2_weights_do_not_fit_v1(tmp_path):
    path = write(tmp_path, classifier_state(use_grn=True, layer_scale_init_value=0))
    with pytest.raises(WeightsError, match=r"Missing: stages.0.0.gamma.*Unexpected: .*grn"):
        load_pretrained(backbone(), path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": {"a": 3}}, {"epoch": 3}])
def test_a_file_without_tensors_is_refused(tmp_path, content):
    with pytest.raises(WeightsError, match="cannot load the backbone from"):
        load_pretrained(backbone(), write(tmp_path, content))


def test_prefixes():
    state = {"a.b": torch.ones(1), "backbone.c": torch.ones(1)}
    assert list(select_prefix(state, None)) == ["c"]
    assert list(select_prefix(state, "a")) == list(select_prefix(state, "a.")) == ["b"]
    assert list(select_prefix({"c": torch.ones(1)}, None)) == ["c"]
    assert list(select_prefix(state, "")) == ["a.b", "backbone.c"]


def test_unwrap_finds_the_innermost_state_dict():
    state = {"w": torch.ones(1)}
    assert unwrap({"state_dict": {"model": state}}) is state

"""Published detectors load into our configs as they are, and anything else is explained."""

from collections import OrderedDict
from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor

from mmconvnext.engine.config import drop_pretrained
from mmconvnext.errors import WeightsError
from mmconvnext.variants import VARIANTS
from mmconvnext.weights.detector import checkpoint_classes, load_matched, match_detector
from tests.weights.server import sha256
from tests.weights.small_files import (
    CONFIGS,
    backbone_part,
    detector,
    in_mmpretrains_names,
    same_tensors,
)

# Of the 334 names and shapes of the official Cascade Mask R-CNN with ConvNeXt-T.
WRITTEN_DOWN = "f93abf91f6455a3ad45ff7c8d5e4e046c8eb7713ae9f1d8e29c2de53f6dbcdec"
ZOO = Path(mmdet.__file__).parent / ".mim" / "configs" / "convnext"
ZOO_CASCADE = "cascade-mask-rcnn_convnext-{}-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py"
DETECTORS = {
    "cascade_convnext_t_coco": ("tiny", ZOO_CASCADE.format("t")),
    "cascade_convnext_s_coco": ("small", ZOO_CASCADE.format("s")),
    "mask_rcnn_convnext_t_coco": ("tiny", "mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py"),
}

# Names by FACTS section 5, independent of our modules.
OFFICIAL = {"dw": "dwconv", "pw": "pwconv"}
MMPRETRAIN = {"dw": "depthwise_conv", "pw": "pointwise_conv"}


def backbone_shapes(arch: str, names: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a detector's V1 backbone."""
    depths, widths = VARIANTS[arch]
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    for s, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        norm, conv = (1, 0) if s == 0 else (0, 1)
        before, size = (3, 4) if s == 0 else (widths[s - 1], 2)
        add(f"downsample_layers.{s}.{conv}", width, before, size, size)
        add(f"downsample_layers.{s}.{norm}", width if s == 0 else before)
        for b in range(depth):
            block = f"stages.{s}.{b}"
            shapes[f"{block}.gamma"] = (width,)
            add(f"{block}.{names['dw']}", width, 1, 7, 7)
            add(f"{block}.norm", width)
            add(f"{block}.{names['pw']}1", 4 * width, width)
            add(f"{block}.{names['pw']}2", width, 4 * width)
        add(f"norm{s}", width)
    return {f"backbone.{k}": v for k, v in shapes.items()}


def rest_shapes(config: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of neck and heads, from MMDetection's own config and modules."""
    cfg = Config.fromfile(ZOO / config, import_custom_modules=False).model
    cfg.backbone = {"type": "ResNet", "depth": 18}  # mmpretrain's is not at hand
    with torch.device("meta"):
        state = MODELS.build(cfg).state_dict()
    return {k: tuple(v.shape) for k, v in state.items() if not k.startswith("backbone.")}


def published(name: str, layout: dict[str, str]) -> dict[str, tuple[int, ...]]:
    arch, config = DETECTORS[name]
    return backbone_shapes(arch, layout) | rest_shapes(config)


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        k: torch.tensor(7) if k.endswith("tracked") else torch.rand(v, generator=generator)
        for k, v in shapes.items()
    }


def ours(name: str, **roi_head) -> torch.nn.Module:
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    drop_pretrained(cfg)
    cfg.model.roi_head.update(roi_head)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    return model.to_empty(device="cpu")


def test_the_official_cascade_t_is_written_down():
    shapes = published("cascade_convnext_t_coco", OFFICIAL)
    lines = [f"{k} {'x'.join(map(str, v)) or 'scalar'}" for k, v in shapes.items()]
    assert len(lines) == 334
    assert sha256("\n".join(lines).encode()) == WRITTEN_DOWN


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("layout", [OFFICIAL, MMPRETRAIN], ids=["official", "mmpretrain"])
def test_published_detectors_load_strictly(name, layout, lines):
    state = random_state(published(name, layout))
    checkpoint = {"meta": {"epoch": 36}, "state_dict": OrderedDict(state), "optimizer": {}}
    model = ours(name)
    load_matched(model, *match_detector(model, checkpoint, "FILE", must_fill=True), strict=True)
    for key, value in model.state_dict().items():
        old = key
        if key.startswith("backbone."):
            old = key.replace("dwconv", layout["dw"]).replace("pwconv", layout["pw"])
        assert torch.equal(value, state[old]), key
    (line,) = lines()
    number = sum(k.startswith("backbone.") for k in state)
    assert f"backbone: loaded {number} of {number} tensors (100.00% of the parameters)" in line


def test_mmengines_own_loading_converts_too(lines):
    """As MMDetection's tools and inferencers do it."""
    state = random_state(published("cascade_convnext_t_coco", MMPRETRAIN))
    model = ours("cascade_convnext_t_coco")
    load_state_dict(model, OrderedDict(state), strict=True)
    mine = model.backbone.stages[2][8].pwconv1.weight
    assert torch.equal(mine, state["backbone.stages.2.8.pointwise_conv1.weight"])
    assert "from a state dict (mmpretrain layout, V1 tiny)" in lines()[0]


# What does not fit, on a small detector


@pytest.fixture
def state() -> dict[str, Tensor]:
    return dict(detector().state_dict())


WRAPPED = {
    "bare": dict,
    "state_dict": lambda s: {"state_dict": s},
    "model": lambda s: {"model": s},
    "module.": lambda s: {f"module.{k}": v for k, v in s.items()},
    "torch.compile": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "module.model": lambda s: {"state_dict": {f"module.model.{k}": v for k, v in s.items()}},
    "student and teacher": lambda s: {
        "student": s,
        "teacher": {k: v * 0 for k, v in s.items() if v.is_floating_point()},
    },
    "with an optimizer": lambda s: {"model": s, "optimizer": {"state": {0: {"x": torch.ones(1)}}}},
}


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("must_fill", [False, True])
def test_the_whole_of_it_fits(state, wrap, must_fill):
    wrapper = torch.nn.parallel.DataParallel(detector())
    matched = match_detector(wrapper, WRAPPED[wrap](state), "FILE", must_fill=must_fill)
    assert same_tensors(matched.state_dict, state)


def test_files_from_before_batches_were_counted(state):
    older = {k: v for k, v in state.items() if "num_batches" not in k}
    assert len(older) < len(state)
    matched = match_detector(detector(), older, "FILE", must_fill=True)
    assert matched.state_dict.keys() == older.keys()


CHANGES = {
    "a head is missing": (
        lambda s: {k: v for k, v in s.items() if not k.startswith("roi_head.mask")},
        r"FILE does not fit the model: \d+ of \d+ tensors are missing \(roi_head\.mask_head",
        "parts",
    ),
    "another shape": (
        lambda s: s | {"neck.fpn_convs.0.conv.weight": torch.zeros(64, 64, 1, 1)},
        r"1 of \d+ tensors have another shape \(neck\.fpn_convs\.0\.conv\.weight 64x64x1x1 for 64x",
        None,
    ),
    "other classes": (
        lambda s: dict(detector(5).state_dict()),
        r"6 of \d+ tensors have another first axis .*fc_cls\.weight 6x256 for 4x256",
        "num_classes",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("must_fill", [False, True])
def test_what_does_not_fit_is_named(state, change, must_fill):
    changed, says, fix = CHANGES[change]
    with pytest.raises(WeightsError, match=says) as caught:
        match_detector(detector(), changed(state), "FILE", must_fill=must_fill)
    advised = bool(fix) and not must_fill  # a test cannot do without
    assert (f"load_adapt=['{fix}']" in str(caught.value)) == advised


@pytest.mark.parametrize("change", [c for c in CHANGES if CHANGES[c][2]])
def test_on_request_it_is_adapted_and_said(state, change, notes):
    changed, _, fix = CHANGES[change]
    model = detector()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    file = changed(state)
    matched = match_detector(model, file, "FILE", [fix])
    load_matched(model, *matched)
    for key, value in model.state_dict().items():
        fits = key in file and file[key].shape == value.shape
        assert torch.equal(value, file[key] if fits else before[key])
    assert any(f"randomly initialised, as load_adapt has '{fix}'" in note for note in notes())
    with pytest.raises(WeightsError):  # a test cannot do without
        match_detector(model, file, "FILE", [fix], must_fill=True)


def test_a_backbone_that_is_missing_needs_a_request(state, notes):
    file = {k: v for k, v in state.items() if not k.startswith("backbone.")}
    with pytest.raises(WeightsError, match="the backbone from FILE: it has nothing of that name"):
        match_detector(detector(), file, "FILE")
    model = detector()
    matched = match_detector(model, file, "FILE", ["parts"])
    assert matched.state_dict.keys() == file.keys()
    load_matched(model, *matched)
    assert "backbone: not in FILE, randomly initialised, as load_adapt has 'parts'" in notes()


def test_output_norms_may_be_new_in_a_training_but_not_in_a_test(state):
    file = {k: v for k, v in state.items() if not k.startswith("backbone.norm")}
    assert match_detector(detector(), file, "FILE").state_dict.keys() == file.keys()
    with pytest.raises(WeightsError, match=r"8 of \d+ tensors are missing"):
        match_detector(detector(), file, "FILE", must_fill=True)


def test_other_channels_are_adapted_on_request(state):
    grey = detector(in_channels=1)
    with pytest.raises(WeightsError, match="in_channels is 3 in the file and 1 in the backbone"):
        match_detector(grey, state, "FILE")
    matched = match_detector(grey, state, "FILE", ["in_channels"])
    assert matched.state_dict["backbone.downsample_layers.0.0.weight"].shape[1] == 1


def test_tensors_that_the_model_has_not_are_said(state, notes):
    matched = match_detector(detector(), state | {"ema.w": torch.ones(1)}, "FILE", must_fill=True)
    assert matched.state_dict.keys() == state.keys()
    assert "FILE: 1 tensors of it are not in the model (ema.w)" in notes()


@pytest.mark.parametrize("wrap", [dict, lambda s: {"model": s}])
def test_a_backbone_alone_fills_the_backbone(state, wrap, notes):
    part = backbone_part(state)
    model = detector()
    matched = match_detector(model, wrap(part), "timm://x")
    assert matched.state_dict.keys() == {k for k in state if k.startswith("backbone.")}
    load_matched(model, *matched)
    assert "timm://x has a backbone alone: all else is randomly initialised" in notes()
    with pytest.raises(WeightsError, match="timm://x has a backbone alone, not a detector: train"):
        match_detector(detector(), wrap(part), "timm://x", must_fill=True)


@pytest.mark.parametrize("content", [{}, [1], {"state_dict": {}}, {"a": torch.ones(1)}])
@pytest.mark.parametrize("must_fill", [False, True])
def test_a_file_of_something_else(content, must_fill):
    with pytest.raises(WeightsError, match="cannot load the backbone from FILE"):
        match_detector(detector(), content, "FILE", must_fill=must_fill)


def test_a_classifier_fills_the_backbone(state, notes):
    """In a detector's names, as mmpretrain's files and our own have it."""
    part = {k: v for k, v in state.items() if k.startswith("backbone.") and ".norm3" not in k}
    file = {"state_dict": part | {"head.fc.weight": torch.ones(3, 256)}}
    matched = match_detector(detector(), file, "FILE")
    assert matched.state_dict.keys() == part.keys()
    assert "FILE has a backbone alone: all else is randomly initialised" in notes()


def test_two_detectors_in_a_file_are_no_choice_of_ours(state):
    says = "FILE: several models; it has one under 'rgb.', 'depth.': give a file with one of them"
    with pytest.raises(WeightsError, match=f"cannot load the backbone from {says}"):
        match_detector(detector(), {"rgb": state, "depth": state}, "FILE")


def test_several_backbones_need_their_names(state):
    two = torch.nn.ModuleDict({"student": detector(), "teacher": detector()})
    file = {f"{who}.{k}": v for who in two for k, v in state.items()}
    assert match_detector(two, file, "FILE").state_dict.keys() == two.state_dict().keys()
    with pytest.raises(WeightsError, match=r"the student\.backbone from FILE: it has nothing"):
        match_detector(two, state, "FILE")


def test_unknown_adaptations_are_refused(state):
    with pytest.raises(WeightsError, match=r"load_adapt=\['heads'\] must be a list out of in_ch"):
        match_detector(detector(), state, "FILE", ["heads"])


def test_a_converted_detector_predicts_the_same(state):
    theirs = in_mmpretrains_names(state)
    assert theirs.keys() != state.keys()
    results = []
    for file in (state, theirs):
        model = detector().eval()
        load_matched(model, *match_detector(model, file, "FILE", must_fill=True), strict=True)
        data = demo_mm_inputs(1, [[3, 64, 96]], num_classes=3, with_mask=True)
        with torch.no_grad():
            results.append(model.test_step(data)[0].pred_instances)
    assert torch.equal(results[0].bboxes, results[1].bboxes)
    assert torch.equal(results[0].scores, results[1].scores)


def test_rows_of_classes_that_both_know_are_kept(notes):
    old, new = ("cat", "dog", "cow"), ("horse", "cow", "cat", "pig", "hen")
    torch.manual_seed(0)
    given, model = detector(3), detector(5)
    state, before = given.state_dict(), {k: v.clone() for k, v in model.state_dict().items()}
    matched = match_detector(model, state, "FILE", ["num_classes"], classes=(old, new))
    load_matched(model, *matched)
    after = model.state_dict()
    head = "roi_head.bbox_head"
    for key, width, last in (
        (f"{head}.fc_cls.weight", 1, True),
        (f"{head}.fc_cls.bias", 1, True),
        (f"{head}.fc_reg.weight", 4, False),
        ("roi_head.mask_head.conv_logits.weight", 1, False),
    ):
        # both sides by class: horse, pig and hen keep what they had
        mine, theirs = after[key].unflatten(0, (-1, width)), state[key].unflatten(0, (-1, width))
        assert torch.equal(mine[1], theirs[2])
        assert torch.equal(mine[2], theirs[0])
        untouched = before[key].unflatten(0, (-1, width))
        assert all(torch.equal(mine[i], untouched[i]) for i in (0, 3, 4))
        assert not last or torch.equal(mine[5], theirs[3])
    says = "rows of 2 of 5 classes are kept in 6 tensors, those of 'cow', 'cat'; the other"
    assert any(says in note for note in notes())


@pytest.mark.parametrize(
    ("new", "says"),
    [(("pig",), "0 of 1 classes have a name that it knows: no row"), (("a", "b", "cat"), "1 of 3")],
)
def test_other_classes_give_no_rows(new, says, notes):
    model = detector(len(new))
    classes = (("cat", "dog", "cow"), new)
    match_detector(model, detector(3).state_dict(), "FILE", ["num_classes"], classes=classes)
    assert any(says in note for note in notes())


@pytest.mark.parametrize(
    ("content", "classes"),
    [
        ({"meta": {"dataset_meta": {"classes": ("cat",)}}}, ("cat",)),
        ({"meta": {"CLASSES": ("cat",)}}, ("cat",)),  # MMDetection 2
        ({"meta": {"dataset_meta": None}}, None),
        ({"meta": 1}, None),
        ([1], None),
    ],
)
def test_the_classes_of_a_checkpoint(content, classes, write):
    assert checkpoint_classes(write(content)) == classes

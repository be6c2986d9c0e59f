"""Conversion to our layout loses nothing, and a file is written whole or not at all."""

import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.errors import WeightsError
from mmconvnext.weights.detector import match_detector
from mmconvnext.weights.load import (
    check_target,
    in_our_layout,
    load_pretrained,
    match_backbone,
    write_safetensors,
)
from tests.weights.small_files import (
    FILES,
    backbone,
    detector,
    in_mmpretrains_names,
    official,
    same_tensors,
    with_optimizer,
)

OUT = "out.safetensors"
ONE = {"a": torch.ones(1)}


def write_and_read(folder: Path, content: object, **kwargs) -> dict[str, Tensor]:
    return read_checkpoint(write_safetensors(folder / OUT, *in_our_layout(content, "X", **kwargs)))


# Nothing is lost


@pytest.mark.parametrize("name", FILES)
def test_a_converted_file_loads_as_the_original_does(name, tmp_path, lines):
    v2, build = FILES[name]
    content = build()
    torch.save(content, tmp_path / "original.pth")
    write_and_read(tmp_path, content)
    states = []
    for file in ("original.pth", OUT):
        model = backbone(9, v2)
        load_pretrained(model, str(tmp_path / file))
        states.append(model.state_dict())
    assert same_tensors(*states)
    assert not same_tensors(states[0], backbone(9, v2).state_dict())
    counts = [line.partition(" tensors")[0] for line in lines()]
    assert counts[0] == counts[1]
    assert "(official layout, V" in lines()[1]


def test_a_classifier_is_kept_as_a_whole_with_its_data_types_and_the_optimizer_is_not(tmp_path):
    state = {k: v.bfloat16() if v.ndim > 1 else v.half() for k, v in official().items()}
    assert same_tensors(write_and_read(tmp_path, with_optimizer(state)), state)


def test_the_final_norm_and_the_head_get_our_names(tmp_path):
    state = FILES["timm"][1]()
    written = write_and_read(tmp_path, state)
    assert torch.equal(written["norm.weight"], state["head.norm.weight"])
    assert torch.equal(written["head.bias"], state["head.fc.bias"])
    assert len(written) == len(state)


@pytest.mark.parametrize("module", ["", "module."])
@pytest.mark.parametrize("theirs", [False, True], ids=["official", "mmpretrain"])
def test_a_detector_is_converted_with_all_of_its_parts(module, theirs, tmp_path):
    model = detector()
    state = model.state_dict()
    named = in_mmpretrains_names(state) if theirs else state
    file = {
        "meta": {"epoch": 1},
        "state_dict": {module + k: v for k, v in named.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
        "ema_state_dict": {f"module.{k}": v + 1 for k, v in named.items()},
    }
    written = write_and_read(tmp_path, file)
    assert same_tensors(written, state)
    matched = match_detector(model, written, OUT, must_fill=True).state_dict
    assert same_tensors(matched, match_detector(model, file, "X", must_fill=True).state_dict)
    other = in_our_layout(file, "X", prefix="ema_state_dict.module.backbone")[0]
    assert same_tensors(other, {k: v + 1 for k, v in state.items()})


@pytest.mark.parametrize("optimizer", ["optimizer", "optim_wrapper"])
def test_an_optimizer_beside_the_backbone_is_no_part_of_a_detector(optimizer):
    state = backbone().state_dict()
    file = {"backbone": state, "neck": ONE, optimizer: {"state": {0: {"m": torch.ones(1)}}}}
    wanted = {f"backbone.{k}": v for k, v in state.items()} | {"neck.a": ONE["a"]}
    assert same_tensors(in_our_layout(file, "X")[0], wanted)


def test_one_of_two_backbones_is_no_detector():
    state = official()
    file = {f"{n}_backbone.{k}": v for n in ("rgb", "depth") for k, v in state.items()}
    tensors, notes = in_our_layout(file | {"neck.w": torch.ones(1)}, "X", prefix="rgb_backbone")
    assert same_tensors(tensors, state)
    assert notes["prefix"] == "rgb_backbone."


def without(name: str) -> dict[str, Tensor]:
    return {k: v for k, v in backbone().state_dict().items() if k != name}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: [1], ": .*no named tensors"),
        (lambda: ONE, ": .*no ConvNeXt"),
        (lambda: without("stages.2.1.gamma"), r" .official layout.: .*Missing: stages\.2\.1\.gam"),
        (lambda: without("") | {"stages.2.1.gam": ONE["a"]}, r": Unexpected: stages\.2\.1\.gam"),
        (
            lambda: without("downsample_layers.0.0.weight"),
            ": it is not the whole .* the stem is miss",
        ),
        # whose names and shapes are those of an ordinary one
        (lambda: timm.create_model("test_convnext").state_dict(), ": .* model has .* eps of 1e-5"),
    ],
)
def test_what_is_no_whole_convnext_is_not_converted(content, says):
    with pytest.raises(WeightsError, match=f"cannot convert FILE.*{says}"):
        in_our_layout(content(), "FILE")


# However a state dict is wrapped

NAMES = st.one_of(
    st.sampled_from(("model", "module", "state_dict", "backbone", "student", "_orig_mod", "ema")),
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,7}", fullmatch=True),
)
WRAPPERS = st.lists(st.tuples(st.sampled_from(("nested", "dotted")), NAMES), max_size=5)
OFFICIAL = official(v2=True)


def wrapped(state: dict, wrappers: list[tuple[str, str]]) -> dict:
    """From the inside to the outside; around a nested one lies what trainings save beside it."""
    for kind, name in wrappers:
        if kind == "dotted":
            state = {f"{name}.{key}": value for key, value in state.items()}
        else:
            beside = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
            state = {**beside, name: state}
    return state


@given(WRAPPERS)
@example([])
@example([("nested", "backbone")])
@example([("dotted", "backbone"), ("dotted", "module"), ("nested", "state_dict")])
@example([("nested", "optimizer")])
@example([("dotted", "backbone"), ("nested", "student")])
@example([("dotted", "_orig_mod")])
@settings(deadline=None, max_examples=60)
def test_any_wrapping_is_undone(wrappers):
    file = wrapped(OFFICIAL, wrappers)
    with tempfile.TemporaryDirectory() as folder:
        written = write_and_read(Path(folder), file)
        written = {k.removeprefix("backbone."): v.clone() for k, v in written.items()}
    assert same_tensors(written, OFFICIAL)
    model = backbone(v2=True)
    assert same_tensors(match_backbone(model, written, "X")[0], match_backbone(model, file, "X")[0])


# The file


def test_the_header_tells_the_origin_and_sparse_kernels_are_written_right(tmp_path):
    path = write_safetensors(tmp_path / OUT, *in_our_layout(FILES["FCMAE"][1](), "https://a/b.pt"))
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {
            "source": "https://a/b.pt",
            "source_layout": "official FCMAE, sparse",
            "prefix": "model.encoder.",
            "layout": "mmconvnext",
        }
    plain = {k: v for k, v in official(v2=True).items() if not k.startswith(("norm", "head"))}
    assert same_tensors({k: v for k, v in read_checkpoint(path).items() if k in plain}, plain)


def test_tensors_that_share_memory_or_have_gaps(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "one": base,
        "same": base,
        "part": base[1:3, ::2],
        "transposed": base.T,
        "repeated": base[:1].expand(3, 6),
        "scalar": base[1, 1],
        "empty": base[:0],
    }
    path = write_safetensors(tmp_path / OUT, tensors, {})
    assert same_tensors(read_checkpoint(path), tensors)


def test_a_new_folder_is_made_in_the_home_folder_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write_safetensors(f"~/a/b/{OUT}", ONE, {})
    assert path == tmp_path / "a" / "b" / OUT
    assert [p.name for p in path.parent.iterdir()] == [OUT]
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode  # as readable as others


def test_a_file_that_is_there_is_replaced_only_on_request(tmp_path):
    path = tmp_path / OUT
    path.write_bytes(b"precious")
    for refused in (lambda: write_safetensors(path, {}, {}), lambda: check_target(path)):
        with pytest.raises(WeightsError, match=r"out\.safetensors is there already; .* --force"):
            refused()
    assert path.read_bytes() == b"precious"
    write_safetensors(path, ONE, {}, force=True)
    assert same_tensors(read_checkpoint(path), ONE)


def test_a_file_may_be_converted_onto_itself(tmp_path):
    path = tmp_path / OUT
    state = FILES["timm"][1]()
    safetensors.torch.save_file(state, path)
    write_safetensors(path, *in_our_layout(read_checkpoint(path, mmap=True), "X"), force=True)
    assert same_tensors(read_checkpoint(path), in_our_layout(state, "X")[0])


@pytest.mark.parametrize("name", ["out.pth", "out", "out.safetensors.gz", "safetensors"])
def test_another_ending_is_refused(name, tmp_path):
    with pytest.raises(WeightsError, match=r"must end in \.safetensors"):
        write_safetensors(tmp_path / name, ONE, {}, force=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "caught"),
    [(OSError(28, "No space left on device"), WeightsError), (KeyboardInterrupt(), None)],
    ids=["disk", "interrupt"],
)
@pytest.mark.parametrize("there", [False, True])
def test_after_a_failure_all_is_as_before(error, caught, there, tmp_path, monkeypatch):
    if there:
        (tmp_path / OUT).write_bytes(b"precious")
    half_written = []

    def break_off(tensors, part, notes):
        Path(part).write_bytes(b"half")
        half_written.append(part)
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", break_off)
    with pytest.raises(caught or type(error)):
        write_safetensors(tmp_path / OUT, ONE, {}, force=True)
    assert half_written
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"precious"] * there


def test_a_place_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / OUT).mkdir()
    for path, says in ((f"file/{OUT}", "exists"), (OUT, "directory")):
        with pytest.raises(WeightsError, match=rf"cannot write .*{path}: .*{says}"):
            write_safetensors(tmp_path / path, ONE, {}, force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", OUT]

"""Inputs made at random are used or refused by a clear line: there is no other error, no crash.

``MMCONVNEXT_FUZZ=200000 python -m pytest tests/test_fuzz.py -s`` tries that many of them, and
prints how many of each kind were used and refused.
"""

import argparse
import io
import json
import os
import pickle
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from safetensors.torch import save as safetensors_bytes

from mmconvnext.cli.common import OptionsAction
from mmconvnext.compat.checkpoint_io import load_from_local
from mmconvnext.data import prepare
from mmconvnext.data.masks import encode
from mmconvnext.data.objects import SAME_BOX, check_object
from mmconvnext.data.prepare import CheckOptions, check_one
from mmconvnext.engine.config import load_config, merge_options
from mmconvnext.errors import ConfigError, DataError, UserError, WeightsError
from mmconvnext.weights.load import in_our_layout, match_backbone
from tests.data.faulty_coco import clean_files
from tests.weights import small_files

INPUTS = int(os.environ.get("MMCONVNEXT_FUZZ", 1000))
COUNTS: Counter = Counter()


def share(of_all: float):
    """So many of all inputs; the same ones in each run."""
    return settings(
        max_examples=int(INPUTS * of_all),
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def counts() -> Iterator[None]:
    yield
    print(f"\n{dict(sorted(COUNTS.items()))}")


@st.composite
def damaged(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """A file of which some bytes are others, are gone, doubled, or another file's."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 4]))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        end = start + draw(st.sampled_from([1, 1, 1, 2, 8, len(data)]))
        kind = draw(st.sampled_from(["flip", "values", "cut", "double", "splice"]))
        if kind == "flip" and data:
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "values":
            data[start:end] = draw(st.binary(max_size=8))
        elif kind == "cut":
            del data[start:end]
        elif kind == "double":
            data[start:start] = data[start : min(end, start + 100)]
        elif kind == "splice":
            data[start:] = draw(st.sampled_from(files))[start:]
    return bytes(data)


class Hostile:
    """Makes the folder ``MARK`` where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (MARK,)


class Wrong:
    """Of a tensor, with arguments that torch refuses in several lines."""

    def __reduce__(self):
        return torch.Tensor, ("x", "y")


MARK = "ran-from-a-checkpoint"


def checkpoint_files() -> list[bytes]:
    from mmengine.logging import HistoryBuffer

    state = {"backbone.weight": torch.arange(6.0).view(2, 3), "head.bias": torch.zeros(2)}
    meta = {"cfg": "model = dict(type='A')\n", "epoch": 3, "seed": np.int64(1)}
    training = {"state_dict": state, "meta": meta, "message_hub": {"loss": HistoryBuffer()}}
    hostile = {"state_dict": state, "optimizer": Hostile()}
    code = {"state_dict": state, "meta": {"cfg": f"import os\nos.mkdir({MARK!r})\n"}}
    files = [safetensors_bytes(state), pickle.dumps(hostile)]
    for content in (state, training, hostile, code, {"a": Wrong()}):
        for is_zip in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
            files.append(buffer.getvalue())
    return files


def test_bytes_of_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @share(0.3)
    @given(data=damaged(checkpoint_files()))
    def check(data):
        path = tmp_path / "file.pth"
        path.write_bytes(data)
        try:
            load_from_local(str(path), "cpu")
            COUNTS["checkpoint used"] += 1
            message = ""
        except UserError as error:
            COUNTS["checkpoint refused"] += 1
            message = str(error)
        assert "\n" not in message
        assert not (tmp_path / MARK).exists()

    check()


MODEL = small_files.backbone()
STATES = [
    small_files.official(),
    small_files.with_optimizer(small_files.official()),
    small_files.timm(),
    small_files.mmpretrain(),
    small_files.fcmae(),
    {f"module.backbone.{k}": v for k, v in MODEL.state_dict().items()} | {"neck.w": torch.ones(2)},
]
PARTS = ["stages", "0", "1", "dwconv", "norm", "gamma", "weight", "bias", "model", "ema", "", "grn"]


@st.composite
def states(draw: st.DrawFn) -> object:
    """A state dict of a known layout of which tensors have other names, shapes or types."""
    content = dict(draw(st.sampled_from(STATES)))
    inner = draw(st.sampled_from([key for key in content if isinstance(content[key], dict)] + [""]))
    state = dict(content[inner]) if inner else content
    for _ in range(draw(st.sampled_from([0, 1, 1, 2, 4]))):
        name = draw(st.sampled_from(sorted(state)) if state else st.just(""))
        value = state.pop(name, torch.zeros(1))
        kind = draw(st.sampled_from(["drop", "rename", "reshape", "type", "double", "prefix"]))
        if kind == "rename":
            parts = name.split(".")
            parts[draw(st.integers(0, len(parts) - 1))] = draw(st.sampled_from(PARTS))
            state[".".join(parts)] = value
        elif kind == "reshape":
            state[name] = torch.zeros(draw(st.lists(st.integers(0, 3), max_size=5)))
        elif kind == "type":
            odd = [None, 1, "x", [], {}, torch.zeros(2, dtype=torch.int64), np.zeros(3)]
            state[draw(st.sampled_from([name, 7, ("a",)]))] = draw(st.sampled_from(odd))
            state = {str(key): entry for key, entry in state.items()}
        elif kind == "double":
            state[name] = state[f"{draw(st.sampled_from(PARTS))}.{name}"] = value
        elif kind == "prefix":
            prefix = draw(st.sampled_from(PARTS))
            state = {f"{prefix}.{key}": entry for key, entry in state.items()} | {name: value}
    return {**content, inner: state} if inner else state


@share(0.15)
@given(content=states())
def test_layouts_of_weights(content):
    shapes = {name: tensor.shape for name, tensor in MODEL.state_dict().items()}
    try:
        matched = match_backbone(MODEL, content, "file").state_dict
        COUNTS["weights used"] += 1
        assert {name: tensor.shape for name, tensor in matched.items()}.items() <= shapes.items()
    except WeightsError:
        COUNTS["weights refused"] += 1
    try:
        converted, _ = in_our_layout(content, "file")
        COUNTS["weights converted"] += 1
        assert all(isinstance(tensor, torch.Tensor) for tensor in converted.values())
    except WeightsError:
        COUNTS["weights not converted"] += 1


ODD = [float("nan"), float("inf"), 1e300, 10**40, -1e-9, None, "3", "x", True, [], {}, "", b"0"]
NUMBERS = st.one_of(st.floats(-20, 120), st.integers(-20, 120), st.sampled_from(ODD))
POINTS = st.lists(st.integers(-2, 82), min_size=4, max_size=12)
COUNTS_OF_CODES = st.one_of(
    st.lists(st.integers(0, 2400), max_size=6).map(lambda runs: [*runs, 4800 - sum(runs)]),
    st.lists(NUMBERS, max_size=5),
    st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12),
    st.binary(max_size=8),
)
CODES = st.fixed_dictionaries(
    {
        "size": st.sampled_from([[60, 80]] * 5 + [[80, 60], [], [60, "80"]]),
        "counts": COUNTS_OF_CODES,
    }
)
BOXES = st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 30)] * 2).map(list)


DEEPER = st.sampled_from([True, True, False])


@st.composite
def objects(draw: st.DrawFn) -> dict:
    """An object in a picture of 60 x 80 pixels, of which up to three values are others."""
    masks = st.one_of(st.lists(POINTS, min_size=1, max_size=3), CODES)
    entry = {"bbox": draw(BOXES), "segmentation": draw(masks), "area": 50, "iscrowd": 0}
    for _ in range(draw(st.sampled_from([0, 1, 1, 2, 3]))):
        node, key = entry, draw(st.sampled_from([*entry, "ignore"]))
        while isinstance(inner := _inner(node, key), list) and draw(DEEPER):
            node, key = inner, draw(st.integers(0, max(len(inner) - 1, 0)))
        if isinstance(node, dict) or len(node) > key:
            node[key] = draw(NUMBERS)
    return entry


def _inner(node: dict | list, key: str | int) -> object:
    return node.get(key) if isinstance(node, dict) else [*node, None][key]


@share(0.3)
@given(entry=objects(), masks=st.booleans())
def test_boxes_polygons_and_run_lengths(entry, masks):
    used, _ = check_object(entry, 80, 60, masks)
    if used is None:
        COUNTS["object refused"] += 1
        return
    COUNTS["object used"] += 1
    x, y, width, height = used["bbox"]
    inside = (min(x + width, 80) - max(x, 0)) * (min(y + height, 60) - max(y, 0))
    assert inside >= SAME_BOX * width * height > 0
    assert used["area"] > 0
    assert used["iscrowd"] in (0, 1)
    if masks:
        pixels = coco_mask.decode(encode(used["segmentation"], 80, 60))
        assert pixels.shape == (60, 80)
        assert pixels.any()


@st.composite
def annotation_files(draw: st.DrawFn) -> bytes:
    return draw(damaged([json.dumps(draw(clean_files())).encode()]))


def test_bytes_of_an_annotation_file(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "cache_folder", lambda: tmp_path)

    @share(0.15)
    @given(data=annotation_files())
    def check(data):
        path = tmp_path / "file.json"
        path.write_bytes(data)
        try:
            check_one(path, None, CheckOptions()).raise_refusals()
            COUNTS["annotations used"] += 1
            message = str(path)
        except DataError as error:
            COUNTS["annotations refused"] += 1
            message = str(error)
        assert str(path) in message
        for kept in tmp_path.glob("*.json"):
            kept.unlink()

    check()


CONFIG = load_config("mask_rcnn_convnext_shapes")
WORDS = [
    "model",
    "backbone",
    "arch",
    "type",
    "train_cfg",
    "0",
    "-1",
    "_delete_",
    "",
    "custom_hooks",
]
VALUES = [
    "1",
    "[1,2",
    "(1,)",
    "None",
    "dict(a=1)",
    "[{'type':'X'}]",
    "{{x}}",
    "$x",
    "=",
    "'",
    "[[]]",
]


def refuse(message: str) -> None:
    raise ConfigError(message)


@share(0.1)
@given(
    keys=st.lists(st.lists(st.sampled_from([*WORDS, *CONFIG]), max_size=4), max_size=2),
    values=st.lists(st.one_of(st.sampled_from(VALUES), st.text(max_size=6)), min_size=2),
)
def test_options_of_a_config(keys, values):
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="*", action=OptionsAction)
    parser.error = refuse
    pairs = [f"{'.'.join(key)}={value}" for key, value in zip(keys, values, strict=False)]
    try:
        options = parser.parse_args(["--cfg-options", *pairs]).cfg_options
        notes = merge_options(cfg := CONFIG.copy(), options)
        COUNTS["options used"] += 1
    except ConfigError as error:
        COUNTS["options refused"] += 1
        notes, options, cfg = [str(error)], {}, CONFIG
    assert all(note.strip() for note in notes)
    assert {key.partition(".")[0] for key in options or ()} - {"_delete_"} <= {*cfg}

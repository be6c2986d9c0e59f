import json
from types import SimpleNamespace

import pytest

from mmconvnext.deploy import sessions

openvino = pytest.importorskip("openvino", reason="pip install mmconvnext[export]")


def hint(precision):
    (found,) = sessions.precision_hint(json.dumps({"precision": precision})).values()
    return found


@pytest.fixture
def cpu(monkeypatch):
    """Make OpenVINO's CPU have some capabilities; gives the warnings that are logged."""
    lines = []
    logger = SimpleNamespace(warning=lines.append)
    monkeypatch.setattr(sessions, "logging", SimpleNamespace(getLogger=lambda name: logger))

    def have(*known):
        core = SimpleNamespace(get_property=lambda device, name: [*known])
        monkeypatch.setattr(openvino, "Core", lambda: core)
        return lines

    sessions._log_once.cache_clear()
    return have


@pytest.mark.parametrize(("precision", "capability"), [("bf16", "BF16"), ("f16", "FP16")])
def test_what_the_cpu_has_no_instructions_for_is_float32_and_said_once(cpu, precision, capability):
    log = cpu("FP32", "INT8")
    assert hint(precision) == hint(precision) == "f32"
    (line,) = log
    assert f"no instructions for {precision} (OpenVINO: FP32, INT8)" in line
    assert "computed in float32" in line
    cpu("FP32", capability)
    assert hint(precision) == precision
    assert log == [line]


def test_int8_leaves_the_rest_in_float32(cpu):
    log = cpu("FP32", "INT8", "BF16")
    assert hint("int8") == hint("f32") == "f32"
    assert not log
    cpu("FP32")
    assert hint("int8") == "f32"
    assert "no instructions for int8" in log[0]
    assert sessions.unsupported("f32") is None

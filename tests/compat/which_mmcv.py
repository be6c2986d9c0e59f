"""The tests run with mmcv-lite and with compiled mmcv alike; some have a point only with one."""

import pytest

from mmconvnext.compat import mmcv_ext


def stand_in_only(reason: str) -> pytest.MarkDecorator:
    """Skip a test, or one of its parameters, where compiled mmcv is installed."""
    compiled = not mmcv_ext.is_used()
    return pytest.mark.skipif(compiled, reason=f"compiled mmcv is installed: {reason}")


def parameter_of_stand_in(value: object, reason: str):
    """A parameter that compiled mmcv does not take."""
    return pytest.param(value, marks=stand_in_only(reason))

import sys

import pytest

from tests.weights import measure_loading

ARCH = "small"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_loading_needs_little_more_memory_than_the_file(tmp_path):
    """The time, which depends on what else runs: python tests/weights/measure_loading.py."""
    path = tmp_path / "weights.pth"
    measure_loading.write_file(ARCH, path)
    assert 0 < measure_loading.memory_above_the_model(ARCH, path) <= 1.3

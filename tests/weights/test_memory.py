import subprocess
import sys

import pytest

from tests.weights import measure_loading

ARCH = "small"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_loading_needs_little_more_memory_than_the_file(tmp_path):
    """The time, which depends on what else runs: python tests/weights/measure_loading.py."""
    path = tmp_path / "weights.pth"
    measure_loading.write_file(ARCH, path)
    command = [sys.executable, measure_loading.__file__, "--arch", ARCH, "--file", str(path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    above = float(process.stdout.rpartition("memory ")[2])
    assert 0 < above <= 1.3 * path.stat().st_size / measure_loading.MIB

"""Comparisons with peers, not installed: `python -m benchmarks` runs them, `--help` lists them."""

import mmconvnext  # noqa: F401 (serves mmcv's operators before a comparison imports them)

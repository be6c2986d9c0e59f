"""Comparisons with peers: not installed; `python tools/benchmark.py` runs them."""

import mmconvnext  # noqa: F401 (serves mmcv's operators before a comparison imports them)

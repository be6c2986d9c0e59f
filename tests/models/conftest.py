"""What the tests of models share."""

from __future__ import annotations

import pytest

from mmconvnext.models import fusing


@pytest.fixture
def always_fused(monkeypatch):
    """Blocks in pieces whatever their size: maps as small as in tests go layer by layer."""
    monkeypatch.setattr(fusing, "FUSED_FROM_BYTES", 0)
    monkeypatch.setattr(fusing, "TRAINED_FUSED_FROM_BYTES", 0)

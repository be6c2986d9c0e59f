"""A config's text is formatted once, not for each checkpoint of a training.

Needed by: mmengine 0.10, whose ``pretty_text`` calls yapf, which takes long, whenever it is asked.
"""

from functools import lru_cache
from types import ModuleType
from typing import Any


def install(config: ModuleType) -> None:
    """Let ``mmengine.config.config`` keep the last texts that yapf has formatted."""
    format_code = config.FormatCode

    @lru_cache(maxsize=8)
    def formatted(text: str, **style: Any) -> tuple[str, bool]:
        return format_code(text, style_config=style)

    config.FormatCode = lambda text, style_config, **_: formatted(text, **style_config)

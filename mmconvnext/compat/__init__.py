"""What makes MMEngine and MMCV run on today's torch."""


def install() -> None:
    """Placeholder until the patches land."""

"""A page that shows what a detector finds and where it fails."""

from mmconvnext.report.page import write_report

__all__ = ["write_report"]

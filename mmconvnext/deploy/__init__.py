"""Detectors as files for other runtimes: export, quantisation, and a runtime without torch."""

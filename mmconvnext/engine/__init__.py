"""From a command line to a running MMEngine runner."""

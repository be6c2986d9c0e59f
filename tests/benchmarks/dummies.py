"""Candidates for tests."""

from __future__ import annotations

import importlib
import os
import signal
import time

import numpy as np

MIB = 2**20


class Dummy:
    """Adds up numbers, in a way that arguments tell."""

    def __init__(self, offset=0.0, seconds=0.0, memory=0, fails_in="", module="os"):
        importlib.import_module(module)
        print("libraries print on stdout")
        self.offset, self.seconds, self.memory, self.fails_in = offset, seconds, memory, fails_in
        self.runs = 0
        self._fail("build")

    def _fail(self, place):
        if self.fails_in == place:
            raise ZeroDivisionError(f"this dummy fails in {place}")

    def check(self):
        print("and again")
        self._fail("check")
        return {"sum": np.arange(4.0) + self.offset, "environment": np.ones(2)}

    def facts(self):
        return {"runs": self.runs, "threads": float(os.environ["OMP_NUM_THREADS"])}

    def run(self):
        self._fail("run")
        if self.fails_in == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails_in == "exit":
            print("the last words of this dummy")
            os._exit(3)
        self.runs += 1
        if self.memory:
            np.ones(self.memory * MIB // 8)
        time.sleep(self.seconds)


class Plain:
    """Has nothing to tell but that it ran."""

    def run(self):
        pass

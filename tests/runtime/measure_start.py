"""Seconds from the start of Python to what a picture shows, of an exported file, and CPU seconds:
``python tests/runtime/measure_start.py MODEL PICTURE [CACHE]``, five processes one after the other.
"""

import subprocess
import sys

CODE = """
import sys, time

def note(what):
    print(f"{what} {time.perf_counter() - clock:.2f} s (CPU {time.process_time():.2f})", end="; ")

clock = time.perf_counter()
from mmconvnext.runtime import Detector
note("imported")
model, picture, *cache = sys.argv[1:]
detector = Detector(model, cache=cache[0] if cache else None)
note("opened")
found = detector(picture)
note("first picture")
print(len(found), "objects; torch" if "torch" in sys.modules else "objects; no torch")
"""

if __name__ == "__main__":
    for _ in range(5):
        subprocess.run([sys.executable, "-c", CODE, *sys.argv[1:]], check=True)

"""A service under load: ``python tests/serving/measure_load.py MODEL``.

It runs in a process of its own, with the exported file MODEL and without torch. Each client sends a
picture (made up, of one of some sizes), waits for the answer and sends the next one; one of twenty
is no picture. Memory of the process is taken each second; in the last four fifths a line through it
has a slope and its standard error. The exit code is 1 where an answer is not the expected one, or
memory grows by more than 1 MiB a minute beyond three times that error.
"""

import argparse
import http.client
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

SIZES = ((160, 120), (120, 160), (200, 200))
GROWTH = 1.0  # MiB a minute
EXPECTED = {200, 415}


def pictures():
    """Noise as JPEG."""
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        image = cv2.resize(rng.integers(0, 256, (9, 9, 3), np.uint8), (width, height))
        yield cv2.imencode(".jpg", image)[1].tobytes()


def ask(port, end, first, results):
    """Send pictures one after the other; results get the status and the seconds of each."""
    contents, number = [*pictures()], first
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    while time.monotonic() < end:
        number += 1
        data = b"no picture" if number % 20 == 0 else contents[number % len(contents)]
        start = time.perf_counter()
        try:
            connection.request("POST", "/predict", data)
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException) as error:
            status = type(error).__name__
            connection.close()
        results.append((status, time.perf_counter() - start))


def resident(pid):
    """MiB of memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def slope(seconds, values):
    """Slope of a line through some points, and its standard error, each for a minute."""
    x, y = np.array(seconds) / 60, np.array(values)
    (by, _), covariance = np.polyfit(x, y, 1, cov=True)
    return by, covariance[0, 0] ** 0.5


def report(results, points, seconds):
    """Print a table; whether all is well."""
    statuses = Counter(status for status, _ in results)
    took = np.array([each for status, each in results if status == 200])
    p50, p95, p99 = np.percentile(took, (50, 95, 99))
    times, memory = np.array(points[len(points) // 5 :]).T
    by, error = slope(times, memory)
    counts = ", ".join(f"{count} with status {status}" for status, count in statuses.items())
    print(f"answers: {counts}; {len(took) / seconds:.1f} predictions a second")
    print(f"seconds of an answer: median {p50:.3f}, 95 % {p95:.3f}, 99 % {p99:.3f}")
    print(f"memory: {memory[0]:.1f} MiB after a fifth, {memory[-1]:.1f} at the end, ", end="")
    print(f"{by:+.2f} ± {error:.2f} MiB a minute")
    return set(statuses) <= EXPECTED and by <= GROWTH + 3 * error


def main():
    """Start the service, ask, and stop it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--max-batch", type=int, default=1)
    args = parser.parse_args()
    command = [sys.executable, "-m", "mmconvnext.runtime", "serve", args.model, "--port", "0"]
    command += ["--max-batch", str(args.max_batch)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
        start, results, points = time.monotonic(), [], []
        end = start + args.seconds
        threads = [
            threading.Thread(target=ask, args=(port, end, 7 * number, results))
            for number in range(args.clients)
        ]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            points.append((time.monotonic() - start, resident(process.pid)))
            time.sleep(min(1, args.seconds / 20))
        for thread in threads:
            thread.join()
        process.terminate()
    return 0 if report(results, points, args.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())

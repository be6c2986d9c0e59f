"""`mmconvnext quantize` with the package of this checkout, whichever is installed."""

from checkout import run

if __name__ == "__main__":
    run("quantize")

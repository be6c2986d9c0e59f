"""How near candidates come to what the machine's matrix products reached in the same rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.comparison import Results
from benchmarks.report import Column


def relate_to_gemm(results: Results) -> None:
    """Add speeds to the facts of each candidate.

    Args:
        results: of a comparison with :func:`benchmarks.roofline.reference`, whose
            candidates have the fact ``flops``: operations of a run, a multiply-add is two. They
            get ``flops_per_second`` and ``share_of_gemm``, the median over the rounds of the speed
            divided by that of the matrix product in the same round.
    """
    operations = results.reference_facts["operations"]
    for name, facts in results.facts.items():
        flops = facts["flops"]
        pairs = zip(results.timings[name], results.reference, strict=True)
        shares = [(flops / theirs.seconds) / (operations / gemm.seconds) for theirs, gemm in pairs]
        facts["flops_per_second"] = flops / results.median_seconds(name)
        facts["share_of_gemm"] = statistics.median(shares)


def columns() -> list[Column]:
    """Return the columns of these speeds."""
    return [Column("GFLOP/s", _speed), Column("of GEMM", _share)]


def note(tables: Sequence[Results]) -> str:
    """Explain the column ``of GEMM``."""
    gemm = ", ".join(f"{_gemm_speed(each) / 1e9:.0f} GFLOP/s" for each in tables)
    return (
        f"of GEMM: of the machine's fastest matrix product in the same round, which reached {gemm}"
    )


def _gemm_speed(results: Results) -> float:
    seconds = statistics.median(timing.seconds for timing in results.reference)
    return results.reference_facts["operations"] / seconds


def _speed(results: Results, name: str) -> str:
    return f"{results.facts[name]['flops_per_second'] / 1e9:.0f}"


def _share(results: Results, name: str) -> str:
    return f"{results.facts[name]['share_of_gemm']:.0%}"

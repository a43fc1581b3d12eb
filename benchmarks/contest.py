"""Runs contenders one after the other, each in a process of its own, for several rounds."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

__all__ = ["FEW", "Absent", "Found", "Spread", "medians", "race", "ratio", "spread", "tabulate"]

_ROOT = Path(__file__).parents[1]
_BLOCK = 4 * 1024 * 1024  # bytes
_LONGEST = 150  # seconds of a measurement, after which something is wrong
_ABSENT = 3  # exit status of a contender that is not installed
FEW = 3  # rounds that tell a ratio of ten or more well enough

Absent = ImportError
Found: TypeAlias = dict[str, list[dict[str, float]]]  # figures of each contender, a dictionary a round


class Spread(NamedTuple):
    """A figure over all rounds."""

    median: float
    low: float
    high: float


def race(
    function: str,
    contenders: Sequence[str],
    rounds: int,
    *,
    slow: Collection[str] = (),
    uvloop: bool = False,
    **arguments: Any,
) -> Found:
    """Let contenders do the same work in turns.

    Args:
        function: ``module:function`` of a coroutine that takes the contender's name and the arguments, and returns
            figures.
        contenders: Their names.
        rounds: How many rounds; in each, everybody has one turn, and nobody always goes first.
        slow: Who takes part in the first `FEW` rounds only.
        uvloop: Whether to run on uvloop.
        **arguments: What the function takes.

    Returns:
        The figures of each contender, a dictionary a round. Who is not installed is left out.
    """
    found: Found = {}
    absent: set[str] = set()
    for turn in range(rounds):
        order = [*contenders[turn % len(contenders) :], *contenders[: turn % len(contenders)]]
        for name in order:
            if name in absent or (name in slow and turn >= FEW):
                continue
            figures = _run(function, name, turn, uvloop=uvloop, arguments=arguments)
            if figures is None:
                absent.add(name)
            else:
                found.setdefault(name, []).append(figures)
    return {name: found[name] for name in contenders if name in found}


def _run(
    function: str, name: str, turn: int, *, uvloop: bool, arguments: Mapping[str, Any]
) -> dict[str, float] | None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.contest", function, name, json.dumps(arguments), str(int(uvloop))],
        cwd=_ROOT,
        env=_environment(turn),
        stdout=subprocess.PIPE,
        check=False,
        text=True,
        timeout=_LONGEST,
    )
    if done.returncode == _ABSENT:
        return None
    if done.returncode:
        raise RuntimeError(f"{function} of {name} with {arguments} exited with {done.returncode}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _environment(turn: int) -> dict[str, str]:
    """In one round everybody has the same seed of hashes, and nobody is watched."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return kept | {"PYTHONHASHSEED": str(turn + 1)}


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure over the rounds."""
    return {key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]}


def spread(figures: Sequence[float]) -> Spread:
    """Return median, smallest and largest."""
    return Spread(statistics.median(figures), min(figures), max(figures))


def ratio(found: Found, over: str, under: str, figure: str) -> Spread:
    """Divide what two contenders needed in the same round, so that what slowed both of them cancels out.

    Args:
        found: What `race` returned.
        over: Whose figure is divided.
        under: By whose.
        figure: Its name.
    """
    pairs = zip(found[over], found[under], strict=False)  # the slow ones have fewer rounds
    return spread([above[figure] / below[figure] for above, below in pairs])


def tabulate(
    found: Found, figure: str, *, case: Mapping[str, Any], to: Sequence[str], digits: int = 2
) -> list[dict[str, Any]]:
    """Make a row for each contender: median and spread of a figure, and its ratio to some contenders' figures.

    Args:
        found: What `race` returned.
        figure: Name of the figure.
        case: What was measured, for the row.
        to: The contenders whose figures are divided by.
        digits: Decimals of the figure.
    """
    rows: list[dict[str, Any]] = []
    for name, each in found.items():
        own = spread([figures[figure] for figures in each])
        row = {**case, "contender": name, figure: round(own.median, digits)}
        row |= {"low": round(own.low, digits), "high": round(own.high, digits)}
        for base in filter(found.__contains__, to):
            quotient = ratio(found, name, base, figure)
            row |= {
                f"to_{base}": _rounded(quotient.median),
                f"to_{base}_spread": f"{_rounded(quotient.low)}-{_rounded(quotient.high)}",
            }
        rows.append(row)
    return rows


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _main(function: str, name: str, arguments: str, uvloop: str) -> int:
    # asyncio reads into 256 kB at a time. The C library maps and unmaps as much for each read, which costs as much as
    # all else, until the process has once freed a larger block: sooner or later each has, so here they all have.
    bytearray(_BLOCK)
    module, _, attribute = function.partition(":")
    work = getattr(importlib.import_module(module), attribute)
    factory = None
    if uvloop == "1":
        factory = importlib.import_module("uvloop").new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            figures = runner.run(work(name, **json.loads(arguments)))
    except Absent as missing:
        print(missing, file=sys.stderr)
        return _ABSENT
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))

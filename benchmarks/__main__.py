"""Run benchmarks by name, or all but the longest; ``check`` compares ratios with the library's thresholds."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from . import calls, page, ray_data, walks
from .check import BOUNDS, WORKLOADS, check
from .harness import QUICK, Row, measure

BENCHMARKS: dict[str, Callable[[int], list[Row]]] = {
    **{name: functools.partial(measure, workload) for name, workload in WORKLOADS.items()},
    "calls": calls.count,
    "walks": walks.count,
    "ray": ray_data.measure,
}
LONG = ("map", "limits", "ray")  # run only if named


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks; return 1 if a threshold is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = f"some of {', '.join(BENCHMARKS)}; all but {' and '.join(LONG)} if there are none"
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{names}. Or check, and some of {', '.join(BOUNDS)}"
    )
    parser.add_argument("--json", action="store_true", help="print results as JSON, a row in each line")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default: 5)")
    parser.add_argument(
        "--quick", action="store_true", help="one short turn of every benchmark, to see that all of them run"
    )
    parser.add_argument(
        "--write", type=Path, metavar="DOCS", help="keep results in DOCS/performance, write page and charts"
    )
    parser.add_argument(
        "--render", type=Path, metavar="DOCS", help="write page and charts from the results kept; run nothing"
    )
    arguments = parser.parse_args(argv)
    if arguments.quick:
        os.environ[QUICK] = "1"
        arguments.rounds = 1
    if arguments.names[:1] == ["check"]:
        _refuse_unknown(parser, arguments.names[1:], BOUNDS)
        return int(check(arguments.names[1:], arguments.rounds) > 0)
    _refuse_unknown(parser, arguments.names, BENCHMARKS)
    if arguments.render is not None:
        page.write(page.load(arguments.render), arguments.render)
        return 0
    for name in arguments.names or [each for each in BENCHMARKS if each not in LONG]:
        began = time.monotonic()
        rows = BENCHMARKS[name](arguments.rounds)
        _print(name, rows, as_json=arguments.json)
        print(f"{name} took {time.monotonic() - began:.0f} s", file=sys.stderr)
        if arguments.write is not None:  # after each benchmark, so that an interrupted run keeps its results
            kept = page.load(arguments.write)
            kept.surroundings = page.surroundings()
            kept.rows[name] = rows
            page.save(kept, arguments.write)
            page.write(kept, arguments.write)
    return 0


def _refuse_unknown(parser: argparse.ArgumentParser, names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            parser.error(f"no benchmark {name!r}; there are {', '.join(known)}")


def _print(name: str, rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(msgspec.json.encode({"benchmark": name, **msgspec.to_builtins(row)}).decode())
        return
    function = WORKLOADS[name].work if name in WORKLOADS else BENCHMARKS[name]
    print(f"\n{name}: {(function.__doc__ or '').partition(chr(10))[0]}\n\n{page.table(rows)}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())

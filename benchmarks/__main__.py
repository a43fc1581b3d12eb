"""Run benchmarks by name."""

from __future__ import annotations

import argparse
import json
import sys

from . import bulk, fan_out, growth, limits, paced, small, start
from . import map as map_

BENCHMARKS = {
    "bulk": bulk.run,
    "paced": paced.run,
    "small": small.run,
    "start": start.run,
    "growth": growth.run,
    "fan_out": fan_out.run,
    "map": map_.run,
    "limits": limits.run,
}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks named, or all; print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all if none"
    )
    parser.add_argument("--json", action="store_true", help="print results as JSON lines")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each measurement (default: 7)")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    for name in arguments.names or BENCHMARKS:
        rows = BENCHMARKS[name](arguments.rounds)
        if arguments.json:
            for row in rows:
                print(json.dumps({"benchmark": name, **row}))
            continue
        print(f"\n{name}: {(sys.modules[BENCHMARKS[name].__module__].__doc__ or '').partition(chr(10))[0]}")
        for row in rows:
            print("  " + "  ".join(f"{key}={value}" for key, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Run benchmarks by name; ``check`` instead holds what they find against the library's thresholds."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection

from . import bulk, calls, check, decode, fan_out, first, growth, limits, memory, paced, small, start
from . import map as map_

BENCHMARKS = {
    "decode": decode.run,
    "bulk": bulk.run,
    "paced": paced.run,
    "small": small.run,
    "start": start.run,
    "first": first.run,
    "memory": memory.run,
    "growth": growth.run,
    "calls": calls.run,
    "fan_out": fan_out.run,
    "map": map_.run,
    "limits": limits.run,
}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks named, or all; print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all if none; or check"
    )
    parser.add_argument("--json", action="store_true", help="print results as JSON lines")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default: 5)")
    arguments = parser.parse_args(argv)
    if arguments.names[:1] == ["check"]:
        _known(parser, arguments.names[1:], check.PARTS)
        return int(check.check(arguments.names[1:], arguments.rounds) > 0)
    _known(parser, arguments.names, BENCHMARKS)
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


def _known(parser: argparse.ArgumentParser, names: Collection[str], there: Collection[str]) -> None:
    for name in names:
        if name not in there:
            parser.error(f"no benchmark {name!r}; there are {', '.join(there)}")


if __name__ == "__main__":
    sys.exit(main())

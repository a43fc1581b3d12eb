"""Run benchmarks by name; ``check`` instead holds what they find against the library's thresholds."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from . import bulk, calls, check, decode, fan_out, first, growth, limits, memory, paced, page, small, start
from . import map as map_
from .contest import FEW
from .results import load, save, surroundings
from .timing import QUICK

BENCHMARKS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "bulk": bulk.run,
    "decode": decode.run,
    "growth": growth.run,
    "calls": calls.run,
    "paced": paced.run,
    "small": small.run,
    "first": first.run,
    "memory": memory.run,
    "start": start.run,
    "fan_out": lambda rounds: fan_out.run(min(rounds, FEW)),
    "map": map_.run,
    "limits": limits.run,
}
# What belongs to very many requests takes long, and is run by its name alone.
LONG = ("map", "limits")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks named, or all but the longest; print tables, or JSON, or write a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"some of {', '.join(BENCHMARKS)}; all but {' and '.join(LONG)} if none. Or check, and some of "
        f"{', '.join(check.PARTS)}",
    )
    parser.add_argument("--json", action="store_true", help="print results as JSON lines")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one short turn of everything, to see it run")
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
        _known(parser, arguments.names[1:], check.PARTS)
        return int(check.check(arguments.names[1:], arguments.rounds) > 0)
    _known(parser, arguments.names, BENCHMARKS)
    if arguments.render is not None:
        page.write(load(arguments.render / page.RESULTS), arguments.render)
        return 0
    found: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.names or [each for each in BENCHMARKS if each not in LONG]:
        began = time.monotonic()
        found[name] = BENCHMARKS[name](arguments.rounds)
        _tell(name, found[name], as_json=arguments.json)
        print(f"{name} took {time.monotonic() - began:.0f} s", file=sys.stderr)
        if arguments.write is not None:  # after each: a run that is broken off leaves what it has
            kept = load(arguments.write / page.RESULTS)
            kept.surroundings = surroundings()
            kept.rows[name] = found[name]
            save(kept, arguments.write / page.RESULTS)
            page.write(kept, arguments.write)
    return 0


def _known(parser: argparse.ArgumentParser, names: Collection[str], there: Collection[str]) -> None:
    for name in names:
        if name not in there:
            parser.error(f"no benchmark {name!r}; there are {', '.join(there)}")


def _tell(name: str, rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(json.dumps({"benchmark": name, **row}))
        return
    module = sys.modules["benchmarks." + name]
    print(f"\n{name}: {(module.__doc__ or '').partition(chr(10))[0]}")
    for row in rows:
        print("  " + "  ".join(f"{key}={value}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())

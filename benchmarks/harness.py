"""Races contenders: in every round, each contender does the same work once, in a new process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec

from .server import running_server

FEW = 3  # rounds for slow contenders, which take ten times as long as others
SLOW = ("openai", "gradient", "sse-client")  # prefixes of the names of slow contenders
QUICK = "BENCHMARKS_QUICK"  # set to 1 in the environment of a smoke run: one short turn of everything
_MIN_SECONDS = 0.3  # minimum CPU time of a measurement
_MIN_TURNS, _LONG = 3, 1.0  # minimum number of turns, unless the first turns took `_LONG` seconds
_MAX_SECONDS = 150  # a contender that takes longer counts as hanging
_ABSENT = 3  # exit status of a contender that is not installed
_FREED = 4 * 1024 * 1024  # bytes of the block that each process frees at first; see `_main`

Figures: TypeAlias = dict[str, float]
Work: TypeAlias = Callable[..., Coroutine[Any, Any, Figures]]
Race: TypeAlias = dict[str, list[Figures]]
"""The figures of each contender, one dictionary a round."""


class Case(NamedTuple):
    """A size or shape of a workload."""

    label: str  # name of the case in tables
    path: str  # what the server sends; empty if the case needs no server
    arguments: dict[str, Any]  # arguments for the workload's function
    loop: str
    max_rounds: int


def case(
    label: str, path: str = "", *, loop: str = "asyncio", max_rounds: int = 1000, **arguments: Any
) -> Case:
    """Make a case; ``max_rounds`` limits the rounds of a case that takes long or hardly varies."""
    return Case(label, path, arguments, loop, max_rounds)


class Workload(NamedTuple):
    """Work that contenders do in turn, case by case; see `workload`."""

    work: Work
    contenders: tuple[str, ...]
    cases: tuple[Case, ...]
    figures: dict[str, str]
    to: tuple[str, ...]


def workload(
    *contenders: str,
    cases: Iterable[Case],
    figures: dict[str, str] | None = None,
    to: Sequence[str] = ("ours",),
) -> Callable[[Work], Workload]:
    """Declare a coroutine function as a workload; the first line of its docstring is the title.

    The function takes a contender's name, the server's URL if the case has a path, and the arguments of the
    case. It returns figures; `figures` maps their names to their titles in tables. `to` names the contenders
    by whose figures all figures are divided.
    """
    return lambda work: Workload(work, contenders, tuple(cases), figures or {"cpu_us": ""}, tuple(to))


class Spread(NamedTuple):
    """A figure over all rounds."""

    median: float
    low: float
    high: float


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A figure of a contender in one case, over all rounds."""

    column: str  # the case and the figure
    contender: str  # or another thing that was measured or counted
    value: Spread
    ratios: dict[str, Spread] = {}  # the figure divided by that of other contenders, by their names


def measure(load: Workload, rounds: int) -> list[Row]:
    """Race all contenders in all cases; in a smoke run only in the first case."""
    rows: list[Row] = []
    for each in load.cases[:1] if is_quick() else load.cases:
        rows += tabulate(load, each, race(load, each, rounds))
    return rows


def race(load: Workload, case: Case, rounds: int, contenders: Sequence[str] = ()) -> Race:
    """Race the given contenders of a workload, or all of them, in one case; skip those that are not installed.

    Every contender has a turn in each round, and each round begins with another contender.
    """
    names = [*(contenders or load.contenders)]
    found: Race = {}
    absent: set[str] = set()
    with running_server() if case.path else contextlib.nullcontext("") as url:
        arguments = {**case.arguments, **({"url": f"{url}/{case.path}"} if case.path else {})}
        for turn in range(min(rounds, case.max_rounds)):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                if name in absent or (name.startswith(SLOW) and turn >= FEW):
                    continue
                figures = _take_turn(load.work, name, arguments, case.loop, turn + 1)
                if figures is None:
                    absent.add(name)
                else:
                    found.setdefault(name, []).append(figures)
    return {name: found[name] for name in names if name in found}


def _take_turn(work: Work, name: str, arguments: dict[str, Any], loop: str, seed: int) -> Figures | None:
    """Run the work in a process; None if the contender is not installed."""
    where = f"{work.__module__}:{work.__name__}"
    # In one round all contenders have the same hash seed. Coverage is not measured while they work.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.harness", where, name, json.dumps(arguments), loop],
        cwd=Path(__file__).parents[1],
        env=environment | {"PYTHONHASHSEED": str(seed)},
        stdout=subprocess.PIPE,
        check=False,
        text=True,
        timeout=_MAX_SECONDS,
    )
    if done.returncode == _ABSENT:
        return None
    if done.returncode:
        raise RuntimeError(f"{where} of {name} with {arguments} exited with {done.returncode}")
    figures: Figures = json.loads(done.stdout)
    return figures


def tabulate(load: Workload, case: Case, found: Race) -> list[Row]:
    """Make a row for each figure of each contender."""
    return [
        Row(
            column=", ".join(filter(None, [case.label, title])),
            contender=name,
            value=_rounded(spread([each[figure] for each in rounds])),
            ratios={
                base: _rounded(ratio(found, name, base, figure))
                for base in load.to
                # There is no ratio to a figure that is 0, or to a contender that was not raced.
                if all(each[figure] for each in found.get(base, [{figure: 0.0}]))
            },
        )
        for figure, title in load.figures.items()
        for name, rounds in found.items()
    ]


def counted(column: str, contender: str, value: float) -> Row:
    """Make a row for a figure that is the same in every round."""
    return Row(column=column, contender=contender, value=Spread(value, value, value))


def ratio(found: Race, over: str, under: str, figure: str) -> Spread:
    """Divide the figures of two contenders round by round, so that disturbances of both cancel out."""
    pairs = zip(found[over], found[under], strict=False)  # slow contenders have fewer rounds
    return spread([above[figure] / below[figure] for above, below in pairs])


def spread(figures: Sequence[float]) -> Spread:
    """Return the median, the smallest and the largest figure."""
    return Spread(statistics.median(figures), min(figures), max(figures))


def _rounded(value: Spread) -> Spread:
    return Spread(*(float(f"{figure:.5g}") for figure in value))


def is_quick() -> bool:
    """Whether this is a smoke run."""
    return os.environ.get(QUICK) == "1"


async def quickest(work: Callable[[], Awaitable[object]], *, min_seconds: float = _MIN_SECONDS) -> float:
    """Repeat the work for at least ``min_seconds`` of CPU; return the CPU seconds of the quickest turn.

    Disturbances only make turns slower. The first turn warms up and does not count.
    """
    await work()
    collect_garbage()
    costs: list[float] = []
    while not costs or (
        not is_quick() and (sum(costs) < min_seconds or (len(costs) < _MIN_TURNS and sum(costs) < _LONG))
    ):
        started = time.process_time()
        await work()
        costs.append(time.process_time() - started)
    return min(costs)


def collect_garbage() -> None:
    """Collect garbage, and exempt the objects that remain from later collections.

    The collector stays on. Without the freeze it would visit the classes of each imported library again and
    again, which would favour contenders that import little, whatever their work costs.
    """
    gc.collect()
    gc.freeze()


def resident() -> int:
    """Return the resident memory of this process in bytes, after a garbage collection."""
    gc.collect()
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()
    except OSError:  # without /proc, return the largest size so far
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _main(where: str, name: str, arguments: str, loop: str) -> int:
    """Take one contender's turn, in this process."""
    # asyncio reads into blocks of 256 kB. Until a process has freed a larger block, the C library maps and
    # unmaps memory for each read, which doubles the cost. Every process frees such a block sooner or later.
    # Here every process frees one at first, so that the figures do not depend on chance.
    bytearray(_FREED)
    module, _, function = where.partition(":")
    load: Workload = getattr(importlib.import_module(module), function)
    try:
        factory = importlib.import_module("uvloop").new_event_loop if loop == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            figures = runner.run(load.work(name, **json.loads(arguments)))
    except ImportError as missing:
        print(missing, file=sys.stderr)
        return _ABSENT
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))

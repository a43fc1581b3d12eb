"""Compares the library with its thresholds: ratios between contenders in one run, each with a bound.

``python -m benchmarks check`` checks every threshold, ``python -m benchmarks check bulk decode`` two groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from . import in_memory, loopback, runs
from .harness import Race, race, ratio, spread

WORKLOADS = loopback.WORKLOADS | in_memory.WORKLOADS | runs.WORKLOADS


class Bound(NamedTuple):
    """The limit of a figure, or of the ratio of two contenders' figures."""

    workload: str
    case: str  # label of the case
    what: str  # a contender, or the ratio of two: "naive / ours"
    sign: str  # ">=" or "<="
    limit: float  # the last value that is allowed
    figure: str = ""  # empty for the first figure of the workload

    def judge(self, found: Race) -> tuple[bool, str]:
        """Return whether the median is within the bound, and a line to print."""
        names = WORKLOADS[self.workload].figures
        figure = self.figure or next(iter(names))
        what = ", ".join(filter(None, (self.what, self.case, names[figure])))
        over, _, under = self.what.partition(" / ")
        missing = sorted({over, under} - {"", *found})
        if missing:
            return False, f"FAIL  {what}: {' and '.join(missing)} not installed"
        value = ratio(found, over, under, figure) if under else spread([each[figure] for each in found[over]])
        passed = value.median >= self.limit if self.sign == ">=" else value.median <= self.limit
        median, low, high = (f"{each:.3g}" for each in value)
        outcome = "PASS" if passed else "FAIL"
        return passed, f"{outcome}  {what}: {median} {self.sign} {self.limit:g}  ({low} to {high})"


LOOPS = ("asyncio", "uvloop")
BOUNDS: dict[str, list[Bound]] = {
    "bulk": [
        Bound("bulk", f"{events} a chunk, 8,000 tokens", what, ">=", limit)
        for events, naive, sdk in (("1 event", 0.9, 35), ("32 events", 0.85, 60))
        for what, limit in (
            ("naive / ours", naive),
            ("naive / ours, text", 1.0),
            ("naive / ours, raw", 1.0),
            ("openai / ours", sdk),
            ("gradient / ours", sdk),
        )
    ],
    "chat": [
        Bound("chat", f"{loop}, 100 streams", f"{base} / {ours}", ">=", limit)
        for loop in LOOPS
        for base, limit in (("naive", 0.95), ("drained", 0.9))
        for ours in ("ours", "ours, text")
    ],
    "decode": [
        *(
            Bound("decode", f"{stream}, 1,000", f"{ours} / msgspec", "<=", limit, read)
            for stream in in_memory.STREAMS
            for read, chunks, assembled in (("64 kB", 1.6, 2.0), ("one event", 2.3, 2.8))
            for ours, limit in (("ours", chunks), ("ours, assembled", assembled))
        ),
        *(
            Bound("decode", f"{stream}, 1,000", "openai, assembled / ours, assembled", ">=", 100, "64 kB")
            for stream in ("text", "logprobs")
        ),
        *(
            Bound("growth", "", contender, "<=", 1.05, "ratio")
            for contender in WORKLOADS["growth"].contenders
            if not contender.startswith("no library")
        ),
    ],
    "paced": [
        Bound("paced", f"{loop}, 100 streams", f"ours / {base}", "<=", limit)
        for loop in LOOPS
        for base, limit in (("naive", 1.1), ("drained", 1.2))
    ],
    "partial": [
        Bound("partial", "22 kB", "jiter / ours", ">=", 15),
        Bound("partial", "22 kB", "openai, events / ours, events", ">=", 15),
    ],
    "run": [Bound("run", "10 tools", "run / by hand", "<=", 1.8)],
    "small": [
        *(
            Bound("small", f"300 bytes, {at_once} at a time, 512 in a turn", what, sign, limit)
            for at_once in (1, 64)
            for what, sign, limit in (("ours / naive", "<=", 1.25), ("openai / ours", ">=", 8))
        ),
        Bound("small", "4,000 tokens, top 20", "openai / ours", ">=", 30),
    ],
    "answers": [
        Bound("answers", f"{size} bytes, {at_once} at a time", "ours, parse / ours", "<=", 1.3)
        for size in (300, 3000)
        for at_once in (1, 64)
    ],
    "start": [
        Bound("start", "CPU, ms", "ours / openai", "<=", 0.2),
        Bound("start", "CPU, ms", "ours / asyncio, msgspec", "<=", 1.4),
    ],
    "sync": [
        Bound("sync", "a call", "Gradient", "<=", 150, "more_us"),
        *(
            Bound("sync", f"a chunk of 8,000, {each} an HTTP chunk", ours, "<=", 15, "more_us")
            for each in ("1 event", "32 events")
            for ours in ("Gradient", "Gradient, text")
        ),
    ],
    "memory": [
        Bound("memory", case, "ours / drained", "<=", 1.3)
        for case in ("heap, 1 stream", "heap, 1,000 streams", "resident, 1,000 streams")
    ],
}


def check(groups: Sequence[str], rounds: int) -> int:
    """Measure and print each bound of the groups, or of all groups; return how many bounds are missed."""
    missed = 0
    for group in groups or BOUNDS:
        print(f"{group}:")
        for workload, case in dict.fromkeys((bound.workload, bound.case) for bound in BOUNDS[group]):
            bounds = [bound for bound in BOUNDS[group] if (bound.workload, bound.case) == (workload, case)]
            needed = {name for bound in bounds for name in bound.what.split(" / ")}
            load = WORKLOADS[workload]
            (size,) = (each for each in load.cases if each.label == case)
            found = race(load, size, rounds, [name for name in load.contenders if name in needed])
            for bound in bounds:
                passed, line = bound.judge(found)
                print(f"  {line}", flush=True)
                missed += not passed
    print(f"{missed} missed" if missed else "all kept")
    return missed

"""Whether the library keeps to its thresholds: ratios of CPU in one run, each with its bound.

``python -m benchmarks check`` measures what every threshold needs, ``python -m benchmarks check bulk decode`` that of
some parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from . import bulk, decode, growth, memory, paced, small, start
from .contest import FEW, Spread, ratio, spread
from .server import running_server

__all__ = ["PARTS", "Verdict", "check"]

Figures = Iterator["Verdict"]


class Verdict(NamedTuple):
    """A threshold, and what was measured.

    Attributes:
        what: Of what it is a ratio.
        found: Median, smallest and largest over the rounds.
        bound: What the median is held against.
        least: Whether the bound is the least allowed; otherwise it is the most.
    """

    what: str
    found: Spread
    bound: float
    least: bool

    @property
    def passed(self) -> bool:
        """Whether the median keeps to the bound."""
        return self.found.median >= self.bound if self.least else self.found.median <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.least else "<="
        median, low, high = (f"{figure:.3g}" for figure in self.found)
        verdict = "PASS" if self.passed else "FAIL"
        return f"{verdict}  {self.what}: {median} {sign} {self.bound:g}  ({low} to {high})"


def _at_least(what: str, found: Spread, bound: float) -> Verdict:
    return Verdict(what, found, bound, least=True)


def _at_most(what: str, found: Spread, bound: float) -> Verdict:
    return Verdict(what, found, bound, least=False)


def _bulk(rounds: int) -> Figures:
    contenders = ("ours", "naive", "ours, text", "ours, raw")
    with running_server() as url:
        for together, least, sdks in ((1, 0.9, 35), (32, 0.85, 60)):
            at = f"{together} event{'s' * (together > 1)} a chunk"
            found = bulk.contend(url, contenders, rounds, tokens=8_000, together=together)
            yield _at_least(f"naive / ours, chunks, {at}", ratio(found, "naive", "ours", "cpu_us"), least)
            yield _at_least(f"naive / ours, text, {at}", ratio(found, "naive", "ours, text", "cpu_us"), 1.0)
            yield _at_least(f"naive / ours, raw, {at}", ratio(found, "naive", "ours, raw", "cpu_us"), 1.0)
            found = bulk.contend(
                url, ("ours", "openai", "gradient"), min(rounds, FEW), tokens=4_000, together=together
            )
            for sdk in ("openai", "gradient"):
                yield _at_least(f"{sdk} / ours, chunks, {at}", ratio(found, sdk, "ours", "cpu_us"), sdks)


def _decode(rounds: int) -> Figures:
    contenders = ("msgspec", "ours", "ours, assembled")
    for stream in decode.STREAMS:
        found = decode.contend(stream, contenders, rounds, tokens=1_000, reads=("64 kB", "one event"))
        for read, chunks, assembled in (("64 kB", 1.6, 2.0), ("one event", 2.3, 2.8)):
            for name, most in (("ours", chunks), ("ours, assembled", assembled)):
                what = f"{name} / msgspec, {stream}, {read} a read"
                yield _at_most(what, ratio(found, name, "msgspec", read), most)
    for stream in ("text", "logprobs"):
        pair = ("openai, assembled", "ours, assembled")
        found = decode.contend(stream, pair, min(rounds, FEW), tokens=1_000, reads=("64 kB",))
        yield _at_least(f"openai / ours, assembled, {stream}", ratio(found, *pair, "64 kB"), 100)
    for case, each in growth.contend(tuple(growth.CASES), min(rounds, FEW)).items():
        grown = spread([figures["ratio"] for figures in each])
        yield _at_most(f"16,000 chunks / 1,000 chunks, {case}", grown, 1.05)


def _paced(rounds: int) -> Figures:
    with running_server() as url:
        for uvloop in (False, True):
            loop = "uvloop" if uvloop else "asyncio"
            found = paced.contend(url, ("ours", "naive", "drained"), rounds, streams=100, uvloop=uvloop)
            for base, most in (("naive", 1.1), ("drained", 1.2)):
                yield _at_most(
                    f"ours / {base}, 100 streams, {loop}", ratio(found, "ours", base, "cpu_us"), most
                )


def _small(rounds: int) -> Figures:
    with running_server() as url:
        for at_once in small.AT_ONCE:
            at = f"{at_once} at a time"
            found = small.contend(url, ("ours", "naive"), rounds, at_once=at_once, count=512)
            yield _at_most(
                f"ours / aiohttp with msgspec, {at}", ratio(found, "ours", "naive", "cpu_us"), 1.25
            )
            found = small.contend(url, ("ours", "openai"), min(rounds, FEW), at_once=at_once, count=128)
            yield _at_least(f"openai / ours, {at}", ratio(found, "openai", "ours", "cpu_us"), 8)
        found = small.contend_large(url, ("ours", "openai"), min(rounds, FEW), tokens=4_000)
        yield _at_least("openai / ours, 4,000 tokens of top 20", ratio(found, "openai", "ours", "cpu_us"), 30)


def _start(rounds: int) -> Figures:
    found = start.contend(("ours", "asyncio, msgspec", "openai"), rounds)
    yield _at_most("ours / openai, import and construction", ratio(found, "ours", "openai", "cpu_ms"), 0.2)
    yield _at_most("ours / import asyncio, msgspec", ratio(found, "ours", "asyncio, msgspec", "cpu_ms"), 1.4)


def _memory(_rounds: int) -> Figures:
    with running_server() as url:
        for streams, counted in ((1, "heap"), (1_000, "heap"), (1_000, "resident")):
            found = memory.contend(url, ("ours", "drained"), FEW, streams=streams, counted=counted)
            what = f"ours / aiohttp alone, {counted} of {streams:,} open stream{'s' * (streams > 1)}"
            yield _at_most(what, ratio(found, "ours", "drained", "bytes"), 1.3)


PARTS: dict[str, Callable[[int], Figures]] = {
    "bulk": _bulk,
    "decode": _decode,
    "paced": _paced,
    "small": _small,
    "start": _start,
    "memory": _memory,
}


def check(parts: Sequence[str], rounds: int) -> int:
    """Measure, and print each threshold with its figure; return how many are missed.

    Args:
        parts: Names of what to check; everything if there are none.
        rounds: Of each measurement.
    """
    missed = 0
    for part in parts or PARTS:
        print(f"{part}:")
        for verdict in PARTS[part](rounds):
            print(f"  {verdict}", flush=True)
            missed += not verdict.passed
    print(f"{missed} missed" if missed else "all kept")
    return missed

"""Run the soak: ``python -m benchmarks.soak MINUTES``."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
import time
import warnings
from collections import Counter
from typing import Any

import aiohttp

from gradient_async import AsyncGradient, Limits, Retry
from gradient_async.session.body import Body

from ..clients import MESSAGES
from ..harness import resident
from ..server import running_server
from .scenarios import LIMIT
from .worker import HANG, Tally, Worker

_REST = 1.2  # seconds between two clients; the library's timers fire at least once a second
_MAX_GROWTH = 8.0  # MiB by which memory may grow, from the second quarter of the time to the last


def existing() -> Counter[str]:
    """Count objects of the library's classes, tasks, and timers."""
    gc.collect()
    classes: list[type] = [type(each) for each in gc.get_objects()]
    counts = Counter(each.__name__ for each in classes if str(each.__module__).startswith("gradient_async."))
    counts["tasks"] = len(asyncio.all_tasks())
    # Only asyncio's own loops have this list of timers.
    timers = getattr(asyncio.get_running_loop(), "_scheduled", ())
    counts["timers"] = sum(not timer.cancelled() for timer in timers)
    return counts


def growth(rest: list[dict[str, Any]]) -> float:
    """Return how much memory grew from the second quarter of the time to the last, in MiB."""
    sizes: list[float] = [row["MiB"] for row in rest]
    quarter = len(sizes) // 4
    if not quarter:
        return 0.0
    return round(sum(sizes[-quarter:]) / quarter - sum(sizes[quarter : 2 * quarter]) / quarter, 1)


async def _use_client(url: str, tally: Tally, dice: random.Random, numbers: range, until: float) -> None:
    """Let the workers with these numbers share a client, until the loop's clock reads ``until``."""
    loop = asyncio.get_running_loop()
    async with AsyncGradient(
        inference_endpoint=url,
        model_access_key="any",
        retry=Retry(max_backoff=0.05),
        limits=Limits(event_bytes=LIMIT, error_body_seconds=0.3),
        max_connections=max(10, len(numbers) // 2),
    ) as client:
        workers = [Worker(client, tally, random.Random(dice.random()), number) for number in numbers]
        running = [asyncio.create_task(worker.run(until)) for worker in workers]
        watching = asyncio.create_task(tally.watch_loop())
        _, stuck = await asyncio.wait(running, timeout=until - loop.time() + HANG)
        watching.cancel()
        if stuck:
            tally.blame("hang", "at the end", f"{len(stuck)} workers")
        if not gc.isenabled():
            held = sum(isinstance(each, Body) and not each.closed for each in gc.get_objects())
            if held:
                tally.blame("held by a cycle", "at rest", f"{held} connections")


async def _use_clients(
    url: str, tally: Tally, dice: random.Random, workers: int, seconds: float
) -> list[dict[str, Any]]:
    """Use one client after another; after each client, no object of a call may be left."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: tally.blame("loop", context["message"], str(context)))
    # A first call makes the objects that the library makes once and keeps, so that they are in `before`.
    async with AsyncGradient(inference_endpoint=url, model_access_key="any") as client:
        headers = {"x-soak-id": "first"}
        await client.chat.completions.create(model="call_ok", messages=MESSAGES, extra_headers=headers)
    await asyncio.sleep(_REST)
    before = existing()
    began = loop.time()
    rest: list[dict[str, Any]] = []
    while loop.time() < began + seconds:
        if not rest:
            gc.disable()  # with the first client, so that a connection in a reference cycle stays open and is found
        first = (len(rest) + 1) * 10_000
        until = min(began + seconds, loop.time() + max(5.0, seconds / 20))
        try:
            await _use_client(url, tally, dice, range(first, first + workers), until)
        finally:
            gc.enable()
        await asyncio.sleep(_REST)
        left = dict(existing() - before)
        if left:
            tally.blame("left over", "at rest", left)
        row = {
            "seconds": round(loop.time() - began),
            "exchanges": tally.outcomes.total(),
            "MiB": round(resident() / 2**20, 1),
        }
        rest.append(row | {"left": left})
    return rest


async def _soak(minutes: float, workers: int, seed: int) -> dict[str, Any]:
    """Run the soak; return a report."""
    drops = 0
    others: Counter[str] = Counter()

    def note(message: Warning | str, category: type[Warning], *_rest: Any) -> None:
        nonlocal drops
        if category is ResourceWarning and "was dropped before its end" in str(message):
            drops += 1
        else:
            others[f"{category.__name__}: {message}"] += 1

    tally = Tally()
    began = time.monotonic()
    with running_server("benchmarks.soak.scenarios") as url, warnings.catch_warnings():
        setattr(warnings, "showwarning", note)  # noqa: B010  # its type has names for arguments
        warnings.simplefilter("always")
        rest = await _use_clients(url, tally, random.Random(seed), workers, minutes * 60)
        async with aiohttp.request("GET", url) as reply:
            server: dict[str, Any] = await reply.json()
    seconds = time.monotonic() - began
    grown = growth(rest)
    faults = {
        **tally.wrong,
        **server["faults"],
        "connections left open": server["open"],
        "drops without a warning": max(0, tally.dropped - drops),
        "warnings without a drop": max(0, drops - tally.dropped),
        "other warnings": others.total(),
        "memory grew, MiB": round(grown) if grown > _MAX_GROWTH else 0,
    }
    return {
        "seconds": round(seconds, 1),
        "exchanges": tally.outcomes.total(),
        "per second": round(tally.outcomes.total() / seconds),
        "requests": server["requests"],
        "connections accepted": server["accepted"],
        "outcomes": dict(tally.outcomes.most_common()),
        "streams dropped": tally.dropped,
        "loop late at most, s": round(tally.latest, 2),
        "other warnings": dict(others),
        "memory grew by, MiB": grown,
        "at rest": rest,
        "faults": {name: count for name, count in faults.items() if count},
        "examples": tally.examples,
    }


def show(report: dict[str, Any]) -> None:
    """Print a report for people."""
    for name, value in report.items():
        lines: list[str] = []
        if name == "at rest":
            lines = [", ".join(f"{key} {each or 'nothing'}" for key, each in row.items()) for row in value]
        elif name in {"outcomes", "other warnings", "faults"}:
            lines = [f"{count:>9,}  {each}" for each, count in value.items()]
        elif name == "examples":
            lines = value
        print(f"  {name}: {value or 'none'}" if not lines else "\n    ".join([f"  {name}:", *lines]))


def main(argv: list[str] | None = None) -> int:
    """Run the soak; return 1 if there were faults."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("minutes", nargs="?", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--streams", type=int, default=300, help="exchanges at a time (default: 300)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random numbers (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args(argv)
    began = time.strftime("%H:%M:%S")
    report = asyncio.run(_soak(arguments.minutes, arguments.streams, arguments.seed))
    if arguments.json:
        print(json.dumps(report))
    else:
        print(f"soak of {arguments.minutes:g} minutes, {arguments.streams} at a time, begun {began}")
        show(report)
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""Run the soak: ``python -m benchmarks.soak MINUTES``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import random
import resource
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from gradient_async import AsyncGradient, ChatCompletionStream, Limits, Retry
from gradient_async.session.body import Body
from gradient_async.session.reply import Reply
from gradient_async.session.trace import Trace
from gradient_async.stream import StreamReader

from . import server
from .scenarios import LIMIT
from .worker import HANG, Tally, Worker

OURS = (ChatCompletionStream, StreamReader, Reply, Body, Trace)
REST = 1.2  # seconds between two clients; what looks once a second has looked by then
MOST_GROWTH = 8.0  # MiB that memory may grow by, from the second quarter of the time to the last


class Server:
    """The server's process."""

    async def start(self) -> str:
        """Start it; return its URL."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.soak",
            "serve",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return (await self._line()).strip()

    async def _line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            return (await self._process.stdout.readline()).decode()

    async def report(self) -> dict[str, Any]:
        """Ask for its counts."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        report: dict[str, Any] = json.loads(await self._line())
        return report

    async def stop(self) -> int | None:
        """Let it end; return its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        return self._process.returncode


def memory() -> float:
    """Resident memory of this process now, in MiB."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * resource.getpagesize() / 2**20


def left_over(before: set[asyncio.Task[Any]]) -> dict[str, int]:
    """Count what should not be there once everything has ended: our objects, tasks, timers."""
    gc.collect()
    loop = asyncio.get_running_loop()
    left = Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, OURS))
    left["tasks"] = len(asyncio.all_tasks() - before)
    # Only asyncio's own loops tell of their timers.
    left["timers"] = sum(not timer.cancelled() for timer in getattr(loop, "_scheduled", ()))
    return {name: count for name, count in left.items() if count}


def unreleased() -> int:
    """Count connections that only a reference cycle holds, when nothing is under way."""
    return sum(isinstance(thing, Body) and not thing.closed for thing in gc.get_objects())


class Soak:
    """Workers against one client after another, and what is seen between them.

    Args:
        url: Where the server is.
        workers: How many exchanges at a time.
        seed: What chance begins with.
    """

    def __init__(self, url: str, workers: int, seed: int) -> None:
        self.tally = Tally()
        self.rest: list[dict[str, Any]] = []
        self._url = url
        self._workers = workers
        self._dice = random.Random(seed)
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._blame)
        self._began = self._loop.time()
        self._tasks = asyncio.all_tasks()

    def _blame(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Note what the loop complains of."""
        self.tally.blame("loop", context["message"], {name: str(value) for name, value in context.items()})

    async def run(self, seconds: float) -> None:
        """Run for so long; clients are made anew now and then."""
        until = self._began + seconds
        while self._loop.time() < until:
            # Cycles show where nobody collects them.
            collecting = bool(self.rest)
            if not collecting:
                gc.disable()
            try:
                await self._share(min(until, self._loop.time() + max(5.0, seconds / 20)))
            finally:
                gc.enable()
            await asyncio.sleep(REST)
            left = left_over(self._tasks)
            self.rest.append(
                {
                    "seconds": round(self._loop.time() - self._began),
                    "exchanges": self.tally.outcomes.total(),
                    "MiB": round(memory(), 1),
                    "left": left,
                }
            )
            if left:
                self.tally.blame("left over", "at rest", left)

    async def _share(self, until: float) -> None:
        """Work with one client until then."""
        share = len(self.rest) + 1
        async with AsyncGradient(
            inference_endpoint=self._url,
            model_access_key="any",
            retry=Retry(max_backoff=0.05),
            limits=Limits(event_bytes=LIMIT, error_body_seconds=0.3),
            max_connections=max(10, self._workers // 2),
        ) as client:
            running = [
                asyncio.create_task(
                    Worker(client, self.tally, random.Random(self._dice.random()), share * 10_000 + n).run(
                        until
                    )
                )
                for n in range(self._workers)
            ]
            watching = asyncio.create_task(self.tally.watch_loop())
            _, stuck = await asyncio.wait(running, timeout=until - self._loop.time() + HANG)
            watching.cancel()
            if stuck:
                self.tally.blame("hang", "at the end", f"{len(stuck)} workers")
            if not gc.isenabled() and (held := unreleased()):
                self.tally.blame("held by a cycle", "at rest", f"{held} connections")


def growth(rest: list[dict[str, Any]]) -> float:
    """How much memory grew from the second quarter of the time to the last, in MiB."""
    sizes: list[float] = [row["MiB"] for row in rest]
    quarter = len(sizes) // 4
    if not quarter:
        return 0.0
    return round(sum(sizes[-quarter:]) / quarter - sum(sizes[quarter : 2 * quarter]) / quarter, 1)


async def soak(minutes: float, workers: int, seed: int) -> dict[str, Any]:
    """Run it; return what was seen."""
    dropped: Counter[str] = Counter()

    def note(message: Warning | str, category: type[Warning], *_rest: Any) -> None:
        ours = category is ResourceWarning and "was dropped before its end" in str(message)
        dropped["ours" if ours else f"{category.__name__}: {message}"] += 1

    host = Server()
    run = Soak(await host.start(), workers, seed)
    began = time.monotonic()
    with warnings.catch_warnings():
        setattr(warnings, "showwarning", note)  # noqa: B010  # its type has names for arguments
        warnings.simplefilter("always")
        await run.run(minutes * 60)
    seconds = time.monotonic() - began
    report = await host.report()
    tally = run.tally
    exchanges = tally.outcomes.total()
    faults = dict(tally.wrong) | report["faults"]
    warned = dropped.pop("ours", 0)
    faults |= {
        "connections left open": report["open"],
        "server failed": int(await host.stop() != 0),
        "drops without a warning": max(0, tally.dropped - warned),
        "warnings without a drop": max(0, warned - tally.dropped),
        "other warnings": dropped.total(),
        "memory grew, MiB": round(grown) if (grown := growth(run.rest)) > MOST_GROWTH else 0,
    }
    return {
        "seconds": round(seconds, 1),
        "exchanges": exchanges,
        "per second": round(exchanges / seconds),
        "requests": report["requests"],
        "connections accepted": report["accepted"],
        "outcomes": dict(tally.outcomes.most_common()),
        "streams dropped": tally.dropped,
        "loop late at most, s": round(tally.latest, 2),
        "other warnings": dict(dropped),
        "memory grew by, MiB": grown,
        "at rest": run.rest,
        "faults": {name: count for name, count in faults.items() if count},
        "examples": tally.examples,
    }


def show(report: dict[str, Any]) -> None:
    """Print a report for people."""
    for name, value in report.items():
        if name in {"outcomes", "faults"} and value:
            print(f"  {name}:")
            for what, count in value.items():
                print(f"    {count:>9,}  {what}")
        elif name == "at rest":
            print("  at rest, between two clients:")
            print(f"    {'seconds':>9}{'exchanges':>12}{'MiB':>8}  left over")
            for row in value:
                left = row["left"] or "nothing"
                print(f"    {row['seconds']:>9,}{row['exchanges']:>12,}{row['MiB']:>8}  {left}")
        elif name == "examples":
            for example in value:
                print(f"  {example}")
        else:
            print(f"  {name}: {value or 'none'}")


def main(argv: list[str] | None = None) -> int:
    """Run the soak; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("minutes", nargs="?", default="10", help="how long (default: 10)")
    parser.add_argument("--streams", type=int, default=300, help="exchanges at a time (default: 300)")
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args(argv)
    if arguments.minutes == "serve":
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(server.main())
        return 0
    began = time.strftime("%H:%M:%S")
    report = asyncio.run(soak(float(arguments.minutes), arguments.streams, arguments.seed))
    if arguments.json:
        print(json.dumps(report))
    else:
        print(f"soak of {arguments.minutes} minutes, {arguments.streams} at a time, begun {began}")
        show(report)
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
